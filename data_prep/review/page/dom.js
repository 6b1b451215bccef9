// The little that every view needs: elements, requests, messages, keys.
import { el, svg } from "./elements.js";

export { el, svg };

export const kbd = (key) => el("kbd", { "aria-hidden": "true" }, key);

/** Ask the server; throws with its own words. */
export async function ask(name, request = {}) {
  let response;
  try {
    response = await fetch(`api/${name}`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(request) });
  } catch {
    throw new Error("The server does not answer: nothing was saved. Is `emo prep review` still running?");
  }
  const reply = await response.json();
  if (!response.ok) throw new Error(reply.error);
  return reply;
}

let hiding;
export function note(text, bad = false) {
  const line = document.getElementById("note");
  line.textContent = text;
  line.className = bad ? "shown bad" : "shown";
  clearTimeout(hiding);
  hiding = setTimeout(() => (line.className = ""), bad ? 8000 : 1800);
}

let last = Promise.resolve();
let busy = 0;
/** Run one thing at a time; errors are shown. */
export function inTurn(work) {
  busy += 1;
  last = last.then(work).catch((error) => note(error.message, true)).finally(() => (busy -= 1));
  return last;
}

const layers = [];
/** Keys go to the layer on top alone; a handler returns true where it took the key. */
export function pushKeys(handler) {
  layers.push(handler);
  return () => {
    const place = layers.lastIndexOf(handler);
    if (place >= 0) layers.splice(place, 1);
  };
}

const waiting = [];
let draining = false;
async function drain() {
  draining = true;
  while (waiting.length) {
    await last;
    layers.at(-1)?.(waiting.shift());
  }
  draining = false;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.isComposing || document.querySelector("dialog[open]")) return;
  if (busy || draining) {
    // A key that is pressed while a decision travels waits for it: it means the field that is current then.
    event.preventDefault();
    waiting.push({ key: event.key, shiftKey: event.shiftKey, altKey: event.altKey, repeat: event.repeat });
    if (!draining) drain();
  } else if (layers.length && layers.at(-1)(event)) event.preventDefault();
});

/** The list of keys, until any of Escape, Enter or the button. */
export function help(title, rows) {
  const close = el("button", { class: "plain", type: "button" }, "Close");
  const box = el("dialog", { "aria-label": title }, el("h2", {}, title),
    el("dl", {}, rows.map(([keys, text]) => [el("dt", {}, keys.flatMap((key) => [kbd(key), " "])), el("dd", {}, text)])), close);
  close.onclick = () => box.close();
  box.onclose = () => box.remove();
  document.body.append(box);
  box.showModal();
}
