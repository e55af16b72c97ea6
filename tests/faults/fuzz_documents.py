"""Mutations of JSON documents: what is valid JSON and makes no sense, and what is none."""

import copy
import json
import random
from collections.abc import Callable, Iterator

from tests.faults.fuzz_bytes import ANY

HUGE = "9" * 5000
"""More digits than Python turns into a number without being asked."""

VALUES = (
    None,
    True,
    False,
    0,
    1,
    -1,
    3,
    10**30,
    2**31,
    1e-320,
    0.1,
    -2.5,
    float("nan"),
    float("inf"),
    float("-inf"),
    "",
    "x",
    "\x1b[31mred\n",
    "é" * 3000,
    "3",
    "nan",
    "\ud800",
    [],
    [1],
    [0, 0],
    [-4, 8],
    [8, 8, 8],
    [None, None],
    ["a", "b"],
    [[8, 8]],
    [1e30, 8],
    [float("nan")] * 3,
    {},
    {"a": 1},
    {"0": "cat"},
    {"height": -1, "width": 8},
    {"shortest_edge": 0},
    {"shortest_edge": 1e12},
)
"""What a person, a program or an attacker may write where something else belongs."""


def places(value: object, path: tuple = ()) -> Iterator[tuple]:
    """Yields the path of every value in a document, the whole document's excepted."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def changed(document: object, path: tuple, change: Callable) -> object:
    """Returns a document in which `change(holder, key)` was called for a path."""
    document = copy.deepcopy(document)
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    change(holder, path[-1])
    return document


def swapped(document: object, rng: random.Random) -> object:
    """Returns a document with one to three values of other types."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        if known := list(places(document)):
            value = rng.choice(VALUES)
            document = changed(document, rng.choice(known), lambda holder, key, v=value: holder.__setitem__(key, v))
    return document


def shortened(document: object, rng: random.Random) -> object:
    """Returns a document without one of its values."""
    return changed(document, rng.choice(list(places(document))), lambda holder, key: holder.pop(key))


def moved(document: object, rng: random.Random) -> object:
    """Returns a document with a value of it in place of another."""
    known = list(places(document))
    source = document
    for key in rng.choice(known):
        source = source[key]
    return changed(document, rng.choice(known), lambda holder, key: holder.__setitem__(key, source))


def mutated_document(whole: bytes, rng: random.Random) -> bytes:
    """Returns a document that is mutated as one, as text or as bytes."""
    kind = rng.randrange(10)
    if kind < 6:
        document = (swapped, swapped, swapped, shortened, moved, swapped)[kind](json.loads(whole), rng)
        return json.dumps(document).encode()
    if kind == 6:
        text = whole.decode()
        key = rng.choice([word for word in text.split('"')[1::2] if word])
        deep = rng.choice(["[", '{"a":']) * rng.choice([50, 3000, 200_000])
        return text.replace(f'"{key}"', rng.choice([deep, f'"{key}": {HUGE}, "{key}"', "1e999", "NaN"]), 1).encode()
    if kind == 7:
        return whole.decode().encode(rng.choice(["utf-16", "utf-8-sig", "utf-32"]))
    if kind == 8:
        return rng.choice(
            [b"[" * 200_000, b'{"a":' * 200_000, HUGE.encode(), b"null", b"[]", b'"x"', b"{}", b"-0", b""]
        )
    return rng.choice(ANY)(whole, rng)
