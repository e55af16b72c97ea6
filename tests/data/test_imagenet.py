"""ImageNet's names: the table itself, when names are replaced, and that the data sources do it."""

import collections
import importlib.resources
import re

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from vit_jax.data.folder import folder_source
from vit_jax.data.imagenet import imagenet_classes, readable
from vit_jax.data.tfds_source import tfds_source

KNOWN = {
    "n01440764": (0, "tench"),
    "n01443537": (1, "goldfish"),
    "n02099712": (208, "Labrador retriever"),
    "n02123045": (281, "tabby"),
    "n02423022": (353, "gazelle"),
    "n03888257": (701, "parachute"),
    "n07747607": (950, "orange"),
    "n15075141": (999, "toilet tissue"),
}


def table() -> list[list[str]]:
    text = importlib.resources.files("vit_jax.data").joinpath("imagenet_classes.txt").read_text("utf-8")
    return [line.split("\t") for line in text.splitlines()]


def test_a_thousand_wnids_in_order_each_with_a_short_name_of_its_own():
    wnids, names = zip(*table(), strict=True)
    assert len(wnids) == 1000
    assert list(wnids) == sorted(set(wnids))
    assert all(re.fullmatch(r"n\d{8}", wnid) for wnid in wnids)
    assert [name for name, count in collections.Counter(map(str.lower, names)).items() if count > 1] == []
    assert all(name == name.strip() and 0 < len(name) < 32 and "," not in name for name in names)


def test_the_list_is_in_the_order_of_the_labels():
    names = imagenet_classes()
    assert len(names) == 1000
    assert {wnid: (names.index(name), name) for wnid, (_, name) in KNOWN.items()} == KNOWN


def test_classes_of_the_same_lemma_are_told_apart():
    names = dict(table())
    assert names["n02012849"] == "crane (bird)"
    assert names["n03126707"] == "crane (machine)"
    assert names["n02113186"] != names["n02963159"]


def test_wnids_become_names_in_any_order_and_number():
    wnids = list(KNOWN)[::-1]
    assert readable(wnids) == [KNOWN[wnid][1] for wnid in wnids]
    assert readable([wnid for wnid, _ in table()]) == imagenet_classes()


@pytest.mark.parametrize("names", [["cat", "dog"], ["n01440764", "cat"], ["n01440764", "n00001740"], ["N01440764"], []])
def test_anything_else_stays(names):
    assert readable(names) == names


def test_the_list_that_is_returned_is_the_callers_own():
    imagenet_classes().clear()
    assert len(imagenet_classes()) == 1000


def test_folders_of_wnids_have_readable_classes(tmp_path):
    for wnid in KNOWN:
        (tmp_path / wnid).mkdir()
        Image.new("RGB", (2, 2)).save(tmp_path / wnid / "1.png")
    source = folder_source(str(tmp_path), "train")
    assert source.class_names == [name for _, name in KNOWN.values()]
    for file, label in zip(source.files, source.labels, strict=True):
        assert source.class_names[label] == KNOWN[file.split("/")[0]][1]


def test_tfds_sets_of_wnids_have_readable_classes(tmp_path):
    with tfds.core.registered.skip_registration():

        class Tiny(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")
            name = "tiny_imagenet"

            def _info(self):
                label = tfds.features.ClassLabel(names=list(KNOWN))
                features = {"image": tfds.features.Image(), "label": label}
                return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples()}

            def _generate_examples(self):
                path = tmp_path / "one.png"
                Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(path)
                yield 0, {"image": str(path), "label": 1}

    Tiny(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    source = tfds_source("tiny_imagenet", "train", str(tmp_path))
    assert source.class_names == [name for _, name in KNOWN.values()]
    assert source[0][1] == 1
