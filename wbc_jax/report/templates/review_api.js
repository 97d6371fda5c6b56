// Talks to the server: what is said is sent one after the other, and again until it arrives.

const places = document.querySelectorAll("[data-saved]");
const waiting = [];
let sending = false, failed = "";

async function ask(path, options = {}) {
  const answer = await fetch(path, { cache: "no-store", ...options });
  if (answer.ok) return answer;
  let text = await answer.text();
  try { text = JSON.parse(text).error ?? text; } catch { /* no JSON: as it is */ }
  throw Object.assign(new Error(text || `status ${answer.status}`), { refused: true });
}

export async function get(path) {
  return (await ask(path)).json();
}

// Sends `make()` — path and body, asked for only when it is its turn — and resolves with the answer.
// A server that does not answer is asked again; what it refuses rejects.
export function send(make) {
  return new Promise((resolve, reject) => {
    waiting.push({ make, resolve, reject });
    tell();
    next();
  });
}

export function pending() {
  return waiting.length;
}

async function next() {
  if (sending || !waiting.length) return;
  sending = true;
  const { make, resolve, reject } = waiting[0];
  try {
    const { path, body } = make();
    const raw = body instanceof Uint8Array;
    const answer = await ask(path, {
      method: "POST",
      headers: { "content-type": raw ? "application/octet-stream" : "application/json" },
      body: raw ? body : JSON.stringify(body),
      priority: "high",
    });
    const found = await answer.json();
    waiting.shift();
    failed = "";
    resolve(found);
  } catch (error) {
    if (error.refused) {
      waiting.shift();
      reject(error);
    } else {
      failed = "the server does not answer";
      await new Promise((done) => { setTimeout(done, 1000); });
    }
  }
  sending = false;
  tell();
  next();
}

function tell() {
  let text = waiting.length ? "saving …" : "all is saved";
  if (failed) text = `not saved: ${waiting.length}, as ${failed}`;
  for (const place of places) {
    place.classList.toggle("late", Boolean(failed));
    place.textContent = text;
  }
}

addEventListener("beforeunload", (event) => { if (waiting.length) event.preventDefault(); });
