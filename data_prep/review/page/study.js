// The user study: images one by one, up to three questions each.
import { ask, el, help, inTurn, kbd, note, pushKeys } from "./dom.js";
import { Picture } from "./picture.js";

const KEYS = [[["Y", "N"], "yes, no (on a scale: its numbers)"], [["↑", "↓"], "question before, after"], [["←", "→"], "image before, after"],
  [["U"], "undo the last answer"], [["?"], "this list"]];

let session, who, items, version, at, active;
const picture = new Picture();
const top = el("header", { class: "top" });
const panel = el("section", { class: "panel", "aria-label": "Questions" });

export async function start(app, given) {
  session = given;
  document.title = "Study";
  who = session.participant ?? (await introduce(app));
  ({ items, version } = await ask("order", { participant: who }));
  app.replaceChildren(top, el("main", { class: "work" }, el("section", { class: "stage", "aria-label": "Image" }, el("div", { class: "mat" }, picture.node)), panel));
  pushKeys(onKey);
  go(Math.max(0, items.findIndex((item) => !finished(item))));
}

function introduce(app) {
  return new Promise((resolve) => {
    const code = el("input", { class: "code", autocomplete: "off", maxLength: 60, required: true });
    const form = el("form", { class: "start" }, el("h1", {}, "Images and emotions"),
      el("p", {}, `You will see ${session.count} images with a few short questions each. Every answer is saved at once: you may pause, and go on later under the same code.`),
      el("label", {}, "Your participant code", code),
      el("div", { class: "actions" }, el("button", { class: "main" }, "Begin", kbd("Enter"))));
    form.onsubmit = (event) => {
      event.preventDefault();
      ask("order", { participant: code.value.trim() }).then(() => resolve(code.value.trim()), (error) => note(error.message, true));
    };
    app.replaceChildren(form);
    code.focus();
  });
}

const finished = (item) => item.questions.every((question) => question in item.answers);

function go(next) {
  if (next < 0 || next >= items.length) return note(next < 0 ? "this is the first image" : "this is the last image");
  at = next;
  const item = items[at];
  active = item.questions.find((question) => !(question in item.answers)) ?? item.questions[0];
  picture.load(`image/${item.image}`, "the image that the questions are about", ...item.size);
  return show();
}

function show() {
  const item = items[at];
  const done = items.filter(finished).length;
  top.replaceChildren(el("h1", {}, "Study"), el("div", { class: "grow" }, el("progress", { max: items.length, value: done, "aria-label": "images finished" }),
    el("span", { class: "soft small", id: "progress" }, `${done} of ${items.length} done`)), el("span", { class: "small soft who" }, who),
  el("div", { class: "tools" }, el("button", { type: "button", title: "undo (U)", "aria-label": "undo (U)", onclick: () => inTurn(undo) }, "↶"),
    el("button", { type: "button", "aria-label": "keys", onclick: () => help("Keys", KEYS) }, "?")));
  const thanks = done === items.length ? el("p", { class: "why done", id: "done" }, "That was the last one: all answers are saved. Thank you.") : null;
  const button = (kind, text, key, work) => el("button", { class: kind, type: "button", onclick: work }, text, kbd(key));
  panel.replaceChildren(...[thanks, ...item.questions.map(question), el("nav", { class: "actions move", "aria-label": "Images" },
    button("", "Back", "←", () => go(at - 1)), button(finished(item) ? "main" : "", "Next", "→", () => go(at + 1)))].filter(Boolean));
  panel.querySelector('[aria-current="true"]')?.scrollIntoView({ block: "nearest" });
}

function question(name) {
  const item = items[at];
  const given = { emotion: item.emotion, context: item.context }[name];
  const node = el("article", { class: "field question", "aria-current": String(name === active), "data-field": name },
    el("p", { class: "big" }, session.questions[name]), given && el("p", { class: "given" }, given),
    el("div", { class: "actions" }, options().map(([answer, text, key]) => el("button",
      { type: "button", "aria-pressed": String(item.answers[name] === answer), onclick: (event) => (event.stopPropagation(), reply(name, answer)) }, text, key !== text && kbd(key)))),
    session.points > 2 && el("p", { class: "ends soft small" }, el("span", {}, "not at all"), el("span", {}, "entirely")));
  node.onclick = () => name !== active && (active = name, show());
  return node;
}

const options = () => (session.points === 2 ? [[2, "Yes", "Y"], [1, "No", "N"]]
  : Array.from({ length: session.points }, (_, i) => [i + 1, String(i + 1), String(i + 1)]));

const reply = (name, answer) => inTurn(async () => {
  const item = items[at];
  const { saved, answers, version: last } = await ask("answer", { participant: who, position: at, question: name, answer, shown: item.answers });
  item.answers = answers;
  // The last row is this page's own; after a conflict it is not.
  if (saved) version = last;
  if (!saved) {
    show();
    throw new Error("This was answered in another tab since: nothing was saved here. What stands is shown; answer again to change it.");
  }
  const next = item.questions.find((other) => !(other in item.answers));
  const later = [...items.keys()].find((i) => i > at && !finished(items[i])) ?? items.findIndex((other) => !finished(other));
  if (next) active = next;
  else if (later >= 0) return go(later);
  return show();
});

async function undo() {
  const { undone, conflict } = await ask("undo", { participant: who, version });
  if (undone === null && !conflict) return note("nothing to undo");
  ({ items, version } = await ask("order", { participant: who }));
  if (conflict) {
    show();
    throw new Error("Something was answered in another tab since: nothing was taken back. Undo again takes back what stands last.");
  }
  go(undone);
  return note("undone");
}

function onKey(event) {
  const questions = items[at].questions;
  const option = options().find(([, , key]) => key === event.key.toUpperCase());
  const step = (by) => ((active = questions[(questions.indexOf(active) + by + questions.length) % questions.length]), show());
  const commands = { ArrowRight: () => go(at + 1), ArrowLeft: () => go(at - 1), ArrowDown: () => step(1), ArrowUp: () => step(-1), u: () => inTurn(undo),
    "?": () => help("Keys", KEYS) };
  const command = option ? () => reply(active, option[0]) : commands[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!command || event.altKey) return false;
  if (!event.repeat) command();
  return true;
}
