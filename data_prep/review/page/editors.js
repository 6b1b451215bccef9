// Mending a value by keyboard: one of a few, a text. Each calls `save(value)` or `cancel()` once.
import { el, kbd, pushKeys } from "./dom.js";

const buttons = (save, cancel) => el("div", { class: "actions" },
  el("button", { class: "main", type: "button", onclick: save }, "Save", kbd("Enter")),
  el("button", { type: "button", onclick: cancel }, "Cancel", kbd("Esc")));

/** One of `options` ([value, text, key]); arrows move, a key picks. */
export function chooseOne(options, current, { save, cancel, tight = false }) {
  let at = Math.max(0, options.findIndex(([value]) => value === current));
  const list = el("div", { class: tight ? "options tight" : "options", role: "radiogroup" });
  const items = options.map(([, text, key], place) =>
    el("button", { type: "button", role: "radio", tabIndex: -1, onclick: () => pick(place) }, key === text ? null : kbd(key), text));
  const pick = (place) => {
    at = (place + options.length) % options.length;
    items.forEach((item, i) => item.setAttribute("aria-checked", i === at));
  };
  list.append(...items);
  pick(at);
  const end = (then) => (pop(), then());
  const pop = pushKeys((event) => {
    const place = options.findIndex(([, , key]) => key === event.key);
    if (event.key === "Enter") end(() => save(options[at][0]));
    else if (event.key === "Escape") end(cancel);
    else if (event.key === "ArrowRight" || event.key === "ArrowDown") pick(at + 1);
    else if (event.key === "ArrowLeft" || event.key === "ArrowUp") pick(at - 1);
    else if (place >= 0) pick(place);
    else return event.key.length === 1;
    return true;
  });
  return el("div", { class: "editor" }, list, buttons(() => end(() => save(options[at][0])), () => end(cancel)));
}

/** A text; Enter saves, Shift+Enter makes a line. */
export function writeText(current, label, { save, cancel }) {
  const area = el("textarea", { value: current ?? "", rows: 3, maxLength: 4000, "aria-label": label });
  const end = (then) => (pop(), then());
  const done = () => area.value.trim() && end(() => save(area.value.trim()));
  const pop = pushKeys((event) => {
    if (event.key === "Enter" && !event.shiftKey) done();
    else if (event.key === "Escape") end(cancel);
    else return false;
    return true;
  });
  queueMicrotask(() => (area.focus(), area.select()));
  return el("div", { class: "editor" }, area, buttons(done, () => end(cancel)));
}
