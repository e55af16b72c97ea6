"""Where other kinds of attention overtake full attention, as the number of tokens grows."""

BETTER = {"milliseconds": "faster", "peak_mebibytes": "less memory"}
"""Figures of which less is better, and what that is called."""


def overtakings(rows: list[dict]) -> list[str]:
    """Returns one line for each kind of attention that was measured beside full attention at several image sizes.

    From so many tokens on, at all sizes that were measured.

    Args:
      rows: from `vit_jax.measurement.report.figures`.
    """
    series: dict[tuple, dict[int, dict]] = {}
    for row in rows:
        if "attention" in row["settings"] and row["tokens"] is not None:
            rest = {axis: value for axis, value in row["settings"].items() if axis not in ("attention", "image_size")}
            key = row["by"], tuple(rest.items()), row["settings"]["attention"]
            series.setdefault(key, {})[row["tokens"]] = row
    lines = []
    for (by, rest, attention), members in series.items():
        full = series.get((by, rest, "full"), {})
        if attention != "full" and len(members.keys() & full.keys()) > 1:
            name = " ".join(word for word in next(iter(members.values()))["name"].split() if "image_size=" not in word)
            said = (said_of(members, full, key, what) for key, what in BETTER.items())
            lines.append(f"{name} against full: {', '.join(said)}")
    return lines


def said_of(members: dict[int, dict], full: dict[int, dict], key: str, what: str) -> str:
    """Returns from how many tokens on the figures of some rows are less than those of others, by their tokens."""
    both = sorted(members.keys() & full.keys())
    pairs = [(tokens, members[tokens][key], full[tokens][key]) for tokens in both]
    known = [(tokens, mine < other) for tokens, mine, other in pairs if None not in (mine, other)]
    if not known:
        return f"{what}: not known"
    if not known[-1][1]:
        return f"not {what} at {known[-1][0]:,} tokens"
    beaten = [tokens for tokens, less in known if not less]
    first = min(tokens for tokens, _ in known if not beaten or tokens > beaten[-1])
    return f"{what} from {first:,} tokens on"
