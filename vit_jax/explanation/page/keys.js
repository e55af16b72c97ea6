// The keyboard: what each key changes.

import { MEAN } from "./maps.js";
import { OPACITY, chosenClass, moved, shownToken } from "./state.js";

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const MODE_KEYS = ["attention", "rollout", "relevance"];

/** What a key press changes of the state; null where it is none of the page's keys. */
export function changes(layout, state, event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return null;
  const hold = (token) => ({ token, pinned: true, hovered: null });
  const arrow = ARROWS[event.key];
  if (arrow) return hold(moved(layout, shownToken(state), ...arrow));
  const key = event.key.toLowerCase();
  const step = event.shiftKey ? -1 : 1;
  const turn = (value, count) => (value + step + count) % count;
  const image = state.images[state.active] ?? state.images[0];
  const classes = layout.images[image].classes.length;
  const prefix = layout.prefix.length;
  const found = {
    escape: () => ({ pinned: false }),
    p: () => prefix && hold(state.token < prefix ? (state.token + 1) % prefix : 0),
    l: () => ({ layer: turn(state.layer, layout.layers) }),
    h: () => ({ head: turn(state.head + 1, layout.heads + 1) - 1 }),
    m: () => ({ head: MEAN }),
    t: () => ({ incoming: !state.incoming }),
    i: () => ({ opacity: state.opacity ? 0 : OPACITY }),
    c: () => classes && { mode: "relevance", classes: chosenClass(layout, state, image, turn(state.classes[image], classes)) },
    1: () => ({ mode: MODE_KEYS[0] }),
    2: () => ({ mode: MODE_KEYS[1] }),
    3: () => classes && { mode: MODE_KEYS[2] },
  };
  return (Object.hasOwn(found, key) && found[key]()) || null;
}

/** Whether a key belongs to the element that has the focus, not to the page. */
export function belongsTo(target, event) {
  if (target.matches("select, input[type='text']")) return true;
  return event.key.startsWith("Arrow") && target.matches("input");
}
