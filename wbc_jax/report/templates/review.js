// The page of a review: keys, buttons and dragging say what cells are.

import { get as ask, pending, send } from "./review_api.js";
import { draw, load } from "./review_canvas.js";
import { showCount, showProblems, showProgress } from "./review_count.js";
import { Gallery } from "./review_gallery.js";
import * as brush from "./review_paint.js";

const get = (id) => document.getElementById(id);
const data = await ask("cells");
const { cells, forReview, model: modelTypes, notCounted } = data;
const size = cells.name.length;
let { types, revision } = data;
let refusal = "";
const said = new Map(Object.entries(data.said).map(([cell, one]) => [Number(cell), one]));
const numbers = new Map(); // how many cells have each type now
let done = 0, leftDone = 0, saying = 0;
const left = cells.predicted.filter((type) => type === forReview).length;

const predictedOf = (cell) => cells.predicted[cell] || "no type";
const saidOf = (cell) => said.get(cell)?.type ?? null;
const typeOf = (cell) => saidOf(cell) ?? predictedOf(cell);
const reviewed = (cell) => saidOf(cell) !== null || Boolean(said.get(cell)?.mask);
const model = {
  name: (cell) => `${cells.name[cell]}, cell ${cells.cell[cell]}`,
  about(cell) {
    const guess = cells.predicted[cell] === forReview ? `${cells.guess[cell]}? ` : "";
    const odds = cells.probability[cell];
    return {
      type: typeOf(cell), said: saidOf(cell), predicted: predictedOf(cell),
      note: `${guess}${odds === null ? "" : odds.toFixed(2).replace(/^0/, "")}${said.get(cell)?.mask ? " mask" : ""}` || " ",
    };
  },
};
const gallery = new Gallery(model, (cell) => { showCell(cell); });

// ---- what is shown ----

function recount() {
  numbers.clear();
  done = leftDone = 0;
  for (let cell = 0; cell < size; cell++) {
    const type = typeOf(cell);
    numbers.set(type, (numbers.get(type) ?? 0) + 1);
    if (!reviewed(cell)) continue;
    done += 1;
    leftDone += cells.predicted[cell] === forReview;
  }
}

function showTypes() {
  const place = get("types");
  const names = [...types];
  if (place.dataset.names !== names.join("\n")) {
    place.dataset.names = names.join("\n");
    place.replaceChildren(...names.map((name, i) => {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.type = name;
      if (i < 9) button.append(Object.assign(document.createElement("kbd"), { textContent: i + 1 }));
      button.append(name, document.createElement("small"));
      return button;
    }));
    const chosen = get("show").value;
    const views = [["all", "all"], ["left", "left to a person"], ["open", "not reviewed"], ["done", "reviewed"]];
    const own = [...new Set([...names, ...cells.predicted.filter((type) => type && type !== forReview)])];
    get("show").replaceChildren(...[...views, ...own.map((name) => [`=${name}`, name])].map(
      ([value, text]) => new Option(text, value, false, value === chosen),
    ));
  }
  for (const button of place.children) {
    button.lastElementChild.textContent = numbers.get(button.dataset.type) ?? 0;
  }
}

function showNumbers() {
  recount();
  showTypes();
  showProgress(done, size, left, leftDone);
}

function showGallery() {
  const show = get("show").value;
  const fits = (cell) => show === "all" || show === ""
    || (show === "left" && cells.predicted[cell] === forReview)
    || (show === "open" && !reviewed(cell)) || (show === "done" && reviewed(cell))
    || show === `=${typeOf(cell)}`;
  const found = (get("order").value === "turns" ? data.turns : data.order).filter(fits);
  let groups = [["", found]];
  if (get("order").value === "type") {
    const byType = new Map([forReview, "no type", ...types].map((name) => [name, []]));
    for (const cell of found) {
      if (!byType.has(typeOf(cell))) byType.set(typeOf(cell), []);
      byType.get(typeOf(cell)).push(cell);
    }
    groups = [...byType];
  }
  gallery.show(groups);
  get("shown").textContent = `${found.length} of ${size} cells`;
}

