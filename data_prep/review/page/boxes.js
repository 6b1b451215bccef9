// Mending boxes: choose among what grounding found, draw, move, delete; by keyboard, mouse or finger.
import { el, kbd, pushKeys } from "./dom.js";
import { colour } from "./picture.js";

const HINTS = [["Tab", "next box"], ["Space", "use or not"], ["N", "new box"], ["← → ↑ ↓", "move"], ["⇧ arrows", "resize"], ["Alt", "finer"],
  ["P", "the subject"], ["Del", "delete"]];
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const round = (value) => Math.round(value * 100) / 100;

export class BoxEditor {
  /** `objects`: those of the record (or of an earlier mend); `candidates`: everything there is to choose from. */
  constructor(picture, objects, candidates, phrase, { save, cancel }) {
    Object.assign(this, { picture, phrase, save, cancel });
    const same = (a, b) => JSON.stringify(a.bbox) === JSON.stringify(b.bbox);
    const others = candidates.filter((candidate) => !objects.some((object) => same(object, candidate)));
    this.rows = [...objects.map((object) => ({ object, on: true })), ...others.map((object) => ({ object, on: false }))];
    this.at = 0;
    this.list = el("ul", { class: "candidates", role: "listbox", "aria-label": "Boxes" });
    this.node = el("div", { class: "editor" }, this.list,
      el("p", { class: "keys" }, HINTS.map(([key, text]) => el("span", {}, kbd(key), ` ${text}`))),
      el("p", { class: "soft small" }, "Or drag on the image to draw a box."),
      el("div", { class: "actions" },
        el("button", { type: "button", onclick: () => this.add() }, "New box"),
        el("button", { class: "main", type: "button", onclick: () => this.end(true) }, "Save", kbd("Enter")),
        el("button", { type: "button", onclick: () => this.end(false) }, "Cancel", kbd("Esc"))));
    this.pop = pushKeys((event) => this.key(event));
    picture.node.classList.add("drawing");
    picture.boxes.onpointerdown = (event) => this.drag(event);
    this.show();
  }

  show() {
    this.list.replaceChildren(...this.rows.map(({ object, on }, place) => {
      const text = `${object.phrase || "box"}${object.score < 1 ? ` · ${object.score.toFixed(2)}` : ""}`;
      const row = el("li", { role: "option", "aria-selected": String(place === this.at), class: on ? "" : "out" },
        el("span", { class: "swatch" }), el("span", { class: "grow" }, text, object.primary && on ? el("span", { class: "soft small" }, " · the subject") : null),
        el("button", { class: "plain small", type: "button", tabIndex: -1, onclick: (event) => (event.stopPropagation(), this.toggle(place)) }, on ? "used" : "not used"));
      row.firstChild.style.borderColor = colour(place);
      row.onclick = () => this.select(place);
      return row;
    }));
    this.picture.draw(this.rows.map(({ object, on }, place) => ({ ...object, off: !on, picked: place === this.at, colour: colour(place) })));
    // One box more, and the buttons would slip out of sight; where not all finds room, the current box comes first.
    if (this.node.isConnected) for (const part of [this.node.lastChild, this.list.children[this.at]]) part?.scrollIntoView({ block: "nearest" });
  }

  select(place) {
    this.at = this.rows.length ? (place + this.rows.length) % this.rows.length : 0;
    this.show();
  }

  toggle(place) {
    if (this.rows[place]) this.rows[place].on = !this.rows[place].on;
    this.select(place);
  }

  add(bbox) {
    const { width, height } = this.picture;
    const box = (bbox ?? [width * 0.3, height * 0.3, width * 0.7, height * 0.7]).map(round);
    const primary = !this.rows.some(({ object, on }) => on && object.primary);
    this.rows.push({ object: { phrase: this.phrase, bbox: box, score: 1, mask: null, primary }, on: true });
    this.select(this.rows.length - 1);
  }

  remove() {
    if (this.rows.length) this.rows.splice(this.at, 1);
    this.select(Math.min(this.at, this.rows.length - 1));
  }

  nudge([dx, dy], resize, fine) {
    const row = this.rows[this.at];
    if (!row) return;
    const { width, height } = this.picture;
    const step = Math.max(width, height) * (fine ? 0.002 : 0.02);
    let [x1, y1, x2, y2] = row.object.bbox;
    if (resize) {
      x2 = Math.min(width, Math.max(x1 + 1, x2 + dx * step));
      y2 = Math.min(height, Math.max(y1 + 1, y2 + dy * step));
    } else {
      const mx = Math.min(width - x2, Math.max(-x1, dx * step));
      const my = Math.min(height - y2, Math.max(-y1, dy * step));
      [x1, x2, y1, y2] = [x1 + mx, x2 + mx, y1 + my, y2 + my];
    }
    // A box that was moved by hand is the hand's: neither the detector's score nor its mask speak of it any more.
    row.object = { ...row.object, bbox: [x1, y1, x2, y2].map(round), score: 1, mask: null };
    row.on = true;
    this.show();
  }

  drag(event) {
    const target = this.picture.boxes;
    const [x, y] = this.picture.place(event);
    target.setPointerCapture(event.pointerId);
    const box = (other) => {
      const [u, v] = this.picture.place(other);
      return [Math.min(x, u), Math.min(y, v), Math.max(x, u), Math.max(y, v)];
    };
    target.onpointermove = (move) => {
      this.show();
      const [x1, y1, x2, y2] = box(move);
      this.picture.draw([...this.rows.map(({ object, on }, i) => ({ ...object, mask: null, off: !on, colour: colour(i) })),
        { bbox: [x1, y1, x2, y2], picked: true, colour: colour(this.rows.length) }]);
    };
    target.onpointerup = (up) => {
      target.onpointermove = target.onpointerup = null;
      const [x1, y1, x2, y2] = box(up);
      // A click is no box.
      if (x2 - x1 > this.picture.width * 0.01 && y2 - y1 > this.picture.height * 0.01) this.add([x1, y1, x2, y2]);
      else this.show();
    };
  }

  key(event) {
    if (event.key === "Enter") this.end(true);
    else if (event.key === "Escape") this.end(false);
    else if (event.key === "Tab") this.select(this.at + (event.shiftKey ? -1 : 1));
    else if (event.key === " ") this.toggle(this.at);
    else if (MOVES[event.key]) this.nudge(MOVES[event.key], event.shiftKey, event.altKey);
    else if (event.key === "n" || event.key === "N") this.add();
    else if (event.key === "Delete" || event.key === "Backspace") this.remove();
    else if (event.key === "p" || event.key === "P") {
      this.rows.forEach((row, place) => (row.object = { ...row.object, primary: place === this.at }));
      this.show();
    } else return event.key.length === 1;
    return true;
  }

  end(keep) {
    this.pop();
    this.picture.node.classList.remove("drawing");
    this.picture.boxes.onpointerdown = null;
    const used = this.rows.filter(({ on }) => on).map(({ object }) => object);
    // One subject at least, where there are boxes: what reads a record takes its regions by that mark.
    if (used.length && !used.some((object) => object.primary)) used[0] = { ...used[0], primary: true };
    if (keep) this.save(used);
    else this.cancel();
  }
}
