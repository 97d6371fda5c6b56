// The brush: a cell's nucleus and cytoplasm, painted by pointer or keys. Each stroke is sent at once.

import { BACKGROUND, CYTOPLASM, NUCLEUS, OTHER, areas, draw, load, ratioText } from "./review_canvas.js";

const get = (id) => document.getElementById(id);
const dialog = get("paint"), canvas = get("paint-canvas"), context = canvas.getContext("2d");
const TOOLS = { n: NUCLEUS, c: CYTOPLASM, e: BACKGROUND };
const MOST_SCALE = 40;

let picture = null, tool = "n", size = 9, outlines = true, painting = false, panning = null;
let view = { scale: 1, x: 0, y: 0 }, at = { x: 0, y: 0 }, last = null, strokes = 0, stepping = false;
let say = null, closed = null;

// save(cell, area, base, mask), undo() and reset(cell, base) send what is done and return the news of
// the server; null: it was refused, and what is true is loaded again.
export function prepare(actions) {
  say = actions;
  ({ closed } = actions);
}

export async function open(cell) {
  get("paint-problem").hidden = true;
  strokes = 0;
  picture = null;
  dialog.showModal();
  await reload(cell);
  if (!picture) return;
  at = { x: picture.width / 2, y: picture.height / 2 };
  fit();
  canvas.focus();
}

async function reload(cell) {
  try {
    picture = await load(cell);
    get("paint-heading").textContent = say.name(cell);
  } catch (error) {
    complain(error.message);
  }
}

function complain(text) {
  get("paint-problem").textContent = text;
  get("paint-problem").hidden = false;
}

// ---- what is seen ----

function fit() {
  const box = get("paint-box");
  canvas.width = Math.max(1, Math.round(box.clientWidth * devicePixelRatio));
  canvas.height = Math.max(1, Math.round(box.clientHeight * devicePixelRatio));
  if (!picture) return;
  const scale = Math.min(canvas.width / picture.width, canvas.height / picture.height);
  view = {
    scale, x: (canvas.width - scale * picture.width) / 2, y: (canvas.height - scale * picture.height) / 2,
  };
  show();
}

function zoom(by, around = null) {
  if (!picture) return;
  const scale = Math.min(MOST_SCALE * devicePixelRatio, Math.max(0.2, view.scale * by));
  const { x, y } = around ?? { x: view.x + at.x * view.scale, y: view.y + at.y * view.scale };
  view = {
    scale, x: x - ((x - view.x) * scale) / view.scale, y: y - ((y - view.y) * scale) / view.scale,
  };
  show();
}

let planned = false;
function show() {
  if (planned) return;
  planned = true;
  requestAnimationFrame(() => { planned = false; showNow(); });
}

function showNow() {
  if (!picture) return;
  draw(context, picture, { ...view, outlines });
  context.lineWidth = devicePixelRatio / view.scale;
  for (const [dash, line] of [[[], "#ffffff"], [[3 / view.scale, 3 / view.scale], "#000000"]]) {
    context.setLineDash(dash);
    context.strokeStyle = line;
    context.beginPath();
    context.arc(at.x, at.y, size / 2, 0, 2 * Math.PI);
    context.stroke();
  }
  const found = areas(picture.mask);
  get("paint-ratio").textContent = `N/C ${ratioText(found)}`;
  get("paint-areas").textContent = `nucleus ${found.nucleus} px, cytoplasm ${found.cytoplasm} px`;
  for (const button of get("paint-tools").querySelectorAll("[data-tool]")) {
    button.setAttribute("aria-pressed", button.dataset.tool === tool);
  }
  get("paint-size").value = size;
  get("paint-outlines").checked = outlines;
  get("paint-undo").disabled = !strokes;
  get("paint-reset").disabled = !picture.base;
  canvas.setAttribute("aria-label", `brush at ${Math.round(at.x)}, ${Math.round(at.y)}`);
}

// ---- what is painted ----

// Gives the pixels whose centers lie under the brush, on the way from one place to another, to the
// tool. Only a brush takes pixels from other cells; the eraser leaves those alone.
function paint(from, to) {
  const { mask, width, height } = picture, value = TOOLS[tool], radius = size / 2;
  const steps = Math.max(1, Math.ceil(Math.hypot(to.x - from.x, to.y - from.y) / Math.max(0.5, radius / 2)));
  for (let i = 0; i <= steps; i++) {
    const x = from.x + ((to.x - from.x) * i) / steps, y = from.y + ((to.y - from.y) * i) / steps;
    const [first, end] = [Math.max(0, Math.floor(y - radius)), Math.min(height - 1, Math.ceil(y + radius))];
    for (let row = first; row <= end; row++) {
      for (let column = Math.max(0, Math.floor(x - radius)); column <= Math.min(width - 1, Math.ceil(x + radius)); column++) {
        const near = Math.hypot(column + 0.5 - x, row + 0.5 - y) <= radius
          || (column === Math.floor(x) && row === Math.floor(y)); // the smallest brush has a pixel
        const place = row * width + column;
        if (near && (value !== BACKGROUND || mask[place] !== OTHER)) mask[place] = value;
      }
    }
  }
  delete picture.paths;
  show();
}

