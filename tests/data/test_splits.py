"""Split syntax: the same rows as TFDS takes, and percentages that partition."""

import itertools

import pytest
import tensorflow_datasets as tfds

from vit_jax.data.splits import split_range
from vit_jax.errors import UserError

LENGTHS = {"train": 1437, "test": 360}


def rows(spec: str, length: int) -> list[int]:
    return list(split_range(spec, {"train": length})[1])


@pytest.mark.parametrize("length", [1, 7, 50, 1437])
@pytest.mark.parametrize("percent", [0, 1, 33, 50, 98, 99, 100])
def test_percentages_partition(percent, length):
    assert rows(f"train[:{percent}%]", length) + rows(f"train[{percent}%:]", length) == list(range(length))


def test_many_percentages_partition():
    parts = [rows(f"train[{p}%:{p + 10}%]", 1437) for p in range(0, 100, 10)]
    assert list(itertools.chain(*parts)) == list(range(1437))
    assert {len(part) for part in parts} <= {143, 144}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("train", range(1437)),
        (" train ", range(1437)),
        ("train[:]", range(1437)),
        ("test", range(360)),
        ("train[100:200]", range(100, 200)),
        ("train[1400:]", range(1400, 1437)),
        ("test[:7]", range(7)),
        ("train[-10:]", range(1427, 1437)),
        ("train[:-10]", range(1427)),
        ("train[-20:-10]", range(1417, 1427)),
        ("train[-50%:]", range(719, 1437)),
        ("test[50%:]", range(180, 360)),
    ],
)
def test_absolute_negative_and_percent_bounds(spec, expected):
    name, chosen = split_range(spec, LENGTHS)
    assert spec.strip().startswith(name)
    assert list(chosen) == list(expected)


PERCENT_SPECS = ["train[:98%]", "train[98%:]", "train[33%:67%]", "train[:1%]", "train[-10%:]", "train[:-33%]"]
ROW_SPECS = ["train", "train[5:]", "train[-7:]", "train[:-7]", "train[3:40]", "train[-50:]", "train[40:20]"]


@pytest.mark.parametrize("spec", PERCENT_SPECS + ROW_SPECS)
@pytest.mark.parametrize("length", [50, 101, 1437])
def test_same_rows_as_tfds(spec, length):
    info = tfds.core.SplitInfo(name="train", shard_lengths=[length], num_bytes=0)
    (instruction,) = tfds.core.ReadInstruction.from_spec(spec).to_absolute({"train": info})
    assert rows(spec, length) == list(range(length)[instruction.from_ : instruction.to])


@pytest.mark.parametrize(
    "spec", ["train[", "train[]", "train[5]", "train[1:2:3]", "train[:1.5%]", "train+test", "", "[:3]"]
)
def test_wrong_syntax_is_refused(spec):
    with pytest.raises(UserError, match="TFDS split syntax"):
        split_range(spec, LENGTHS)


def test_unknown_split_names_those_there_are():
    with pytest.raises(UserError, match=r"no split 'validation'; there are test, train"):
        split_range("validation[:50%]", LENGTHS)


@pytest.mark.parametrize("spec", ["train[:1438]", "train[2000:]", "train[-1438:]", "train[:150%]", "train[-101%:]"])
def test_rows_beyond_the_end_are_refused(spec):
    with pytest.raises(UserError, match="beyond the 1437 rows of 'train'"):
        split_range(spec, LENGTHS)
