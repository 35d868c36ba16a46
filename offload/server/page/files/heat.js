// The experts that the last steps used: a row for each layer, a column for each expert.

import { get } from "./api.js";

const canvas = document.getElementById("heat");
const place = document.getElementById("heat-place");
const summary = document.getElementById("heat-summary");
let heat = { steps: 0, layers: 0, experts: 0, uses: new Uint8Array() };
let cursor = [0, 0]; // layer and expert

export async function refresh() {
  const found = await get("/experts");
  heat = { ...found, uses: Uint8Array.from(atob(found.uses), (c) => c.charCodeAt(0)) };
  draw();
}

// Also where the colours changed.
export function draw() {
  const { steps, layers, experts, uses } = heat;
  if (!steps || !layers) return;
  canvas.width = experts;
  canvas.height = layers;
  canvas.style.height = `${Math.min(480, layers * Math.max(3, Math.min(14, Math.floor(360 / layers))))}px`;
  const [cold, hot] = ["--ground", "--accent"].map(colour);
  const pixels = new ImageData(experts, layers);
  for (let i = 0; i < uses.length; i++) {
    const share = Math.sqrt(uses[i] / steps);
    for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = cold[c] + share * (hot[c] - cold[c]);
    pixels.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  summary.textContent = describe();
}

function describe() {
  const { steps, layers, experts, uses } = heat;
  const used = uses.reduce((sum, n) => sum + (n > 0), 0) / layers;
  const most = uses.reduce((best, n, i) => (n > uses[best] ? i : best), 0);
  return (
    `Last ${steps} steps: on average ${used.toFixed(0)} of ${experts} experts of a MoE layer were used. ` +
    `Busiest: MoE layer ${Math.floor(most / experts)}, expert ${most % experts}, in ${uses[most]} steps.`
  );
}

function colour(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3).map(Number);
  probe.remove();
  return found;
}

function name(layer, expert) {
  const { steps, layers, experts, uses } = heat;
  if (!layers) return;
  cursor = [Math.max(0, Math.min(layers - 1, layer)), Math.max(0, Math.min(experts - 1, expert))];
  const [l, e] = cursor;
  place.textContent = `MoE layer ${l}, expert ${e}: in ${uses[l * experts + e]} of ${steps} steps.`;
}

canvas.addEventListener("pointermove", (event) => {
  const box = canvas.getBoundingClientRect();
  const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  name(Math.floor(y * heat.layers), Math.floor(x * heat.experts));
});

canvas.addEventListener("keydown", (event) => {
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (!step) return;
  event.preventDefault();
  name(cursor[0] + step[0], cursor[1] + step[1]);
});
