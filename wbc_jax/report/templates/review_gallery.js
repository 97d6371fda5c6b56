// The gallery: rows of cells under their types, of which only those in sight exist.

const TILE = 110, ROW = 140, HEAD = 38, BEYOND = 3;

export class Gallery {
  // model: cells and what is said of them; changed: is called with the cell that has the focus.
  constructor(model, changed) {
    this.model = model;
    this.changed = changed;
    this.box = document.getElementById("gallery");
    this.rows = document.getElementById("rows");
    this.lines = []; // { y, head } or { y, cells }
    this.list = []; // all cells of the view, in its order
    this.lineOf = new Map();
    this.drawn = new Map(); // lines in sight
    this.tiles = new Map();
    this.chosen = new Set();
    this.now = -1;
    this.anchor = -1;
    this.columns = 1;
    this.box.addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.layOut()).observe(this.box);
    this.box.addEventListener("pointerdown", (event) => this.press(event));
    this.box.addEventListener("click", (event) => this.click(event));
    this.box.addEventListener("dragstart", (event) => this.drag(event));
  }

  // groups: [name, cells] in the order of the page; an empty name has no heading.
  show(groups) {
    this.groups = groups.filter(([, cells]) => cells.length);
    this.list = this.groups.flatMap(([, cells]) => cells);
    this.at = new Map(this.list.map((cell, i) => [cell, i]));
    this.chosen.clear();
    this.columns = 0;
    this.layOut();
    if (!this.at.has(this.now)) this.now = this.list[0] ?? -1;
    this.go(this.now);
  }

  layOut() {
    const columns = Math.max(1, Math.floor((this.box.clientWidth - 6) / TILE));
    if (columns === this.columns || !this.groups) { this.draw(); return; }
    this.columns = columns;
    this.lines = [];
    this.lineOf.clear();
    let y = 4;
    for (const [head, cells] of this.groups) {
      if (head) {
        this.lines.push({ y, height: HEAD, head, count: cells.length });
        y += HEAD;
      }
      for (let i = 0; i < cells.length; i += columns) {
        const line = { y, height: ROW, cells: cells.slice(i, i + columns) };
        for (const cell of line.cells) this.lineOf.set(cell, this.lines.length);
        this.lines.push(line);
        y += ROW;
      }
    }
    this.rows.style.height = `${y}px`;
    for (const made of this.drawn.values()) made.remove();
    this.drawn.clear();
    this.tiles.clear();
    this.draw();
    if (this.now >= 0) this.reveal();
  }

  draw() {
    const top = this.box.scrollTop - BEYOND * ROW;
    const bottom = this.box.scrollTop + this.box.clientHeight + BEYOND * ROW;
    // Lines are sorted: begin at the first one in sight.
    let low = 0, high = this.lines.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.lines[middle].y + this.lines[middle].height < top) low = middle + 1;
      else high = middle;
    }
    const seen = new Set();
    for (let i = low; i < this.lines.length && this.lines[i].y < bottom; i++) {
      seen.add(i);
      if (!this.drawn.has(i)) this.drawn.set(i, this.make(this.lines[i]));
    }
    for (const [i, made] of this.drawn) {
      if (seen.has(i)) continue;
      for (const cell of this.lines[i].cells ?? []) this.tiles.delete(cell);
      made.remove();
      this.drawn.delete(i);
    }
  }

  make(line) {
    const found = document.createElement("div");
    found.style.top = `${line.y}px`;
    found.style.height = `${line.height}px`;
    found.setAttribute("role", "presentation");
    if (line.head) {
      found.className = "head";
      found.append(line.head, Object.assign(document.createElement("small"), { textContent: line.count }));
    } else {
      found.append(...line.cells.map((cell) => this.tile(cell)));
    }
    this.rows.append(found);
    return found;
  }

  tile(cell) {
    const tile = document.createElement("div");
    tile.id = `cell-${cell}`;
    tile.dataset.cell = cell;
    tile.setAttribute("role", "option");
    tile.draggable = true;
    const image = new Image();
    image.src = `thumbnail/${cell}`;
    image.alt = "";
    tile.append(image, document.createElement("b"), document.createElement("span"));
    this.tiles.set(cell, tile);
    this.mark(cell);
    return tile;
  }

  // Shows what is said of a cell, if it is in sight.
  mark(cell) {
    const tile = this.tiles.get(cell);
    if (!tile) return;
    const { type, said, predicted, note } = this.model.about(cell);
    const changed = said !== null && said !== predicted;
    tile.className = "tile";
    tile.classList.toggle("done", said !== null);
    tile.classList.toggle("changed", changed);
    tile.classList.toggle("chosen", this.chosen.has(cell));
    tile.classList.toggle("now", cell === this.now);
    tile.setAttribute("aria-selected", this.chosen.has(cell) || cell === this.now);
    const [, name, small] = tile.children;
    name.textContent = said === null ? type : `✓ ${type}`;
    name.title = changed && predicted ? `${predicted} → ${type}` : type;
    small.textContent = note;
    tile.setAttribute("aria-label", `${this.model.name(cell)}: ${type}${said === null ? "" : ", reviewed"}, ${note}`);
  }

  // The cells that a key or a button is about.
  get about() {
    if (this.chosen.size) return [...this.chosen].sort((a, b) => this.at.get(a) - this.at.get(b));
    return this.now < 0 ? [] : [this.now];
  }

  go(cell, more = false) {
    const before = this.now;
    if (more) {
      if (this.anchor < 0 || !this.at.has(this.anchor)) this.anchor = before;
      const old = [...this.chosen];
      this.chosen.clear();
      const [from, to] = [this.at.get(this.anchor), this.at.get(cell)].sort((a, b) => a - b);
      for (let i = from; i <= to; i++) this.chosen.add(this.list[i]);
      this.now = cell;
      for (const one of new Set([...old, ...this.chosen])) this.mark(one);
    } else {
      this.clear();
      this.now = cell;
    }
    this.mark(before);
    this.mark(cell);
    this.reveal();
    this.changed(cell);
  }

  clear() {
    const old = [...this.chosen];
    this.chosen.clear();
    this.anchor = -1;
    old.forEach((cell) => this.mark(cell));
  }

  toggle(cell) {
    if (!this.chosen.size && this.now >= 0 && this.now !== cell) this.chosen.add(this.now);
    if (this.chosen.has(cell)) this.chosen.delete(cell);
    else this.chosen.add(cell);
    const before = this.now;
    this.now = cell;
    for (const one of [...this.chosen, before, cell]) this.mark(one);
    this.changed(cell);
  }

  reveal() {
    const line = this.lines[this.lineOf.get(this.now)];
    if (!line) return;
    const above = line.y - (this.lines[this.lineOf.get(this.now) - 1]?.head ? HEAD : 0);
    const { scrollTop, clientHeight } = this.box;
    if (above < scrollTop) this.box.scrollTop = above;
    else if (line.y + line.height > scrollTop + clientHeight) this.box.scrollTop = line.y + line.height - clientHeight;
    this.draw();
    this.box.setAttribute("aria-activedescendant", `cell-${this.now}`);
  }

  step(by) {
    const place = this.at.get(this.now) ?? 0;
    return this.list[Math.min(this.list.length - 1, Math.max(0, place + by))];
  }

  // The cell above or below: the same column of the next line with cells, or its last.
  below(by) {
    let i = this.lineOf.get(this.now);
    const column = this.lines[i].cells.indexOf(this.now);
    do i += by; while (this.lines[i] && !this.lines[i].cells);
    const cells = this.lines[i]?.cells;
    return cells ? cells[Math.min(column, cells.length - 1)] : this.now;
  }

  page(by) {
    const lines = Math.max(1, Math.floor(this.box.clientHeight / ROW) - 1);
    return this.step(by * lines * this.columns);
  }

  press(event) {
    const tile = event.target.closest(".tile");
    if (!tile || event.button) return;
    const cell = Number(tile.dataset.cell);
    if (event.shiftKey) this.go(cell, true);
    else if (event.ctrlKey || event.metaKey) this.toggle(cell);
    else if (!this.chosen.has(cell)) this.go(cell); // else perhaps a drag of all chosen ones
  }

  // It was no drag: only this one.
  click(event) {
    const tile = event.target.closest(".tile");
    if (tile && this.chosen.size && !(event.shiftKey || event.ctrlKey || event.metaKey)) {
      this.go(Number(tile.dataset.cell));
    }
  }

  drag(event) {
    const cell = Number(event.target.closest(".tile")?.dataset.cell ?? -1);
    if (cell < 0) return;
    if (!this.chosen.has(cell) && cell !== this.now) this.go(cell);
    event.dataTransfer.effectAllowed = "move";
    event.dataTransfer.setData("text/plain", this.about.map((one) => this.model.name(one)).join("\n"));
  }
}
