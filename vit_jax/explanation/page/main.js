// The page: one state, drawn again after each change.

import { Classes } from "./classes.js";
import { colourTable } from "./colours.js";
import { element } from "./dom.js";
import { belongsTo, changes } from "./keys.js";
import { ImageMaps } from "./maps.js";
import { Options } from "./options.js";
import { Panel } from "./panel.js";
import { Stage } from "./stage.js";
import { firstState, ranges, shownMap } from "./state.js";

const WIDE = "(min-width: 50.01rem)";
const root = document.getElementById("vit-page");

class Page {
  constructor(layout) {
    this.layout = layout;
    this.state = firstState(layout, matchMedia(WIDE).matches);
    this.maps = layout.images.map((image) => new ImageMaps(layout, image));
    const table = colourTable(layout.colours);
    const update = (change) => this.update(change);
    this.stages = [0, 1].map((slot) => new Stage(layout, table, slot, update));
    this.panel = new Panel(layout, table, update);
    this.classes = new Classes(layout, table, update);
    this.options = new Options(layout, update, (images) => this.add(images));
    this.left = element("div", { className: "stages" });
    const parts = [this.left, this.panel.root, this.classes.root, this.options.root];
    root.replaceChildren(masthead(layout), element("div", { className: "work" }, ...parts));
    document.addEventListener("keydown", (event) => this.press(event));
  }

  update(change) {
    Object.assign(this.state, typeof change === "function" ? change(this.state) : change);
    this.waiting ??= requestAnimationFrame(() => {
      this.waiting = null;
      this.draw().catch(report);
    });
  }

  /** Takes in images of another page, and shows the first beside what is shown. */
  add(images) {
    const first = this.layout.images.push(...images) - images.length;
    this.maps.push(...images.map((image) => new ImageMaps(this.layout, image)));
    this.update(({ classes, images: [shown] }) => ({
      classes: [...classes, ...images.map(() => 0)],
      images: [shown, first],
    }));
  }

  press(event) {
    if (belongsTo(event.target, event)) return;
    const change = changes(this.layout, this.state, event);
    if (!change) return;
    event.preventDefault();
    this.update(change);
  }

  async draw() {
    const chosen = this.state.images.filter((image) => image !== null);
    const maps = await Promise.all(chosen.map((image) => this.maps[image].load()));
    const shown = maps.map((found) => shownMap(found, this.state));
    const scales = ranges(shown, this.state);
    const stages = this.stages.slice(0, maps.length);
    if (this.left.children.length !== stages.length) this.left.replaceChildren(...stages.map((stage) => stage.root));
    this.left.classList.toggle("two", stages.length === 2);
    stages.forEach((stage, i) => stage.show(maps[i].image, this.state, shown[i], scales[i]));
    this.panel.show(maps, this.state);
    this.classes.show(maps, this.state);
    this.options.show(this.state);
    Object.assign(root.dataset, { mode: this.state.mode, images: maps.length });
    root.dataset.drawn = Number(root.dataset.drawn ?? 0) + 1;
  }
}

function masthead(layout) {
  const button = element("button", { type: "button", onclick: () => turn(button) });
  label(button);
  const heading = element("h1", {}, layout.title);
  return element("header", { className: "masthead" }, element("div", {}, heading, element("p", {}, layout.subtitle)), button);
}

function isDark() {
  const { theme } = document.documentElement.dataset;
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function turn(button) {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  label(button);
}

function label(button) {
  button.textContent = isDark() ? "Light" : "Dark";
  button.setAttribute("aria-label", isDark() ? "Switch to light colours" : "Switch to dark colours");
}

function report(error) {
  console.error(error);
  root.prepend(element("p", { className: "problem", role: "alert" }, `This page cannot be drawn: ${error.message}`));
}

if (typeof DecompressionStream === "undefined") {
  const known = "Chrome or Edge 105, Firefox 121, Safari 16.4";
  const line = `This browser cannot inflate the page's data (it has no DecompressionStream): open it with ${known} or newer.`;
  root.replaceChildren(element("p", { className: "problem", role: "alert" }, line));
} else {
  new Page(JSON.parse(document.getElementById("vit-layout").textContent)).draw().catch(report);
}
