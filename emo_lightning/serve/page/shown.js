// A picture with what the model says of it: words and regions light each other up, and a region can be covered.
import { askJson, note } from "./ask.js";
import { el } from "./elements.js";
import { colour, Picture } from "./picture.js";

const percent = (share) => `${Math.round(100 * share)}\u00a0%`;
const points = (value) => `${value < 0 ? "−" : ""}${Math.abs(value).toFixed(Math.abs(value) < 10 ? 1 : 0)}`;
const area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);

export class Shown {
  /** `found`: of /v1/explain; `address`: of the picture; `uri()`: the same for a request. */
  constructor(about, found, address, uri) {
    Object.assign(this, { about, found, address, uri, lit: new Set(), marks: new Map(), covered: null });
    const { width, height } = found;
    this.frame = new Picture();
    this.frame.load(address, found.description ?? "the picture", width, height);
    // What leaves the picture is cut: a box is shown where it can be.
    this.regions = found.objects.map((region, number) => ({ ...region, number, colour: colour(number), bbox: cut(region.bbox, width, height) }));
    this.frame.node.append(...[...this.regions].sort((a, b) => area(b.bbox) - area(a.bbox)).map((region) => this.box(region)));
    this.picture = this.frame.node;
    this.draw();
    this.panel = el("div", { class: "said" }, this.unlike(), this.headline(), this.distribution(), this.intensity(), this.sentence(), this.list());
  }

  draw() {
    this.frame.draw(this.regions.map((region) => ({
      ...region, picked: this.lit.has(region.number), mask: this.lit.size && !this.lit.has(region.number) ? null : region.mask,
    })));
  }

  /** Light up regions, and every word and box that belongs to them. */
  light(numbers) {
    this.lit = new Set(numbers);
    for (const [node, own] of this.marks) node.classList.toggle("lit", own.some((number) => this.lit.has(number)));
    this.picture.classList.toggle("lighting", this.lit.size > 0);
    this.draw();
  }

  /** Have a node light up regions while it is pointed at or has the focus. */
  linked(node, numbers) {
    this.marks.set(node, numbers);
    node.onpointerenter = node.onfocus = () => this.light(numbers);
    node.onpointerleave = node.onblur = () => this.light([]);
    return node;
  }

  box(region) {
    const [x1, y1, x2, y2] = region.bbox;
    const node = el("button", { class: "spot", type: "button", "aria-label": `${name(region)}: cover it` });
    const share = { left: x1 / this.found.width, top: y1 / this.found.height, width: (x2 - x1) / this.found.width, height: (y2 - y1) / this.found.height };
    for (const [side, value] of Object.entries(share)) node.style[side] = `${100 * value}%`;
    node.style.setProperty("--colour", region.colour);
    node.onclick = () => this.cover(region);
    region.spot = node;
    return this.linked(node, [region.number]);
  }

  unlike() {
    const told = this.found.unlike;
    return told?.is_unlike ? el("p", { class: "warn", role: "note" }, el("strong", {}, sentence(told.sentence))) : null;
  }

  headline() {
    const { probe, said } = this.found;
    const emotion = probe?.emotion ?? said.emotion ?? "no emotion";
    const own = said.emotion ? `In its words: ${said.emotion}${said.confidence === null ? "" : `, ${percent(said.confidence)} by its own account`}. ` : "";
    return el("header", { class: "headline" }, this.dot(emotion), el("h2", {}, emotion),
      probe ? el("span", { class: "share" }, percent(probe.confidence)) : null,
      el("p", { class: "soft" }, own, `${sentence(this.found.comparison)}`));
  }

  dot(emotion) {
    const node = el("i", { class: "dot", "aria-hidden": "true" });
    node.style.setProperty("--colour", this.about.colours[emotion] ?? "currentColor");
    return node;
  }

  distribution() {
    const { probe } = this.found;
    if (!probe) return el("p", { class: "soft" }, "The model has no probe, which gives the emotion's distribution.");
    const inside = new Set(probe.conformal_set ?? []);
    const ranked = Object.entries(probe.distribution).sort(([, a], [, b]) => b - a);
    const rows = ranked.map(([emotion, share]) => {
      const bar = el("i", { class: "bar", "aria-hidden": "true" }, el("b"));
      bar.firstChild.style.width = `${100 * share}%`;
      bar.style.setProperty("--colour", this.about.colours[emotion]);
      const label = `${emotion} ${percent(share)}${inside.has(emotion) ? ", in the set" : ""}`;
      return el("li", { class: inside.has(emotion) ? "inside" : "", "aria-label": label }, el("span", {}, emotion), bar, el("span", { class: "number" }, percent(share)));
    });
    const about = this.found.unlike?.is_unlike ? el("p", { class: "soft small" }, "Of a picture like this one no set of them is sure.")
      : probe.conformal_set
      ? el("p", { class: "soft small" }, el("i", { class: "key", "aria-hidden": "true" }), `Marked: such sets hold the true emotion in ${percent(probe.coverage)} of images like those it was fitted on.`)
      : el("p", { class: "soft small" }, "Not calibrated: an order, not frequencies.");
    return el("section", {}, el("h3", {}, "Emotion"), el("ol", { class: "bars" }, rows), about);
  }

