// How numbers and tokens are written.

/** A share of 1 as a percentage, three digits. */
export function percent(share) {
  return `${number(100 * share)} %`;
}

/** Three digits; very small and very large numbers with an exponent. */
export function number(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e5) return value.toExponential(2);
  return size >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

export function tokenName(layout, token) {
  const prefix = layout.prefix.length;
  if (token < prefix) return layout.prefix[token];
  const columns = layout.grid[1];
  return `patch ${Math.floor((token - prefix) / columns)}, ${(token - prefix) % columns}`;
}

/** One sentence on what a map shows; for those who cannot see it, too. */
export function sentence(layout, state, shown, here) {
  const { values, most } = shown;
  const write = state.mode === "relevance" ? number : percent;
  const there = `${tokenName(layout, most)} (${write(values[most])})`;
  const name = tokenName(layout, shown.token) + (state.pinned ? ", held," : "");
  const begin = {
    attention: state.incoming ? `${name} gets most attention from ${there}` : `${name} attends most to ${there}`,
    rollout: state.incoming ? `${name} reaches most into ${there}` : `${name} draws most from ${there}`,
    relevance: `${shown.className}: most relevant is ${there}`,
  }[state.mode];
  const end = here === null ? "" : ` · ${tokenName(layout, here)}: ${write(values[here])}`;
  return begin.replace(/^patch/, "Patch") + end;
}
