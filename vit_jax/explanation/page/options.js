// How the maps are drawn, which images are compared, and the notes below.

import { element } from "./dom.js";
import { imagesOf } from "./other.js";

const KEYS = [
  ["← ↑ → ↓", "move the query over the patches"],
  ["P", "query the tokens before the patches, one after the other"],
  ["Esc", "let go of the query: it follows the pointer again"],
  ["L, Shift L", "next layer, previous layer"],
  ["H, Shift H", "next head, previous head"],
  ["M", "mean of all heads"],
  ["T", "turn round: where it attends, who attends to it"],
  ["1 2 3", "attention, rollout, relevance"],
  ["C, Shift C", "relevance for the next class, the previous one"],
  ["I", "the image without the map"],
];

export class Options {
  constructor(layout, update, add) {
    Object.assign(this, { layout, update, add });
    this.opacity = element("input", {
      type: "range",
      min: 0,
      max: 100,
      oninput: () => update({ opacity: Number(this.opacity.value) }),
    });
    this.stretched = checkbox((stretched) => update({ stretched }));
    this.shared = checkbox((shared) => update({ shared }));
    this.sharedLabel = element("label", { className: "check" }, this.shared, "One colour scale for both images");
    this.pickers = [0, 1].map((slot) => this.picker(slot));
    const labels = this.pickers.map((picked, slot) => element("label", {}, slot ? "Compare with" : "Image", picked));
    this.several = element("div", { className: "pair" }, ...labels);
    const options = [
      this.several,
      this.sharedLabel,
      this.opener(),
      element("label", {}, "Map over image", this.opacity),
      element("label", { className: "check" }, this.stretched, "Colours from the smallest value, not from 0"),
    ];
    this.root = element("div", { className: "panel other" }, element("div", { className: "options" }, ...options), keys(), this.about());
  }

  picker(slot) {
    const change = () => {
      const value = picked.value === "" ? null : Number(picked.value);
      this.update(({ images }) => ({ images: images.map((old, i) => (i === slot ? value : old)), active: 0 }));
    };
    const picked = element("select", { onchange: change });
    return picked; // filled by `list`
  }

  /** Opens the file of another page, and puts its first image beside this one. */
  opener() {
    const said = element("p", { className: "hint", role: "status", hidden: true });
    const say = (text) => Object.assign(said, { textContent: text, hidden: !text });
    const open = async ([file]) => {
      if (!file) return;
      try {
        this.add(await imagesOf(file, this.layout));
        say("");
      } catch (error) {
        say(error.message);
      }
      input.value = "";
    };
    const input = element("input", { type: "file", accept: ".html", hidden: true, onchange: () => open(input.files) });
    const button = element("button", { type: "button", onclick: () => input.click() }, "Compare with another page’s image …");
    return element("div", {}, button, input, said);
  }

  list() {
    const { images } = this.layout;
    this.pickers.forEach((picked, slot) => {
      if (picked.length === images.length + slot) return;
      const entries = images.map(({ name }, i) => element("option", { value: i }, name));
      picked.replaceChildren(...(slot ? [element("option", { value: "" }, "no other image")] : []), ...entries);
    });
  }

  show(state) {
    this.opacity.value = state.opacity;
    this.stretched.checked = state.stretched;
    this.shared.checked = state.shared;
    this.sharedLabel.hidden = state.images[1] === null;
    this.several.hidden = this.layout.images.length < 2;
    this.list();
    this.pickers.forEach((picked, slot) => (picked.value = state.images[slot] === null ? "" : String(state.images[slot])));
  }

  about() {
    const text = [
      "Hover over a patch to make it the query; click or tap to hold it, and again to let it go. On a touch screen, " +
        "drag sideways. Layers, heads, rows and columns are counted from 0.",
      "Each row of attention is stored in 8 bits beside its largest value: a number is right to 1/510 of that value. " +
        "The small maps have a colour scale each.",
      ...this.layout.notes,
    ];
    return element("details", {}, element("summary", {}, "About this page"), ...text.map((line) => element("p", {}, line)));
  }
}

function checkbox(change) {
  const box = element("input", { type: "checkbox", onchange: () => change(box.checked) });
  return box;
}

function keys() {
  const rows = KEYS.flatMap(([key, text]) => [element("dt", {}, element("kbd", {}, key)), element("dd", {}, text)]);
  return element("details", {}, element("summary", {}, "Keyboard"), element("dl", { className: "keys" }, ...rows));
}
