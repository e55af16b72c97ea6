// From the text of the page to arrays of numbers.

/** Bytes of base-85 text, four for each five letters, the first byte the highest; `length` of them. */
export function decode85(text, alphabet, length) {
  const digits = new Uint8Array(128);
  for (let i = 0; i < alphabet.length; i++) digits[alphabet.charCodeAt(i)] = i;
  const view = new DataView(new ArrayBuffer(Math.ceil(length / 4) * 4));
  for (let at = 0, letter = 0; at < view.byteLength; at += 4) {
    let word = 0;
    for (const end = letter + 5; letter < end; letter++) word = word * 85 + digits[text.charCodeAt(letter)];
    view.setUint32(at, word);
  }
  return new Uint8Array(view.buffer, 0, length);
}

/** The bytes that zlib deflated. */
export async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

/** Arrays that lie one after the other in a buffer: those of float32 stand before those of bytes. */
export function split(buffer, parts) {
  const arrays = {};
  let at = 0;
  for (const { name, type, size } of parts) {
    const kind = type === "float32" ? Float32Array : Uint8Array;
    arrays[name] = new kind(buffer, at, size);
    at += size * kind.BYTES_PER_ELEMENT;
  }
  return arrays;
}