let asked = 0;
async function showCell(cell) {
  const turn = ++asked;
  if (cell < 0) return;
  get("cell-heading").textContent = model.name(cell);
  // Keys that follow each other fast show only the last cell.
  await new Promise((done) => { setTimeout(done, 60); });
  if (turn !== asked) return;
  let found = null;
  try {
    found = await ask(`about/${cell}`);
  } catch (error) {
    found = error;
  }
  if (turn !== asked) return;
  if (found instanceof Error) {
    get("cell-problem").textContent = `Its pictures cannot be shown: ${found.message}`;
    get("cell-problem").hidden = false;
    return;
  }
  get("cell-problem").textContent = found.problem;
  get("cell-problem").hidden = !found.problem;
  showFacts(cell, found);
  showPlace(cell, found);
  try {
    shown = await load(cell);
  } catch (error) {
    shown = null;
    get("cell-problem").textContent = error.message;
    get("cell-problem").hidden = false;
  }
  if (turn === asked) showView();
}

let shown = null; // the window of the cell, as review_canvas loads it
function showView() {
  const canvas = get("view"), context = canvas.getContext("2d");
  const scale = shown ? Math.min(canvas.width / shown.width, canvas.height / shown.height) : 1;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  canvas.setAttribute("aria-label", shown ? `${model.name(shown.cell)}, with its outlines` : "no picture");
  if (!shown) return;
  const [x, y] = [shown.width, shown.height].map((side) => (canvas.width - scale * side) / 2);
  draw(context, shown, { scale, x, y, outlines: get("outlines").checked });
}

function showFacts(cell, found) {
  const number = (value, digits) => (value === null ? "–" : value.toFixed(digits));
  const facts = [
    ["predicted", predictedOf(cell)],
    ["best guess", cells.guess[cell]],
    ["probability", number(cells.probability[cell], 3)],
    ["because", cells.review[cell].replaceAll("_", " ").replaceAll(";", ", ")],
    ["N/C", number(said.get(cell)?.nc ?? found.nc_ratio, 3)],
    ["lobes", found.lobes],
    ["flags", (found.flag ?? "").replaceAll("_", " ").replaceAll(";", ", ")],
  ].filter(([, value]) => value !== "" && value !== null);
  get("facts").replaceChildren(...facts.flatMap(([name, value]) => [
    Object.assign(document.createElement("dt"), { textContent: name }),
    Object.assign(document.createElement("dd"), { textContent: value }),
  ]));
}

function showPlace(cell, found) {
  const image = get("field"), place = get("place"), [top, first, bottom, last] = found.box;
  const percent = (part, whole) => `${(100 * part) / whole}%`;
  image.src = `field/${cell}`;
  image.alt = `the image ${cells.name[cell]}`;
  Object.assign(place.style, {
    top: percent(top, found.height), left: percent(first, found.width),
    height: percent(bottom - top, found.height), width: percent(last - first, found.width),
  });
  place.hidden = false;
}

// ---- what is said ----

// Takes over an answer of the server.
function take(news) {
  revision = news.revision;
  types = news.types;
  for (const [cell, one] of Object.entries(news.said)) {
    said.set(Number(cell), one);
    gallery.mark(Number(cell));
  }
  showCount(data.before, news.after);
  showNumbers();
  showProblems([refusal, ...news.problems].filter(Boolean));
}

// Sends what a person says. While more is on its way, the page knows better than the answer: only
// the last answer is taken over, which tells all since the one before that was.
async function tell(path, body) {
  saying += 1;
  let news = null;
  try {
    news = await send(() => (body instanceof Uint8Array
      ? { path: `${path}&since=${revision}`, body } : { path, body: { ...body, since: revision } }));
    refusal = "";
  } catch (error) {
    refusal = `This was not saved: ${error.message}`;
  }
  saying -= 1;
  if (saying) return news;
  if (news) { take(news); return news; }
  try {
    const truth = await ask("state?since=0");
    const shown = [...said.keys()];
    said.clear();
    take(truth);
    shown.forEach((cell) => gallery.mark(cell));
  } catch (error) {
    refusal += ` ${error.message}`;
  }
  return null;
}

function say(list, type) {
  if (!list.length) return;
  for (const cell of list) {
    said.set(cell, { ...(said.get(cell) ?? { mask: null, nc: null }), type });
    gallery.mark(cell);
  }
  showNumbers();
  tell("types", { cells: list, type });
}

// Says a type of the chosen cells, and goes on to the next one.
function sayAndGoOn(type) {
  const list = gallery.about;
  if (!list.length) return;
  const several = list.length > 1;
  say(list, type);
  if (several) { gallery.clear(); return; }
  gallery.go(gallery.step(1));
}

