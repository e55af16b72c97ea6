// Making elements; all text goes in as text, never as HTML.

export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && !name.startsWith("aria")) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** A radio button inside its label, which looks as its class says. */
export function radio(group, value, className, label, onclick, ...children) {
  const input = element("input", { type: "radio", name: group, value: String(value), "aria-label": label, onclick });
  return element("label", { className, title: label }, input, ...children);
}

export function group(title, ...children) {
  return element("fieldset", {}, element("legend", {}, ...[title].flat()), ...children);
}

export function check(root, group, value) {
  for (const input of root.querySelectorAll(`input[name="${group}"]`)) input.checked = input.value === String(value);
}
