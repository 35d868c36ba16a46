// The page: sends what is written, shows what comes, and keeps the conversation.

import * as api from "./api.js";
import * as heat from "./heat.js";
import { Live } from "./live.js";
import { Answer, clear, showUser } from "./messages.js";
import * as settings from "./settings.js";

const HEAT_MS = 1000;
const [prompt, send, stop, status] = ["prompt", "send", "stop", "status"].map((id) => document.getElementById(id));
let conversation = [];
let running = null; // an AbortController

async function connect() {
  const model = document.getElementById("model");
  try {
    const props = await api.get("/props");
    model.textContent = `${props.model_alias}, context ${props.n_ctx}, slots ${props.total_slots}`;
    await heat.refresh();
  } catch (error) {
    model.textContent = error.message;
  }
}

async function answer() {
  const [shown, live, own] = [new Answer(), new Live(), conversation];
  const controller = (running = new AbortController());
  setRunning(true);
  const timer = setInterval(() => heat.refresh().catch(() => {}), HEAT_MS);
  let reason = "";
  try {
    const body = { messages: own, stream: true, return_tokens: true, ...settings.parameters() };
    for await (const chunk of api.chat(body, controller.signal)) {
      for (const choice of chunk.choices) {
        shown.push(choice);
        if (choice.tokens) live.push(choice.tokens);
        reason = choice.finish_reason ?? reason;
      }
      if (chunk.timings) live.end(chunk.timings);
    }
    shown.end(reason === "length" ? "Cut off: max tokens, or the context, is used up." : "");
    status.textContent = "The answer is complete.";
    if (own === conversation) own.push({ role: "assistant", content: shown.text });
  } catch (error) {
    if (error.name === "AbortError") {
      shown.end("Stopped.");
      status.textContent = "Stopped.";
      if (own === conversation) own.push({ role: "assistant", content: shown.text });
    } else {
      shown.fail(error.message, () => running ?? answer());
    }
  } finally {
    clearInterval(timer);
    if (running === controller) setRunning(false);
    heat.refresh().catch(() => {});
  }
}

function setRunning(on) {
  if (!on) running = null;
  send.disabled = on;
  stop.disabled = !on;
}

function submit() {
  const text = prompt.value.trim();
  if (!text || running) return;
  if (conversation.at(-1)?.role === "user") conversation.pop(); // was never answered
  conversation.push({ role: "user", content: text });
  showUser(text);
  prompt.value = "";
  answer();
}

document.getElementById("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    submit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});
stop.addEventListener("click", () => {
  running?.abort();
  prompt.focus();
});
document.getElementById("new-chat").addEventListener("click", () => {
  running?.abort();
  conversation = [];
  clear();
  prompt.focus();
});
document.getElementById("api-key").addEventListener("change", connect);
settings.start(heat.draw);
connect();
prompt.focus();