// Sends the mask as it is now. A stroke that follows before the answer goes with the next sending.
async function stroke() {
  const current = picture;
  current.waits = true;
  if (current.sending) return;
  current.sending = true;
  while (current.waits) {
    current.waits = false;
    const { cell, area, base, mask } = current;
    const answer = await say.save(cell, area, base, mask.slice());
    if (answer) {
      const now = answer.said[cell]?.mask ?? base;
      strokes += now !== base;
      current.base = now;
    } else {
      current.waits = false;
      await refused(current);
    }
  }
  current.sending = false;
  show();
}

async function refused(current) {
  if (picture !== current) return;
  complain(say.refusal() || "This was not saved.");
  strokes = 0;
  await reload(current.cell);
}

async function take(action) {
  const current = picture;
  while (current.sending) await new Promise((done) => { setTimeout(done, 30); });
  const answer = await action();
  if (!answer) { await refused(current); return; }
  await reload(current.cell);
  show();
}

function undo() {
  if (!strokes || !picture) return;
  strokes -= 1;
  take(() => say.undo());
}

function reset() {
  if (!picture?.base) return;
  strokes += 1; // it can be undone as a stroke can
  take(() => say.reset(picture.cell, picture.base));
}

// ---- pointer ----

function place(event) {
  const box = canvas.getBoundingClientRect();
  const x = (event.clientX - box.left) * devicePixelRatio, y = (event.clientY - box.top) * devicePixelRatio;
  return { x: (x - view.x) / view.scale, y: (y - view.y) / view.scale, onScreen: { x, y } };
}

canvas.addEventListener("pointerdown", (event) => {
  if (!picture) return;
  canvas.setPointerCapture(event.pointerId);
  const here = place(event);
  if (event.button === 1 || event.altKey) { panning = here.onScreen; event.preventDefault(); return; }
  if (event.button) return;
  painting = true;
  at = last = here;
  paint(at, at);
});
canvas.addEventListener("pointermove", (event) => {
  if (!picture) return;
  const here = place(event);
  if (panning) {
    view = { ...view, x: view.x + here.onScreen.x - panning.x, y: view.y + here.onScreen.y - panning.y };
    panning = here.onScreen;
    show();
    return;
  }
  at = here;
  if (painting) { paint(last, here); last = here; } else show();
});
for (const kind of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(kind, () => {
    panning = null;
    if (!painting) return;
    painting = false;
    stroke();
  });
}
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, place(event).onScreen);
}, { passive: false });

// ---- keys and buttons ----

function resize(by) {
  size = Math.min(99, Math.max(1, size + by));
  show();
}

function step(event, x, y) {
  if (event.ctrlKey || event.metaKey) {
    const far = 40 * devicePixelRatio;
    view = { ...view, x: view.x - x * far, y: view.y - y * far };
    show();
    return;
  }
  const far = event.shiftKey ? 5 : 1, before = at;
  at = {
    x: Math.min(picture.width - 0.5, Math.max(0.5, Math.floor(at.x) + 0.5 + x * far)),
    y: Math.min(picture.height - 0.5, Math.max(0.5, Math.floor(at.y) + 0.5 + y * far)),
  };
  if (stepping) paint(before, at); // the space bar is held: a stroke
  else show();
}

const keys = {
  n: () => { tool = "n"; show(); }, c: () => { tool = "c"; show(); }, e: () => { tool = "e"; show(); },
  o: () => { outlines = !outlines; show(); }, z: undo, f: fit,
  "[": () => resize(-2), "]": () => resize(2), "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8),
};
const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
dialog.addEventListener("keydown", (event) => {
  event.stopPropagation();
  const inside = event.target === canvas;
  if (!picture || event.altKey || event.target.matches("input[type=number]")) return;
  if (inside && event.key in arrows) step(event, ...arrows[event.key]);
  else if (inside && event.key === " ") {
    if (!stepping) { stepping = true; paint(at, at); }
  } else if (event.key in keys && (event.key === "z" || !(event.ctrlKey || event.metaKey))) keys[event.key]();
  else return;
  event.preventDefault();
});
dialog.addEventListener("keyup", (event) => {
  if (event.key !== " " || !stepping) return;
  stepping = false;
  event.preventDefault();
  stroke();
});
canvas.addEventListener("blur", () => { if (stepping) { stepping = false; stroke(); } });
get("paint-tools").addEventListener("click", (event) => {
  const name = event.target.closest("[data-tool]")?.dataset.tool;
  if (name) { keys[name](); canvas.focus(); }
});
get("paint-size").addEventListener("input", () => resize(Number(get("paint-size").value || size) - size));
get("paint-outlines").addEventListener("change", keys.o);
get("paint-in").addEventListener("click", keys["+"]);
get("paint-out").addEventListener("click", keys["-"]);
get("paint-fit").addEventListener("click", fit);
get("paint-undo").addEventListener("click", undo);
get("paint-reset").addEventListener("click", reset);
dialog.addEventListener("close", () => { picture = null; closed(); });
new ResizeObserver(() => { if (dialog.open) fit(); }).observe(get("paint-box"));
