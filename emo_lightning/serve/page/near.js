// The images of an index: the nearest to the picture, and those on the way from it to another one.
import { ask, askJson, note } from "./ask.js";
import { el } from "./elements.js";

const STEPS = 6;
const CHOOSE = "Choose an image above, or another picture of yours.";

export class Near {
  constructor(node, about) {
    Object.assign(this, { node, about });
    this.nearest = el("ul", { class: "grid" });
    this.path = el("ol", { class: "path" });
    this.way = el("p", { class: "soft", "aria-live": "polite" }, CHOOSE);
    const second = el("button", { type: "button" }, "To another picture …");
    second.onclick = () => document.getElementById("second").click();
    node.append(...(about.index === null
      ? [el("h2", {}, "Images that feel alike"), el("p", { class: "soft" }, ...how(about.how_to_index))]
      : [el("h2", {}, "Images that feel alike"), el("p", { class: "soft" }, `Nearest of ${about.index.toLocaleString("en")} by what they make people feel.`),
        this.nearest, el("h2", {}, "The way to another image"), el("div", { class: "row" }, this.way, second), this.path]));
  }

  /** Look from a picture that has been explained. */
  async from(des, address) {
    this.node.hidden = false;
    if (this.about.index === null) return;
    Object.assign(this, { des, address });
    this.path.replaceChildren();
    this.way.textContent = CHOOSE;
    await this.tried(async () => {
      const { data } = await askJson("v1/search", { embedding: des, k: 12 });
      if (this.des !== des) return;
      this.nearest.replaceChildren(...data.map((hit) => el("li", {}, this.card(hit, () => this.to(hit)))));
    });
  }

  card(hit, onclick) {
    const emotion = hit.emotion ?? "no emotion";
    const dot = el("i", { class: "dot", "aria-hidden": "true" });
    dot.style.setProperty("--colour", this.about.colours[emotion] ?? "currentColor");
    const picture = hit.has_thumbnail
      ? el("img", { src: `v1/thumbnail?id=${encodeURIComponent(hit.id)}`, alt: "", loading: "lazy" }) : el("span", { class: "blank" }, "no picture");
    const text = el("span", { class: "caption" }, el("span", { class: "feeling" }, dot, emotion), el("span", { class: "soft" }, hit.cosine.toFixed(2)));
    const title = [hit.id, hit.background, hit.attribute, hit.subject].filter(Boolean).join(" – ");
    const label = `${emotion}, ${title}, similarity ${hit.cosine.toFixed(2)}`;
    return onclick ? el("button", { class: "card", type: "button", title, onclick, "aria-label": `${label}: show the way to it` }, picture, text)
      : el("figure", { class: "card", title, "aria-label": label }, picture, text);
  }

  to(hit) {
    return this.walk({ id: hit.id }, `On the way from your picture to ${hit.id}:`);
  }

  async toFile(file) {
    if (!file) return;
    await this.tried(async () => {
      const { data } = await ask("v1/explain?max_new_tokens=1", { body: file, type: file.type || "application/octet-stream" });
      const far = data[0].unlike?.is_unlike ? ` ${file.name} is unlike what this model was trained on: take what is found for a guess.` : "";
      await this.walk({ embedding: data[0].des }, `On the way from your picture to ${file.name}:${far}`, URL.createObjectURL(file));
    });
  }

  walk(end, text, last) {
    return this.tried(async () => {
      const { des } = this;
      const { data } = await askJson("v1/path", { start: { embedding: des }, end, steps: STEPS });
      // Another picture has been brought since.
      if (this.des !== des) return;
      const own = (src, alt) => el("li", {}, el("figure", { class: "card" }, el("img", { src, alt }), el("span", { class: "caption" }, alt)));
      this.path.replaceChildren(own(this.address, "your picture"), ...data.map((hit) => el("li", {}, this.card(hit))), ...(last ? [own(last, "the other one")] : []));
      this.way.textContent = text;
      this.path.scrollIntoView({ block: "nearest", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
    });
  }

  async tried(work) {
    try {
      await work();
    } catch (error) {
      note(error.message, true);
    }
  }
}

/** A text whose `commands` are set as code. */
const how = (text) => `${text[0].toUpperCase()}${text.slice(1)}.`.split("`").map((part, place) => (place % 2 ? el("code", {}, part) : part));
