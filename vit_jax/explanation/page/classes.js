// The classes of the images shown: how probable, and what speaks for each.

import { paintSmall } from "./colours.js";
import { check, element, group, radio } from "./dom.js";
import { chosenClass, shownMap } from "./state.js";
import { percent } from "./words.js";

export class Classes {
  constructor(layout, table, update) {
    Object.assign(this, { layout, table, update });
    this.root = element("section", { className: "classes", "aria-label": "Classes" });
  }

  show(maps, state) {
    this.root.hidden = !maps[0].image.classes.length;
    const listed = maps.map(({ image }) => this.layout.images.indexOf(image)).join();
    if (this.listed !== listed) {
      this.root.replaceChildren(...maps.map((found, slot) => this.list(found, slot, maps.length)));
      this.listed = listed;
    }
    this.root.classList.toggle("relevance", state.mode === "relevance");
    this.root.classList.toggle("two", maps.length === 2);
    maps.forEach(({ image }, slot) => check(this.root, `class-${slot}`, state.classes[this.layout.images.indexOf(image)]));
  }

  list(maps, slot, count) {
    const image = this.layout.images.indexOf(maps.image);
    const choose = (place) => (state) => ({
      mode: "relevance",
      classes: chosenClass(this.layout, state, image, place),
      active: slot,
    });
    const rows = maps.image.classes.map(({ name, probability }, place) => {
      const canvas = element("canvas");
      const map = shownMap(maps, { mode: "relevance", classes: [], token: 0 }, { place });
      paintSmall(canvas, map, this.layout.grid[1], this.table);
      const bar = element("span", { className: "bar" }, element("i"));
      bar.firstChild.style.width = `${100 * probability}%`;
      const words = [element("span", { className: "name" }, name), element("span", {}, percent(probability))];
      const label = `${name}, ${percent(probability)}: show its relevance`;
      return radio(`class-${slot}`, place, "class", label, () => this.update(choose(place)), canvas, ...words, bar);
    });
    const title = count > 1 ? ["Classes", element("span", { title: maps.image.name }, maps.image.name)] : ["Classes"];
    return group(title, ...rows);
  }
}
