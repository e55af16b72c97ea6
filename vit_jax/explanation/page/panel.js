// The choices beside the images: what to show, of which layer and head.

import { paintSmall } from "./colours.js";
import { check, element, group, radio } from "./dom.js";
import { MEAN } from "./maps.js";
import { shownMap } from "./state.js";

const MODES = {
  attention: ["Attention", "What one token draws from each of the others in one layer: softmax of query · key."],
  rollout: [
    "Rollout",
    "Attention followed from the image through all layers up to one, skip connections included (Abnar & Zuidema 2020).",
  ],
  relevance: ["Relevance", "What speaks for a class: attention times its gradient through all layers (Chefer et al. 2021)."],
};

const DIRECTIONS = {
  attention: ["Where it attends", "Who attends to it"],
  rollout: ["What it draws on", "Who draws on it"],
};

export class Panel {
  constructor(layout, table, update) {
    Object.assign(this, { layout, table, update });
    this.hint = element("p", { className: "hint" });
    const directions = [false, true].map((incoming) => [incoming, ""]);
    this.direction = group("Direction", choices("direction", directions, (incoming) => update({ incoming })));
    this.layerValue = element("span");
    this.slider = element("input", {
      type: "range",
      min: 0,
      max: layout.layers - 1,
      "aria-label": "Layer",
      oninput: () => update({ layer: Number(this.slider.value) }),
    });
    this.layers = thumbs("layer", numbers(layout.layers), "Layer", (layer) => update({ layer }));
    this.layer = group(["Layer", this.layerValue], this.slider, this.layers);
    this.headValue = element("span");
    this.heads = thumbs("head", [MEAN, ...numbers(layout.heads)], "Head", (head) => update({ head }));
    this.head = group(["Head", this.headValue], this.heads);
    this.root = element("div", { className: "panel choosing" }, this.modes(), this.direction, this.layer, this.head);
  }

  modes() {
    const known = Object.keys(MODES).filter((mode) => mode !== "relevance" || this.layout.images[0].classes.length);
    const named = known.map((mode) => [mode, MODES[mode][0]]);
    return group("Show", choices("mode", named, (mode) => this.update({ mode })), this.hint);
  }

  show(maps, state) {
    const { layout } = this;
    this.hint.textContent = MODES[state.mode][1];
    check(this.root, "mode", state.mode);
    check(this.root, "direction", state.incoming);
    const tokens = state.mode !== "relevance";
    this.direction.hidden = this.layer.hidden = !tokens;
    this.head.hidden = state.mode !== "attention" || layout.heads === 1;
    if (!tokens) return;
    this.nameDirections(DIRECTIONS[state.mode]);
    this.slider.value = state.layer;
    this.slider.setAttribute("aria-valuetext", this.layerText(state));
    this.layerValue.textContent = this.layerText(state);
    this.headValue.textContent = state.head === MEAN ? `mean of ${layout.heads}` : `${state.head} of 0 to ${layout.heads - 1}`;
    const active = maps[state.active] ?? maps[0];
    this.paintThumbs(this.layers, active, state, "layer");
    if (!this.head.hidden) this.paintThumbs(this.heads, active, state, "head");
  }

  nameDirections(names) {
    this.direction.querySelectorAll("label").forEach((label, i) => {
      label.lastChild.textContent = label.title = names[i];
      label.firstChild.setAttribute("aria-label", names[i]);
    });
  }

  layerText({ mode, layer }) {
    return mode === "rollout" ? `layers 0 to ${layer}` : `${layer} of 0 to ${this.layout.layers - 1}`;
  }

  paintThumbs(root, maps, state, key) {
    check(root, key, state[key]);
    for (const label of root.children) {
      const value = Number(label.querySelector("input").value);
      const map = shownMap(maps, state, { [key]: value });
      paintSmall(label.querySelector("canvas"), map, this.layout.grid[1], this.table);
    }
  }
}

function numbers(count) {
  return [...Array(count).keys()];
}

function choices(name, entries, choose) {
  const made = entries.map(([value, text]) => radio(name, value, "choice", text, () => choose(value), new Text(text)));
  return element("div", { className: "choices" }, ...made);
}

function thumbs(name, values, label, choose) {
  const made = values.map((value) => {
    const text = value === MEAN ? "mean" : String(value);
    const spoken = value === MEAN ? "Mean of all heads" : `${label} ${value}`;
    return radio(name, value, "thumb", spoken, () => choose(value), element("canvas"), element("span", {}, text));
  });
  return element("div", { className: `thumbs ${name}s` }, ...made);
}
