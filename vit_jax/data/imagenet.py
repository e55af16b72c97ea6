"""Readable names of ImageNet's 1000 classes (Russakovsky et al. 2015), which are noun synsets of WordNet 3.0.

A class is published as its wnid: `n` and the synset's offset in WordNet's noun file. The table beside this file gives
each the synset's first lemma, and a second lemma or a word in brackets where two classes would share it (`crane (bird)`
and `crane (machine)`).
"""

import functools
import importlib.resources


def imagenet_classes() -> list[str]:
    """Returns the 1000 names in the standard order of the labels, which is that of the sorted wnids."""
    return list(_names().values())


def readable(names: list[str]) -> list[str]:
    """Returns the readable names where all of `names` are wnids of ImageNet's 1000 classes, else `names` unchanged."""
    known = _names()
    return [known[name] for name in names] if all(name in known for name in names) else names


@functools.cache
def _names() -> dict[str, str]:
    table = importlib.resources.files("vit_jax.data").joinpath("imagenet_classes.txt").read_text("utf-8")
    return dict(line.split("\t") for line in table.splitlines())
