// The inspection page: one record at a time, one field at a time.
import { BoxEditor } from "./boxes.js";
import { ask, el, help, inTurn, kbd, note, pushKeys } from "./dom.js";
import { chooseOne, writeText } from "./editors.js";
import { colour, Picture } from "./picture.js";
import { provenance } from "./provenance.js";

const NAMES = { emotion: "Emotion", description: "Description", background: "Background", attribute: "Attribute", subject: "Subject",
  intensity: "Intensity", objects: "Boxes" };
const KEYS = [[["↑", "↓"], "field before, after"], [["←", "→"], "record before, after"], [["R"], "right"], [["W"], "wrong"],
  [["M"], "mend: give the right value"], [["A"], "the rest is right, and on to the next open record"], [["X"], "discard the whole record, or take it back"],
  [["U"], "undo the last decision"], [["O"], "boxes and masks on, off"], [["I"], "who said what"], [["?"], "this list"]];
const MARKS = { right: "✓ right", wrong: "✗ wrong", mended: "✎ mended" };
const level = (intensity) => (intensity <= 3 ? "low" : intensity <= 7 ? "medium" : "high");

let session, item, active, editing, unsaved, folded = true;
const done = new Set();
const picture = new Picture();
const top = el("header", { class: "top" });
const caption = el("p", { class: "caption soft small" });
const panel = el("section", { class: "panel", "aria-label": "Fields" });

export async function start(app, given) {
  session = given;
  session.done.forEach((id) => done.add(id));
  app.replaceChildren(top,
    el("main", { class: "work" }, el("section", { class: "stage", "aria-label": "Image" }, el("div", { class: "mat" }, picture.node), caption), panel),
    el("p", { class: "foot keys" }, [["R", "right"], ["W", "wrong"], ["M", "mend"], ["A", "rest right"], ["X", "discard"], ["U", "undo"], ["?", "all keys"]]
      .map(([key, text]) => el("span", {}, kbd(key), ` ${text}`))));
  pushKeys(onKey);
  window.onhashchange = () => unlessEditing(() => load(decodeURIComponent(location.hash.slice(1))))();
  const wanted = decodeURIComponent(location.hash.slice(1));
  const known = session.queue.some(({ id }) => id === wanted);
  await load(known ? wanted : (session.queue.find(({ id }) => !done.has(id)) ?? session.queue[0]).id);
}

const place = () => session.queue.findIndex(({ id }) => id === item.id);
const shown = (field) => (field === "intensity" ? item.record.intensity_level : item.record[field]);
const empty = (field) => shown(field) === null || shown(field) === undefined;
const open = (field) => !item.decisions[field] && !(field === "objects" && !item.record.objects.length);
/** A field as the reviewer left it. */
const now = (field) => (item.decisions[field]?.verdict === "mended" ? item.decisions[field].value : item.record[field]);

async function load(id, field) {
  take(await ask("item", { id }));
  active = field ?? session.fields.find(open) ?? session.fields[0];
  history.replaceState(null, "", `#${encodeURIComponent(id)}`);
  const { record } = item;
  picture.load(`image/${encodeURIComponent(id)}`, record.description ?? "the image", record.width, record.height);
  show();
  window.scrollTo(0, 0);
  follow();
}

function take(reply) {
  item = reply;
  if (item.done) done.add(item.id);
  else done.delete(item.id);
}

function show() {
  const count = session.queue.length;
  const button = (text, label, work) => el("button", { type: "button", title: label, "aria-label": label, onclick: work }, text);
  top.replaceChildren(el("h1", {}, "Review"),
    el("div", { class: "grow" }, el("progress", { max: count, value: done.size, "aria-label": "records finished" }),
      el("span", { class: "soft small", id: "progress" }, `${done.size} of ${count} done`)),
    el("span", { class: `chip ${item.state}` }, item.state === "human" ? "human queue" : item.state),
    el("span", { class: "small soft who" }, session.reviewer),
    el("div", { class: "tools" }, button("↶", "undo (U)", undo), button("◧", "boxes and masks on, off (O)", overlay),
      button("?", "keys", () => help("Keys", KEYS))));
  caption.replaceChildren(el("span", {}, `${place() + 1} of ${count} · ${item.id}`), el("span", {}, `${item.record.width} × ${item.record.height}`));
  panel.replaceChildren(...[banner(), ...session.fields.map(card), moves(), fold()].filter(Boolean));
  if (!editing) picture.draw(now("objects"));
}

