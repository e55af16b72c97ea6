// The numbers that the page shows, read from rows of bytes and one scale a row.

import { decode85, inflate, split } from "./codec.js";

/** Stands for the mean of all heads where a head is asked for. */
export const MEAN = -1;

/** The maps of one image; inflated when it is first shown. */
export class ImageMaps {
  constructor(layout, image) {
    Object.assign(this, { layout, image, arrays: null });
    this.tokens = layout.prefix.length + layout.grid[0] * layout.grid[1];
  }

  async load() {
    if (this.arrays) return this;
    const { data, text, length, parts } = this.image;
    const bytes = decode85(text ?? document.getElementById(data).textContent, this.layout.alphabet, length);
    this.arrays = split(await inflate(bytes), parts);
    delete this.image.text; // as large again
    return this;
  }

  /** Where a token attends in a layer and head, one number a token; `incoming`: who attends to it. */
  attention(layer, head, token, incoming) {
    const { heads } = this.layout;
    const values = new Float32Array(this.tokens);
    const chosen = head === MEAN ? [...Array(heads).keys()] : [head];
    for (const h of chosen) this.add("attention", layer * heads + h, token, incoming, values, 1 / chosen.length);
    return values;
  }

  /** The same of the rollout of the first layers up to `layer`. */
  rollout(layer, token, incoming) {
    const values = new Float32Array(this.tokens);
    this.add("rollout", layer, token, incoming, values, 1);
    return values;
  }

  /** The relevance of the patches for the class at that place in the image's list; 0 for the tokens before them. */
  relevance(place) {
    const values = new Float32Array(this.tokens);
    const prefix = this.layout.prefix.length;
    const count = this.tokens - prefix;
    const step = this.arrays.relevance_scales[place] / 255;
    for (let i = 0; i < count; i++) values[prefix + i] = this.arrays.relevance[place * count + i] * step;
    return values;
  }

  /** Adds a row, or a column, of a matrix of tokens × tokens. */
  add(name, matrix, token, incoming, values, weight) {
    const bytes = this.arrays[name];
    const scales = this.arrays[name + "_scales"];
    const { tokens } = this;
    for (let other = 0; other < tokens; other++) {
      const row = matrix * tokens + (incoming ? other : token);
      const column = incoming ? token : other;
      values[other] += (bytes[row * tokens + column] * scales[row] * weight) / 255;
    }
  }
}
