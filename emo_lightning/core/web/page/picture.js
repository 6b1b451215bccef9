// The image with its boxes and masks.
import { el, svg } from "./elements.js";
import { decode } from "./rle.js";

/** Told apart by people who see few colours too (Okabe and Ito). */
export const COLOURS = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2"];
export const colour = (place) => COLOURS[place % COLOURS.length];
/** Longer side of the masks as drawn, whatever the image's, and the width of their edges. */
const MASK_SIDE = 1200;
const EDGE = 2;

export class Picture {
  constructor() {
    this.image = el("img", { alt: "", draggable: false });
    this.masks = el("canvas");
    this.boxes = svg("svg", { preserveAspectRatio: "none", "aria-hidden": "true" });
    this.node = el("div", { class: "frame" }, this.image, this.masks, this.boxes);
  }

  load(address, description, width, height) {
    this.width = width;
    this.height = height;
    this.image.alt = description;
    if (this.address !== address) this.image.src = this.address = address;
    this.node.style.setProperty("--ratio", width / height);
    this.boxes.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.draw([]);
  }

  /** Objects with `bbox`, `mask`; `off`: dashed and without mask, `picked`: thick. */
  draw(objects) {
    this.boxes.replaceChildren();
    objects.forEach((object, place) => {
      const [x1, y1, x2, y2] = object.bbox;
      const at = { x: x1, y: y1, width: Math.max(0, x2 - x1), height: Math.max(0, y2 - y1) };
      const kind = `${object.off ? "off" : ""} ${object.picked ? "picked" : ""}`;
      if (!object.off) this.boxes.append(svg("rect", { ...at, class: "halo" }));
      this.boxes.append(svg("rect", { ...at, class: `box ${kind}`, stroke: object.colour ?? colour(place) }));
    });
    this.paint(objects.map((object, place) => ({ ...object, colour: object.colour ?? colour(place) })).filter((o) => o.mask && !o.off));
  }

  /** Masks: a wash of the colour, and an edge like that of the boxes, so that they show on any picture. */
  paint(objects) {
    const what = JSON.stringify(objects.map(({ mask, colour: of }) => [of, mask]));
    // Moving a box changes no mask.
    if (what === this.painted) return;
    this.painted = what;
    const scale = MASK_SIDE / Math.max(this.width, this.height);
    const width = (this.masks.width = Math.max(1, Math.round(this.width * scale)));
    const height = (this.masks.height = Math.max(1, Math.round(this.height * scale)));
    if (!objects.length) return;
    const context = this.masks.getContext("2d");
    const pixels = context.createImageData(width, height);
    for (const object of objects) {
      const mask = decode(object.mask);
      const inside = (x, y) => mask[Math.floor((y * this.height) / height) * this.width + Math.floor((x * this.width) / width)];
      const [red, green, blue] = [1, 3, 5].map((i) => parseInt(object.colour.slice(i, i + 2), 16));
      for (let y = 0; y < height; y++) {
        for (let x = 0; x < width; x++) {
          const here = inside(x, y);
          const edge = here !== inside(Math.max(0, x - EDGE), y) || here !== inside(Math.min(width - 1, x + EDGE), y)
            || here !== inside(x, Math.max(0, y - EDGE)) || here !== inside(x, Math.min(height - 1, y + EDGE));
          if (here) pixels.data.set([red, green, blue, edge ? 255 : 84], 4 * (y * width + x));
          else if (edge) pixels.data.set([0, 0, 0, 140], 4 * (y * width + x));
        }
      }
    }
    context.putImageData(pixels, 0, 0);
  }

  toggleOverlay() {
    return !this.node.classList.toggle("plain-view");
  }

  /** A pointer event in pixels of the image, kept inside of it. */
  place(event) {
    const frame = this.boxes.getBoundingClientRect();
    const x = ((event.clientX - frame.left) / frame.width) * this.width;
    const y = ((event.clientY - frame.top) / frame.height) * this.height;
    return [Math.min(this.width, Math.max(0, x)), Math.min(this.height, Math.max(0, y))];
  }
}