function banner() {
  if (item.discarded) return el("p", { class: "why gone" }, "Discarded. ", el("span", { class: "small" }, "X takes it back."));
  if (item.done) {
    const all = done.size === session.queue.length;
    return el("p", { class: "why done", id: "done" }, all ? `All ${done.size} records are finished and saved. ` : "Finished. ",
      el("span", { class: "small" }, all ? "You may close this page." : "→ goes on."));
  }
  const { reason } = item.record.provenance;
  return reason ? el("p", { class: "why small" }, `Why it is here: ${reason}.`) : null;
}

function card(field) {
  const decision = item.decisions[field];
  const current = field === active;
  const node = el("article", { class: `field ${decision?.verdict ?? ""}`, "aria-current": String(current), "data-field": field },
    el("header", {}, el("span", { class: "name" }, NAMES[field]), el("span", { class: "verdict" }, decision ? MARKS[decision.verdict] : "")),
    value(field, decision), unsaved?.id === item.id && unsaved.field === field
      ? el("p", { class: "soft small", role: "alert" }, "Not saved: ", typeof unsaved.value === "object" ? "your boxes" : String(unsaved.value), " – M opens it again.") : "");
  node.onclick = () => !current && !editing && (active = field, show());
  if (current && editing) node.append(editing);
  else if (current) node.append(actions(field));
  return node;
}

function value(field, decision) {
  const was = decision && decision.verdict !== "right" ? " was" : "";
  const parts = [];
  if (field === "objects") parts.push(boxes(item.record.objects, was));
  else if (empty(field)) parts.push(el("p", { class: "value none" }, "nothing was said"));
  else if (field === "intensity") parts.push(el("p", { class: `value${was}` }, `${shown(field)}`, item.record.intensity ? el("span", { class: "soft small" }, ` · ${item.record.intensity} of 10`) : ""));
  else parts.push(el("p", { class: `value${was}` }, shown(field)));
  if (decision?.verdict === "mended") {
    const text = field === "intensity" ? `${level(decision.value)} · ${decision.value} of 10` : decision.value;
    parts.push(field === "objects" ? boxes(decision.value, " now") : el("p", { class: "value now" }, text));
  }
  if (field === "emotion" && item.record.emotion_scores) parts.push(bars());
  if (field === "intensity" && now(field)) parts.push(el("div", { class: "scale", "aria-hidden": "true" },
    Array.from({ length: 10 }, (_, i) => el("i", { class: i < now(field) ? "on" : "" }))));
  return el("div", {}, parts);
}

function boxes(objects, kind) {
  if (!objects.length) return el("p", { class: "value none" }, kind === " now" ? "no box" : "no box was found");
  const coloured = kind !== " was";
  return el("ul", { class: `boxes value${kind}` }, objects.map((object, i) => {
    const row = el("li", {}, coloured ? el("span", { class: "swatch" }) : null, object.phrase,
      el("span", { class: "soft small" }, ` · ${object.score.toFixed(2)}${object.primary ? " · the subject" : ""}${object.mask ? " · mask" : ""}`));
    if (coloured) row.firstChild.style.borderColor = colour(i);
    return row;
  }));
}

function bars() {
  return el("div", { class: "bars" }, session.emotions.map((emotion) => {
    const share = item.record.emotion_scores[emotion] ?? 0;
    const fill = el("b");
    fill.style.width = `${100 * share}%`;
    return el("div", { class: emotion === item.record.emotion ? "bar top-one" : "bar" }, el("span", {}, emotion), el("i", {}, fill), el("span", {}, `${Math.round(100 * share)}`));
  }));
}

function actions(field) {
  const none = empty(field);
  const button = (kind, text, key, work, disabled = false) => el("button", { class: kind, type: "button", disabled, onclick: work }, text, kbd(key));
  return el("div", { class: "actions" }, button("yes", "Right", "R", () => judge("right"), none), button("no", "Wrong", "W", () => judge("wrong"), none),
    button("mend", "Mend", "M", mend));
}

function moves() {
  const button = (kind, text, key, work) => el("button", { class: kind, type: "button", onclick: work }, text, kbd(key));
  return el("nav", { class: "actions move", "aria-label": "Records" }, button("", "Back", "←", () => go(-1)),
    button("", item.discarded ? "Keep" : "Discard", "X", discard), button("main", item.done ? "Next" : "Rest is right", item.done ? "→" : "A", item.done ? () => go(1) : rest));
}

function fold() {
  const node = provenance(item, !folded);
  node.ontoggle = () => (folded = !node.open);
  return node;
}

const follow = () => document.querySelector('[aria-current="true"]')?.scrollIntoView({ block: "nearest" });

// -- what the reviewer does ---------------------------------------------------------------------------------------------

