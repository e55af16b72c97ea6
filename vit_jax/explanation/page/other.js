// Images out of the file of another page, for comparing.

const SAME = ["alphabet", "grid", "prefix", "layers", "heads"];

/** The images of a page's file, each with the text of its maps; fails where their maps have another shape. */
export async function imagesOf(file, layout) {
  const page = new DOMParser().parseFromString(await file.text(), "text/html");
  const described = page.getElementById("vit-layout");
  if (!described) throw new Error(`${file.name} is no page like this one.`);
  const other = JSON.parse(described.textContent);
  if (SAME.some((key) => JSON.stringify(other[key]) !== JSON.stringify(layout[key])))
    throw new Error(`${file.name} cannot be compared: its maps have another shape (${other.title}, ${other.subtitle}).`);
  const foreign = other.title === layout.title ? "" : ` (${other.title})`;
  return other.images.map((image) => ({
    ...image,
    name: image.name + foreign,
    text: page.getElementById(image.data).textContent,
  }));
}
