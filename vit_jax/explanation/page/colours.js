// From numbers to colours.

/** Red, green and blue of 256 colours written as hexadecimal digits. */
export function colourTable(digits) {
  return Uint8Array.from({ length: digits.length / 2 }, (_, i) => parseInt(digits.slice(2 * i, 2 * i + 2), 16));
}

/** The colour's number, 0 to 255, of a value between `low` and `high`. */
export function colourNumber(value, { low, high }) {
  const share = high > low ? (value - low) / (high - low) : 0;
  return Math.round(255 * Math.min(1, Math.max(0, share)));
}

/** Paints one pixel a value; the browser enlarges them. */
export function paint(canvas, values, columns, range, table) {
  const rows = values.length / columns;
  if (canvas.width !== columns || canvas.height !== rows) Object.assign(canvas, { width: columns, height: rows });
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  values.forEach((value, i) => {
    const colour = 3 * colourNumber(value, range);
    image.data.set([table[colour], table[colour + 1], table[colour + 2], 255], 4 * i);
  });
  context.putImageData(image, 0, 0);
}

export function colourOf(value, range, table) {
  const colour = 3 * colourNumber(value, range);
  return `rgb(${table[colour]} ${table[colour + 1]} ${table[colour + 2]})`;
}

/** Paints a small map with a colour scale of its own. */
export function paintSmall(canvas, { patches }, columns, table) {
  paint(canvas, patches, columns, rangeOf(patches, false), table);
}

/** The numbers at the two ends of the colour bar. */
export function rangeOf(values, stretched) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
  return { low: stretched ? low : Math.min(0, low), high };
}
