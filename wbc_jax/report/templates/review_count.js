// The differential count before and after correction, and how far the review is.

const get = (id) => document.getElementById(id);
const percent = (row) => (row.percent === null ? "–" : row.percent.toFixed(1));

function add(parent, name, text, className = "") {
  const found = document.createElement(name);
  found.textContent = text;
  if (className) found.className = className;
  parent.append(found);
  return found;
}

export function showCount(before, after) {
  const old = new Map(before.map((row) => [row.type, row]));
  const rows = after.filter((row) => row.type !== "all").map((row) => {
    const line = document.createElement("tr");
    add(line, "th", row.type).scope = "row";
    const first = old.get(row.type);
    for (const one of [first, row]) {
      add(line, "td", one ? `${one.cells}` : "");
      const share = add(line, "td", one ? percent(one) : "");
      if (one && one.low !== null) add(share, "small", ` ${one.low.toFixed(1)}–${one.high.toFixed(1)}`);
    }
    line.classList.toggle("moved", (first?.cells ?? 0) !== row.cells);
    return line;
  });
  get("count").replaceChildren(...rows);
}

export function showProgress(done, all, left, leftDone) {
  const review = left ? `; ${leftDone} of the ${left} left to a person` : "";
  get("progress").textContent = `${done} of ${all} cells reviewed${review}`;
  get("bar").max = all;
  get("bar").value = done;
}

export function showProblems(list) {
  const place = get("problems"), text = list.join("\n");
  if (place.dataset.text === text) return; // said once, not again at each answer
  place.dataset.text = text;
  place.replaceChildren();
  for (const problem of list) add(place, "li", problem);
  place.hidden = !list.length;
}
