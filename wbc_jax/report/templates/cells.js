(() => {
  const get = (id) => document.getElementById(id);
  const form = get("filters"), body = get("table").tBodies[0];
  const rows = [...body.rows];
  const heads = [...get("table").tHead.querySelectorAll("th")];
  const order = new Map(rows.map((row, i) => [row, i]));
  const column = (key) => heads.findIndex((h) => h.firstElementChild.dataset.key === key) + 1;
  const places = { probability: column("probability") };

  function show() {
    const type = get("type")?.value ?? "", flag = get("flag").value;
    const least = Number(get("least")?.value || 0), most = Number(get("most")?.value || 1);
    const file = get("file").value.toLowerCase();
    let shown = 0;
    for (const row of rows) {
      const flags = row.dataset.flags.split(" ");
      const text = places.probability > 0 ? row.cells[places.probability].dataset.value : "";
      const given = text === "" ? NaN : Number(text);
      const fits = (!type || row.dataset.type === type)
        && (!flag || (flag === "-" ? row.dataset.flags === "" : flags.includes(flag)))
        && (least <= 0 || given >= least) && (most >= 1 || given <= most)
        && row.dataset.file.toLowerCase().includes(file);
      row.hidden = !fits;
      shown += fits;
    }
    get("shown").textContent = `${shown} of ${rows.length} rows shown`;
  }
  function sort(head) {
    const button = head.firstElementChild, at = heads.indexOf(head) + 1;
    const numeric = "numeric" in button.dataset;
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const keyed = rows.map((row) => {
      const text = row.cells[at].dataset.value;
      const key = !numeric ? text : text === "" ? null : text === "inf" ? Infinity : Number(text);
      return [key, row];
    });
    // What has no value comes last in both directions.
    keyed.sort(([a, one], [b, other]) => {
      if (a === null || b === null) return (a === null) - (b === null) || order.get(one) - order.get(other);
      const by = a < b ? -1 : a > b ? 1 : 0;
      return (up ? by : -by) || order.get(one) - order.get(other);
    });
    body.append(...keyed.map(([, row]) => row));
  }

  heads.forEach((head) => head.firstElementChild.addEventListener("click", () => sort(head)));
  form.addEventListener("input", show);
  form.addEventListener("reset", () => setTimeout(show));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  show();
})();