async function send(decisions) {
  // What was typed is not lost, by a conflict or a server that is gone: mending the field again begins with it.
  const given = decisions.find(({ verdict }) => verdict === "mended");
  if (given) unsaved = { id: item.id, ...given };
  const reply = await ask("decide", { id: item.id, digest: item.digest, decisions });
  take(reply);
  if (reply.conflict) {
    show();
    const names = reply.conflict.map((field) => NAMES[field] ?? "the whole record").join(", ");
    throw new Error(`Decided elsewhere since this page was shown: ${names}. Nothing was saved here; what stands is shown now.`);
  }
  unsaved = null;
  note("saved");
}

/** An open editor is finished first: its keys would act on another record. */
const unlessEditing = (work) => () => (editing ? note("save (Enter) or cancel (Esc) first") : inTurn(work));

const judge = (verdict, mendedValue) => inTurn(async () => {
  const field = active;
  if (verdict !== "mended" && empty(field)) return note("nothing was said here: mend it (M)");
  await send([{ field, verdict, value: mendedValue }]);
  const order = session.fields;
  const after = [...order.slice(order.indexOf(field) + 1), ...order];
  active = after.find(open) ?? field;
  show();
  follow();
});

const rest = unlessEditing(async () => {
  const left = session.fields.filter(open);
  const unsaid = left.filter(empty);
  if (unsaid.length) {
    active = unsaid[0];
    show();
    return note(`${NAMES[active]}: nothing was said here, mend it (M)`);
  }
  if (left.length) await send(left.map((field) => ({ field, verdict: "right" })));
  await onward();
});

async function onward() {
  const order = [...session.queue.slice(place() + 1), ...session.queue];
  const next = order.find(({ id }) => !done.has(id));
  if (next) return load(next.id);
  show();
  return note(`all ${session.queue.length} records are finished`);
}

const discard = unlessEditing(async () => {
  await send([{ field: "record", verdict: item.discarded ? "right" : "wrong" }]);
  if (item.discarded) return onward();
  return show();
});

const undo = unlessEditing(async () => {
  const { undone, fields, conflict } = await ask("undo", { version: item.version });
  if (conflict) {
    await load(item.id, active);
    throw new Error("Something was decided elsewhere since this page was shown: nothing was taken back. Undo again takes back what stands last.");
  }
  if (!undone) return note("nothing to undo");
  const known = session.queue.some(({ id }) => id === undone);
  if (known) await load(undone, session.fields.includes(fields[0]) ? fields[0] : undefined);
  return note(known ? `undone: ${fields.map((f) => NAMES[f] ?? "discard").join(", ")}` : "undone, in a record outside this sample");
});

const go = (by) => unlessEditing(() => {
  const next = session.queue[place() + by];
  return next ? load(next.id) : note(by > 0 ? "this is the last record" : "this is the first record");
})();

function step(by) {
  const order = session.fields;
  active = order[(order.indexOf(active) + by + order.length) % order.length];
  show();
  follow();
}

function overlay() {
  note(picture.toggleOverlay() ? "boxes and masks shown" : "boxes and masks hidden");
}

function mend() {
  const field = active;
  const close = () => ((editing = null), show());
  const save = (given) => ((editing = null), judge("mended", given));
  const ends = { save, cancel: close };
  const value = unsaved?.id === item.id && unsaved.field === field ? unsaved.value : now(field);
  if (field === "emotion") editing = chooseOne(session.emotions.map((e, i) => [e, e, String(i + 1)]), value, ends);
  else if (field === "intensity") {
    const options = Array.from({ length: 10 }, (_, i) => [i + 1, String(i + 1), String((i + 1) % 10)]);
    editing = chooseOne(options, value, { ...ends, tight: true });
  } else if (field === "objects") editing = new BoxEditor(picture, value, item.candidates, now("subject") ?? "", ends).node;
  else editing = writeText(value, NAMES[field], ends);
  show();
  follow();
}

function onKey(event) {
  const commands = { ArrowDown: () => step(1), j: () => step(1), ArrowUp: () => step(-1), k: () => step(-1), ArrowRight: () => go(1), n: () => go(1),
    ArrowLeft: () => go(-1), p: () => go(-1), r: () => judge("right"), w: () => judge("wrong"), m: mend, a: rest, x: discard, u: undo,
    o: overlay, "?": () => help("Keys", KEYS), i: () => ((folded = !folded), show(), folded || document.getElementById("provenance").scrollIntoView({ block: "nearest" })) };
  const command = commands[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!command || event.altKey) return false;
  // A held key must not judge record after record.
  if (!event.repeat || event.key.startsWith("Arrow")) command();
  return true;
}
