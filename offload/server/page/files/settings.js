// What the user has set, kept in the browser; the API key only until the tab is closed.

const DEFAULTS = { temperature: "0.8", "max-tokens": "1024", drafting: "auto", thinking: true };
const THEMES = ["auto", "light", "dark"];
const field = (id) => document.getElementById(id);

// Storage may be switched off: then nothing is kept.
function load(store, name) {
  try {
    return JSON.parse(window[store].getItem(name));
  } catch {
    return null;
  }
}

function save(store, name, value) {
  try {
    window[store].setItem(name, JSON.stringify(value));
  } catch {
    // not kept
  }
}

// Fills the fields and keeps what is changed. `onTheme` is called when colours change.
export function start(onTheme) {
  const kept = { ...DEFAULTS, ...load("localStorage", "settings") };
  for (const id of Object.keys(DEFAULTS)) {
    const input = field(id);
    if (input.type === "checkbox") input.checked = kept[id];
    else input.value = kept[id];
    input.addEventListener("change", () => save("localStorage", "settings", values()));
  }
  field("api-key").value = load("sessionStorage", "key") ?? "";
  field("api-key").addEventListener("change", () => save("sessionStorage", "key", field("api-key").value));
  setTheme(load("localStorage", "theme") ?? "auto", onTheme);
  field("theme").addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length];
    save("localStorage", "theme", next);
    setTheme(next, onTheme);
  });
  field("fields").addEventListener("submit", (event) => event.preventDefault());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", onTheme);
}

function setTheme(theme, onTheme) {
  document.documentElement.dataset.theme = theme;
  field("theme").textContent = `Theme: ${theme}`;
  onTheme();
}

function values() {
  const read = (id) => (field(id).type === "checkbox" ? field(id).checked : field(id).value);
  return Object.fromEntries(Object.keys(DEFAULTS).map((id) => [id, read(id)]));
}

// Fields of a request.
export function parameters() {
  const { temperature, "max-tokens": maxTokens, drafting, thinking } = values();
  const speculative =
    { auto: { type: "auto" }, off: { type: "off" } }[drafting] ?? { type: "auto", max_tokens: Number(drafting) };
  const asked = { enable_thinking: thinking, speculative };
  if (temperature !== "") asked.temperature = Number(temperature);
  if (maxTokens !== "") asked.max_tokens = Number(maxTokens);
  return asked;
}
