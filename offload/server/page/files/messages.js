// The conversation as elements of the page.

import { Tint } from "./tint.js";

const SHOWN_EVERY_MS = 50; // laying out a long answer takes time, so not for each token
const log = document.getElementById("log");

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

function article(role, name) {
  document.getElementById("empty")?.remove();
  const made = element("article", role);
  made.append(element("h3", "", name));
  log.append(made);
  log.scrollTop = log.scrollHeight;
  return made;
}

export function showUser(text) {
  article("user", "You").append(element("div", "text", text));
}

export function clear() {
  log.replaceChildren();
}

// An answer as it grows.
export class Answer {
  text = "";
  #waiting = []; // [where, text] that is not shown yet
  #timer = null;
  #tint = new Tint();
  #article = article("assistant", "Model");
  #body = element("div", "text");
  #reasoning = null;

  constructor() {
    this.#article.setAttribute("aria-busy", "true"); // read out when it is complete
    this.#article.append(this.#body);
  }

  push(choice) {
    this.#tint.push(choice.tokens ?? []);
    const { content, reasoning_content: reasoning } = choice.delta;
    if (reasoning) this.#waiting.push([this.#thoughts(), reasoning]);
    if (content) this.#waiting.push([this.#body, content]);
    this.text += content ?? "";
    this.#timer ??= setTimeout(() => this.#showWaiting(), SHOWN_EVERY_MS);
  }

  // Marks the end; `note` says why, if it is not plain.
  end(note = "") {
    this.#showWaiting();
    this.#article.setAttribute("aria-busy", "false");
    if (note) this.#article.append(element("p", "note", note));
  }

  fail(message, retry) {
    this.end();
    const box = element("div", "error");
    box.setAttribute("role", "alert");
    const button = element("button", "", "Try again");
    button.type = "button";
    button.addEventListener("click", () => {
      this.#article.remove();
      retry();
    });
    box.append(element("p", "", message), button);
    this.#article.append(box);
    log.scrollTop = log.scrollHeight;
  }

  #thoughts() {
    if (!this.#reasoning) {
      const fold = element("details", "reasoning");
      this.#reasoning = element("div", "text");
      fold.append(element("summary", "", "Reasoning"), this.#reasoning);
      this.#body.before(fold);
    }
    return this.#reasoning;
  }

  #showWaiting() {
    clearTimeout(this.#timer);
    this.#timer = null;
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
    for (const [place, text] of this.#waiting.splice(0)) this.#show(place, text);
    if (atEnd) log.scrollTop = log.scrollHeight;
  }

  #show(place, text) {
    for (const [run, drafted] of this.#tint.runs(text)) {
      const last = place.lastChild;
      if (last && (last.className === "drafted") === drafted) last.firstChild.data += run;
      else place.append(element("span", drafted ? "drafted" : "", run));
    }
  }
}
