// The numbers of the answer that is being generated: measured here while it runs, the server's own at its end.

const WINDOW_MS = 3000; // tokens/s are those of so long

const show = (id, text) => (document.getElementById(id).textContent = text);
const percent = (share) => `${Math.round(100 * share)} %`;

export class Live {
  #started = performance.now();
  #times = []; // of tokens within the window
  #num = 0;
  #drafted = 0;

  constructor() {
    for (const id of ["speed", "tokens", "first-token", "prompt-speed", "from-drafts", "accepted"]) show(id, "-");
    showPositions([]);
  }

  push(tokens) {
    const now = performance.now();
    for (const token of tokens) {
      if (token.id === null) continue;
      if (!this.#num++) show("first-token", `${((now - this.#started) / 1000).toFixed(2)} s`);
      this.#drafted += token.drafted;
      this.#times.push(now);
    }
    while (this.#times.length && now - this.#times[0] > WINDOW_MS) this.#times.shift();
    const seconds = (now - this.#times[0]) / 1000;
    if (seconds > 0.2) show("speed", ((this.#times.length - 1) / seconds).toFixed(1));
    show("tokens", String(this.#num));
    if (this.#num) show("from-drafts", percent(this.#drafted / this.#num));
  }

  end(timings) {
    show("speed", timings.predicted_per_second.toFixed(1));
    show("prompt-speed", timings.prompt_per_second.toFixed(0));
    const { draft_n: drafted, draft_n_accepted: accepted } = timings;
    show("accepted", drafted ? `${accepted} of ${drafted}` : "none drafted");
    showPositions(timings.acceptance_by_position);
  }
}

function showPositions(shares) {
  const items = shares.map((share, i) => {
    const item = document.createElement("li");
    const meter = document.createElement("meter");
    meter.value = share;
    meter.setAttribute("aria-label", `up to draft ${i + 1}`);
    item.append(String(i + 1), meter, percent(share));
    return item;
  });
  const none = document.createElement("li");
  none.textContent = "no drafts yet";
  document.getElementById("positions").replaceChildren(...(items.length ? items : [none]));
}
