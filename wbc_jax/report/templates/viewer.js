(() => {
  const get = (name) => document.getElementById("viewer-" + name);
  const viewer = document.getElementById("viewer");
  const frames = [...viewer.querySelectorAll(".frame")];
  const image = get("image"), wipe = get("wipe"), place = get("place");

  function show() {
    const all = get("all").checked, now = Number(image.value) - 1;
    viewer.classList.toggle("single", !all);
    frames.forEach((frame, i) => { frame.hidden = !all && i !== now; });
    for (const name of ["image", "back", "on"]) get(name).disabled = all;
    get("back").disabled ||= now === 0;
    get("on").disabled ||= now === frames.length - 1;
    place.textContent = all ? "" : frames[now].dataset.place;
    image.setAttribute("aria-valuetext", frames[now].dataset.name);
    viewer.classList.toggle("bare", !get("outlines").checked);
    viewer.classList.toggle("wrong", get("errors").checked);
    viewer.style.setProperty("--wipe", wipe.value + "%");
    wipe.setAttribute("aria-valuetext", "truth on the left " + wipe.value + " %");
  }
  function go(by) {
    image.value = Number(image.value) + by;
    show();
  }
  function drag(event) {
    const stack = event.target.closest(".stack");
    if (!stack || !(event.buttons & 1)) return;
    const box = stack.getBoundingClientRect();
    wipe.value = 100 * (event.clientX - box.left) / box.width;
    show();
  }

  get("back").addEventListener("click", () => go(-1));
  get("on").addEventListener("click", () => go(1));
  get("controls").addEventListener("input", show);
  viewer.addEventListener("pointerdown", drag);
  viewer.addEventListener("pointermove", drag);
  // For paper there is no slider: all images are printed, each half truth and half prediction.
  addEventListener("beforeprint", () => { frames.forEach((frame) => { frame.hidden = false; }); });
  addEventListener("afterprint", show);
  get("controls").hidden = false;
  show();
})();