  intensity() {
    const { intensity, intensity_level: level } = this.found;
    if (intensity === null) return null;
    const on = Math.round(intensity);
    const steps = Array.from({ length: 10 }, (_, place) => el("i", { class: place < on ? "on" : "" }));
    return el("section", {}, el("h3", {}, "Intensity"),
      el("div", { class: "scale" }, el("div", { class: "steps", role: "img", "aria-label": `${intensity} of 10` }, steps),
        el("span", {}, `${intensity} of 10${level ? `, ${level}` : ""}`)));
  }

  sentence() {
    const pieces = this.found.sentence.map(({ text, regions, parts }) => {
      if (!regions.length && !parts.length) return text;
      const title = parts.join(", ") || null;
      if (!regions.length) return el("span", { class: "part", title }, text);
      const node = el("button", { class: "word", type: "button", title });
      node.style.setProperty("--colour", colour(regions[0]));
      node.append(text);
      node.onclick = () => this.cover(this.regions[regions[0]]);
      return this.linked(node, regions);
    });
    const triplet = ["background", "attribute", "subject"].map((part) => [el("dt", {}, part), el("dd", {}, this.found[part] ?? "–")]);
    return el("section", {}, el("h3", {}, "What it sees"), pieces.length ? el("p", { class: "sentence" }, pieces) : el("p", { class: "soft" }, "It describes nothing."),
      el("dl", { class: "triplet" }, triplet));
  }

  list() {
    const title = el("h3", {}, "What it points at");
    if (!this.regions.length) return el("section", {}, title, el("p", { class: "soft" }, "Nothing."));
    const rows = this.regions.map((region) => {
      const swatch = el("i", { class: "swatch", "aria-hidden": "true" });
      swatch.style.setProperty("--colour", region.colour);
      region.button = el("button", { type: "button", "aria-pressed": "false", disabled: !this.about.has_probe }, "Cover it");
      region.button.onclick = () => this.cover(region);
      region.told = el("p", { class: "told small", "aria-live": "polite" });
      return this.linked(el("li", {}, el("div", {}, swatch, el("span", { class: "grow" }, name(region)), region.button), region.told), [region.number]);
    });
    return el("section", {}, title, el("ul", { class: "regions" }, rows), el("p", { class: "soft small" },
      "Cover a region to see whether the emotion depends on it; boxes of the same size elsewhere are what to compare with."));
  }

  /** Cover a region, or uncover it: what becomes of the emotion is asked once. */
  async cover(region) {
    if (!this.about.has_probe) return;
    const again = this.covered === region;
    this.covered = again ? null : region;
    for (const one of this.regions) {
      const mine = one === this.covered;
      one.spot.classList.toggle("covered", mine);
      one.button.setAttribute("aria-pressed", String(mine));
      one.button.textContent = mine ? "Uncover" : "Cover it";
    }
    if (again || region.asked) return;
    region.asked = true;
    region.told.textContent = "Asking …";
    try {
      const found = await askJson("v1/faithfulness", { image: await this.uri(), box: region.bbox });
      region.told.textContent = told(found);
    } catch (error) {
      region.asked = false;
      region.told.textContent = "";
      note(error.message, true);
    }
  }
}

function told({ emotion, probability, fall, random_fall: random }) {
  const after = `${emotion} ${percent(probability / 100)} → ${percent((probability - fall) / 100)} when it is covered`;
  if (random === null) return `${after}. There is no room for boxes of its size elsewhere.`;
  const more = fall - random;
  const meaning = Math.abs(more) < 1 ? "no more than any other place" : more > 0 ? `${points(more)} points more than other places` : `${points(-more)} points less than other places`;
  return `${after}; elsewhere → ${percent((probability - random) / 100)}. It counts ${meaning}.`;
}

const name = (region) => region.phrase || "something";
const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}.`;
const cut = ([x1, y1, x2, y2], width, height) => [Math.max(0, x1), Math.max(0, y1), Math.min(width, x2), Math.min(height, y2)];
