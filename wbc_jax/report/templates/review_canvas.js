// A cell's picture and mask: loading, outlines, areas, drawing.

export const BACKGROUND = 0, CYTOPLASM = 1, NUCLEUS = 2, OTHER = 255;
const style = getComputedStyle(document.documentElement);
const color = (name) => style.getPropertyValue(`--${name}`);

// Returns a cell's window: its image, and its mask as bytes, row by row.
export async function load(cell) {
  const answer = await fetch(`mask/${cell}`, { cache: "no-store" });
  if (!answer.ok) throw new Error(JSON.parse(await answer.text()).error);
  const area = answer.headers.get("x-area"), base = answer.headers.get("x-base");
  const [top, left, bottom, right] = area.split(",").map(Number);
  const mask = new Uint8Array(await answer.arrayBuffer());
  const image = new Image();
  image.src = `window/${cell}?area=${area}`;
  await image.decode();
  return { cell, area, base, image, mask, width: right - left, height: bottom - top };
}

export function areas(mask) {
  let nucleus = 0, cytoplasm = 0;
  for (let i = 0; i < mask.length; i++) {
    nucleus += mask[i] === NUCLEUS;
    cytoplasm += mask[i] === CYTOPLASM;
  }
  return { nucleus, cytoplasm };
}

// As in the tables: N/C is infinite without cytoplasm, and not defined without a nucleus.
export function ratioText({ nucleus, cytoplasm }) {
  if (!nucleus) return "no nucleus";
  return cytoplasm ? (nucleus / cytoplasm).toFixed(3) : "no cytoplasm";
}

// Returns the edges of pixels where a region ends, in pixels of the window.
export function edges({ mask, width, height }, inside) {
  const path = new Path2D();
  const is = (x, y) => x >= 0 && y >= 0 && x < width && y < height && inside(mask[y * width + x]);
  for (let y = 0; y <= height; y++) {
    let from = -1;
    for (let x = 0; x <= width; x++) {
      const edge = x < width && is(x, y) !== is(x, y - 1);
      if (edge && from < 0) from = x;
      if (!edge && from >= 0) { path.moveTo(from, y); path.lineTo(x, y); from = -1; }
    }
  }
  for (let x = 0; x <= width; x++) {
    let from = -1;
    for (let y = 0; y <= height; y++) {
      const edge = y < height && is(x, y) !== is(x - 1, y);
      if (edge && from < 0) from = y;
      if (!edge && from >= 0) { path.moveTo(x, from); path.lineTo(x, y); from = -1; }
    }
  }
  return path;
}

// Draws a window at a scale from a place on, with outlines or without. Who changes the mask deletes
// `picture.paths`.
export function draw(context, picture, { scale, x, y, outlines }) {
  const { canvas } = context;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.setTransform(scale, 0, 0, scale, x, y);
  context.imageSmoothingEnabled = scale < 3;
  context.drawImage(picture.image, 0, 0);
  if (!outlines) return;
  const lines = [
    [(value) => value === OTHER, "other-line", 1],
    [(value) => value === CYTOPLASM || value === NUCLEUS, "cell-line", 2],
    [(value) => value === NUCLEUS, "nucleus-line", 2],
  ];
  if (!picture.paths) picture.paths = lines.map(([inside]) => edges(picture, inside));
  for (const [i, [, name, width]] of lines.entries()) {
    context.strokeStyle = color(name);
    context.lineWidth = width * devicePixelRatio / scale;
    context.setLineDash(name === "other-line" ? [4 / scale, 3 / scale] : []);
    context.stroke(picture.paths[i]);
  }
}
