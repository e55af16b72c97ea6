// One image with its map, its colour bar and the tokens that are no patches.

import { colourOf, paint } from "./colours.js";
import { check, element, radio } from "./dom.js";
import { number, percent, sentence } from "./words.js";

const SMALL = 128; // pixels; smaller images are enlarged with their pixels sharp

export class Stage {
  constructor(layout, table, slot, update) {
    Object.assign(this, { layout, table, slot, update });
    this.title = element("h2");
    [this.small, this.photo] = ["", "photo"].map((className) => element("img", { className, alt: "", draggable: false }));
    this.heat = element("canvas");
    this.mark = element("div", { className: "mark" });
    this.here = element("div", { className: "mark here" });
    this.picture = element(
      "div",
      { className: "picture", tabIndex: 0, role: "application", "aria-roledescription": "grid of patches" },
      this.photo,
      this.heat,
      this.mark,
      this.here,
    );
    this.bar = element("canvas", { width: 256, height: 1, role: "img" });
    this.ticks = [0, 1, 2].map(() => element("li"));
    this.readout = element("p", { className: "readout", "aria-live": "polite" });
    const choose = (token) => update({ token, pinned: true, active: slot });
    this.tokens = layout.prefix.map((name, token) =>
      radio(`token-${slot}`, token, "token", `Query: ${name}`, () => choose(token), element("i"), name, element("b")),
    );
    const legend = `Tokens that are no patches, image ${slot + 1}`;
    this.chips = element("fieldset", { className: "tokens", "aria-label": legend }, ...this.tokens);
    this.root = element(
      "article",
      { className: "stage" },
      element("header", {}, this.small, this.title),
      this.picture,
      element("div", { className: "scale" }, this.bar, element("ol", {}, ...this.ticks)),
      this.chips,
      this.readout,
    );
    paint(this.bar, Float32Array.from({ length: 256 }, (_, i) => i), 256, { low: 0, high: 255 }, table);
    this.listen();
  }

  listen() {
    const { picture, slot, update } = this;
    picture.addEventListener("pointermove", (event) => {
      const hovered = this.patchAt(event);
      if (event.pointerType === "mouse") update({ hovered, active: slot });
      else if (event.buttons) update({ token: hovered, pinned: true, active: slot });
    });
    picture.addEventListener("pointerleave", () => update({ hovered: null }));
    picture.addEventListener("click", (event) => {
      const token = this.patchAt(event);
      update((state) => ({ token, pinned: !(state.pinned && state.token === token), active: slot }));
    });
  }

  patchAt({ clientX, clientY }) {
    const box = this.picture.getBoundingClientRect();
    const [rows, columns] = this.layout.grid;
    const within = (share, count) => Math.min(count - 1, Math.max(0, Math.floor(share * count)));
    const row = within((clientY - box.top) / box.height, rows);
    const column = within((clientX - box.left) / box.width, columns);
    return this.layout.prefix.length + row * columns + column;
  }

  show(image, state, shown, range) {
    const { picture, photo, heat, layout, table } = this;
    if (photo.src !== image.source) {
      for (const img of [photo, this.small]) img.src = image.source;
      photo.classList.toggle("sharp", image.width < SMALL);
      picture.style.aspectRatio = `${image.width} / ${image.height}`;
      Object.assign(this.title, { textContent: image.name, title: image.name });
      picture.setAttribute("aria-label", `Patches of ${image.name}; arrow keys move the query`);
    }
    paint(heat, shown.patches, layout.grid[1], range, table);
    heat.style.opacity = state.opacity / 100;
    photo.style.filter = state.opacity ? "grayscale(1)" : ""; // beneath the map, colour means its numbers alone
    this.place(this.mark, state.mode === "relevance" ? null : shown.token);
    const here = state.hovered !== null && state.hovered !== shown.token ? state.hovered : null;
    this.place(this.here, here);
    this.showScale(state, range);
    this.showTokens(state, shown, range);
    this.readout.textContent = sentence(layout, state, shown, here);
  }

  place(mark, token) {
    const patch = token === null ? -1 : token - this.layout.prefix.length;
    mark.hidden = patch < 0;
    const [rows, columns] = this.layout.grid;
    Object.assign(mark.style, {
      top: `${(100 * Math.floor(patch / columns)) / rows}%`,
      left: `${(100 * (patch % columns)) / columns}%`,
      height: `${100 / rows}%`,
      width: `${100 / columns}%`,
    });
  }

  showScale({ mode }, { low, high }) {
    const write = mode === "relevance" ? number : percent;
    [low, (low + high) / 2, high].forEach((value, i) => (this.ticks[i].textContent = write(value)));
    Object.assign(this.bar.dataset, { low, high });
    this.bar.setAttribute("aria-label", `Colours from ${write(low)} to ${write(high)}`);
  }

  showTokens({ mode }, { values, token }, range) {
    this.chips.hidden = mode === "relevance" || !this.tokens.length;
    this.tokens.forEach((chip, i) => {
      chip.querySelector("i").style.background = colourOf(values[i], range, this.table);
      chip.querySelector("b").textContent = percent(values[i]);
    });
    check(this.chips, `token-${this.slot}`, token);
  }
}
