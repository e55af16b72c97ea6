// What is chosen, and what follows from it.

import { MEAN } from "./maps.js";
import { rangeOf } from "./colours.js";

/** Of the map over the image, in percent. */
export const OPACITY = 60;

/** All that can be chosen on the page. `token` is the chosen query, `hovered` the patch under the pointer. */
export function firstState(layout, wide) {
  const [rows, columns] = layout.grid;
  const centre = layout.prefix.length + Math.floor(rows / 2) * columns + Math.floor(columns / 2);
  return {
    mode: "attention",
    layer: layout.layers - 1,
    head: MEAN,
    incoming: false,
    token: layout.prefix.length ? 0 : centre,
    pinned: false,
    hovered: null,
    images: [0, layout.images.length > 1 && wide ? 1 : null],
    classes: layout.images.map(() => 0),
    active: 0,
    opacity: OPACITY,
    stretched: false,
    shared: true,
  };
}

/** The query whose map is shown: the patch under the pointer, unless another is held. */
export function shownToken(state) {
  const follows = state.hovered !== null && !state.pinned && state.mode !== "relevance";
  return follows ? state.hovered : state.token;
}

/** What an image's map shows: the values of all tokens, and which patch has most. */
export function shownMap(maps, state, changes = {}) {
  const { mode, layer, head, incoming, classes } = { ...state, ...changes };
  const token = shownToken(state);
  const place = changes.place ?? classes[maps.layout.images.indexOf(maps.image)];
  const values = {
    attention: () => maps.attention(layer, head, token, incoming),
    rollout: () => maps.rollout(layer, token, incoming),
    relevance: () => maps.relevance(place),
  }[mode]();
  const prefix = maps.layout.prefix.length;
  const patches = values.subarray(prefix);
  const most = prefix + patches.reduce((best, value, i) => (value > patches[best] ? i : best), 0);
  return { values, patches, most, token, className: maps.image.classes[place]?.name };
}

/** The colour bars' ends of the maps shown: one for all where they share it. */
export function ranges(maps, { stretched, shared }) {
  const own = maps.map((map) => rangeOf(map.patches, stretched));
  if (!shared) return own;
  const both = { low: Math.min(...own.map(({ low }) => low)), high: Math.max(...own.map(({ high }) => high)) };
  return own.map(() => both);
}

/** The place of the same class in each image's list; where an image has it not, its own choice stays. */
export function chosenClass(layout, state, image, place) {
  const { index } = layout.images[image].classes[place];
  return layout.images.map((other, i) => {
    if (i === image) return place;
    const same = other.classes.findIndex((found) => found.index === index);
    return same < 0 ? state.classes[i] : same;
  });
}

/** The patch that lies so many rows and columns from the chosen one; from a token before the patches, the first. */
export function moved(layout, token, down, right) {
  const prefix = layout.prefix.length;
  const [rows, columns] = layout.grid;
  if (token < prefix) return prefix;
  const row = Math.floor((token - prefix) / columns) + down;
  const column = ((token - prefix) % columns) + right;
  return row < 0 || column < 0 || row >= rows || column >= columns ? token : prefix + row * columns + column;
}