function confirm() {
  // The best guess is what a cell left to a person is, if the person agrees.
  const right = (cell) => saidOf(cell)
    ?? (cells.predicted[cell] === forReview ? cells.guess[cell] : cells.predicted[cell]);
  const byType = new Map();
  for (const cell of gallery.about) {
    const type = right(cell);
    if (type) byType.set(type, [...(byType.get(type) ?? []), cell]);
  }
  const several = gallery.about.length > 1;
  for (const [type, list] of byType) say(list, type);
  if (several) gallery.clear();
  else gallery.go(gallery.step(1));
}

async function undo() {
  const news = await tell("undo", {});
  const cell = news?.undone[0];
  if (cell === undefined) return;
  if (gallery.at.has(cell)) gallery.go(cell);
  else showCell(cell);
}

function nextOpen() {
  const from = gallery.at.get(gallery.now) ?? -1;
  const { list } = gallery;
  for (let i = 1; i <= list.length; i++) {
    const cell = list[(from + i) % list.length];
    if (!reviewed(cell)) { gallery.go(cell); return; }
  }
}

// ---- masks ----

brush.prepare({
  name: model.name,
  refusal: () => refusal,
  save: (cell, area, base, mask) => tell(`mask/${cell}?area=${area}&base=${base}`, mask),
  reset: (cell, base) => tell(`reset/${cell}`, { base }),
  undo: () => tell("undo", {}),
  closed: () => { showCell(gallery.now); gallery.box.focus({ preventScroll: true }); },
});

function openMask() {
  if (gallery.now >= 0) brush.open(gallery.now);
}

// ---- keys, buttons, dragging ----

const moves = {
  ArrowRight: () => gallery.step(1), ArrowLeft: () => gallery.step(-1),
  ArrowDown: () => gallery.below(1), ArrowUp: () => gallery.below(-1),
  PageDown: () => gallery.page(1), PageUp: () => gallery.page(-1),
  Home: () => gallery.list[0], End: () => gallery.list.at(-1),
};
const actions = {
  Enter: confirm, Backspace: () => say(gallery.about, null), Delete: () => say(gallery.about, null),
  Escape: () => gallery.clear(), z: undo, n: nextOpen,
  m: openMask, o: () => { get("outlines").checked = !get("outlines").checked; showView(); },
  t: () => get("own-name").focus(), "?": () => get("keys").showModal(),
};
addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select, dialog, button, summary");
  const command = event.ctrlKey || event.metaKey;
  if (typing || event.altKey || (command && event.key !== "z")) return;
  const inside = event.target === gallery.box || event.target === document.body;
  if (event.key in moves && inside && gallery.list.length) gallery.go(moves[event.key](), event.shiftKey);
  else if (/^[1-9]$/.test(event.key) && types[event.key - 1]) sayAndGoOn(types[event.key - 1]);
  else if (event.key in actions) actions[event.key]();
  else return;
  event.preventDefault();
});
get("types").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  sayAndGoOn(button.dataset.type);
  gallery.box.focus({ preventScroll: true });
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  get("types").addEventListener(kind, (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    button.classList.toggle("over", kind === "dragover");
    if (kind !== "dragleave") event.preventDefault();
    if (kind === "drop") sayAndGoOn(button.dataset.type);
  });
}
get("own").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = get("own-name").value.trim().replace(/\s+/g, " ");
  if (!name) return;
  const known = types.find((type) => type.toLowerCase() === name.toLowerCase());
  if (!known) types = [...types, name];
  get("own-name").value = "";
  sayAndGoOn(known ?? name);
  gallery.box.focus({ preventScroll: true });
});
get("own-name").addEventListener("keydown", (event) => {
  if (event.key === "Escape") gallery.box.focus({ preventScroll: true });
});
get("undo").addEventListener("click", undo);
get("mask-open").addEventListener("click", openMask);
gallery.box.addEventListener("dblclick", (event) => { if (event.target.closest(".tile")) openMask(); });
get("outlines").addEventListener("change", showView);
get("keys-open").addEventListener("click", () => get("keys").showModal());
for (const id of ["show", "order"]) get(id).addEventListener("change", showGallery);

// Another window, or another process, may say something as well.
async function look() {
  if (saying || pending() || document.hidden) return;
  try {
    const news = await ask(`state?since=${revision}`);
    if (!saying) take(news);
  } catch { /* it is said when something cannot be saved */ }
}
setInterval(look, 4000);
document.addEventListener("visibilitychange", look);

showNumbers();
get("order").value = modelTypes.length && data.typed ? "type" : "first";
showCount(data.before, data.after);
showProblems(data.problems);
showGallery();
gallery.box.focus({ preventScroll: true });
document.documentElement.dataset.ready = "yes";
