"""Some of the classes of a set: which rows, under which labels and names, without an image decoded for it."""

import pickle

import numpy as np
import pytest

from tests.data.examples import Bare, source
from tests.training.conftest import small_config
from vit_jax.config import resolve
from vit_jax.data.decode import decode_image
from vit_jax.data.memory import KeptArray, kept_in_memory
from vit_jax.data.sources import ArraySource, describe, digits_source, labels_of
from vit_jax.data.subset import BlockSubset, Subset, chosen_classes, subset
from vit_jax.errors import UserError
from vit_jax.training.experiment import build, named_source
from vit_jax.training.run import held_out_sources

ANIMALS = ["cat", "dog", "bird", "frog", "crane, bird", "t-shirt", "1-2"]


@pytest.mark.parametrize(
    ("text", "names", "chosen"),
    [
        ("cat, dog", ANIMALS, [0, 1]),
        ("dog,cat", ANIMALS, [1, 0]),
        ("  frog ,bird, ", ANIMALS, [3, 2]),
        ('cat, "crane, bird"', ANIMALS, [0, 4]),
        ("t-shirt, 0", ANIMALS, [5, 0]),
        ("0, 3, 5-6", ANIMALS, [0, 3, 5, 6]),
        ("2 - 4", ANIMALS, [2, 3, 4]),
        ("1-2, 0-2", ANIMALS, [6, 0, 1, 2]),  # the first is a class, though it looks like a range
        ("5, 3", [str(i) for i in range(10)], [5, 3]),
        ("7-9, 0", [str(i) for i in range(10)], [7, 8, 9, 0]),
        ("2, 10", ["1", "10", "2", "3"], [2, 1]),  # numbers that are names are not positions
        ("1-3", ["1", "10", "2", "3"], [0, 2, 3]),
    ],
)
def test_classes_by_name_number_and_range(text, names, chosen):
    assert chosen_classes(text, names) == chosen


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat, dgo", "data.classes: no class 'dgo' (did you mean 'dog'?) among 7, which are called 'cat' to '1-2'"),
        ("cat, Dog", "no class 'Dog' (did you mean 'dog'?)"),
        ("0, 7", "no class '7'"),
        ("5-9", "no class '7'"),
        ("0-99999999999999", "no class '7'"),
        ("3-2", "no class '3-2'"),
        ("-1, 2", "no class '-1'"),
        ("cat", "data.classes must name at least 2 classes, not 'cat'"),
        ("", "must name at least 2 classes, not ''"),
        (" , ", "must name at least 2 classes"),
        ("cat, dog, cat", "data.classes names class 'cat' twice"),
        ("1, dog", "names class 'dog' twice"),
    ],
)
def test_unknown_classes_are_one_line(text, message):
    with pytest.raises(UserError) as error:
        chosen_classes(text, ANIMALS)
    assert message in str(error.value)
    assert len(str(error.value)) < 200


def test_positions_of_classes_that_are_called_otherwise_are_refused():
    with pytest.raises(UserError, match="no class '0'"):
        chosen_classes("0, 10", ["1", "10", "2"])


def test_rows_of_an_array_keep_their_order_and_get_new_labels():
    digits = digits_source("train[:200]")
    chosen = subset(digits, "7, 2, 4")
    rows = np.flatnonzero(np.isin(digits.labels, [7, 2, 4]))
    assert isinstance(chosen, ArraySource)  # and so still copied in whole batches
    assert chosen.class_names == ["7", "2", "4"]
    np.testing.assert_array_equal(chosen.images, digits.images[rows])
    np.testing.assert_array_equal(np.array([7, 2, 4])[chosen.labels], digits.labels[rows])
    assert set(chosen.labels) == {0, 1, 2}


def test_without_classes_the_source_itself():
    whole = source()
    assert subset(whole, None) is whole


class Records(Bare):
    """Ten rows of ten classes, read one by one or many at once; which are asked for is noted."""

    labels = np.arange(10)[::-1]

    def __init__(self):
        super().__init__(source())
        self.asked, self.blocks = [], []

    def __getitem__(self, row):
        self.asked.append(row)
        return self.of.images[row], int(self.labels[row])

    def __getitems__(self, rows):
        self.blocks.append(list(rows))
        return [(self.of.images[row], int(self.labels[row])) for row in rows]

    def describe(self, row):
        return f"record {row}"


def test_a_wrapped_source_is_read_by_its_own_rows():
    records = Records()
    chosen = subset(records, "2, 8, 5")
    assert type(chosen) is BlockSubset
    assert (len(chosen), chosen.class_names, chosen.image_size) == (3, ["2", "8", "5"], records.image_size)
    assert records.asked == records.blocks == []  # the labels were at hand
    assert chosen.labels.tolist() == [1, 2, 0]  # rows 1, 4, 7 are of classes 8, 5, 2
    for row, (of, label) in enumerate([(1, 1), (4, 2), (7, 0)]):
        image, new = chosen[row]
        np.testing.assert_array_equal(image, records.of.images[of])
        assert (type(new), new) == (int, label)
        assert describe(chosen, row) == f"record {of}"
    several = chosen.__getitems__([2, 0])
    assert records.blocks == [[7, 1]]
    assert [label for _, label in several] == [0, 1]
    np.testing.assert_array_equal(several[0][0], records.of.images[7])


def test_many_rows_at_once_only_where_the_source_can():
    class OneByOne(Bare):
        labels = np.arange(10)

    chosen = subset(OneByOne(source()), "1, 2")
    assert type(chosen) is Subset
    assert not hasattr(chosen, "__getitems__")
    assert describe(chosen, 0) == "row 1"


def test_it_is_kept_in_memory_as_any_source_and_pickled():
    records = Records()
    kept = kept_in_memory(subset(records, "2, 8, 5"))
    assert isinstance(kept, KeptArray)
    assert kept.images.shape[0] == 3
    assert kept[0][1] == 1
    assert records.blocks == [[1, 4, 7]]
    np.testing.assert_array_equal(kept.images, records.of.images[[1, 4, 7]])
    assert labels_of(kept).tolist() == [1, 2, 0]
    copy = pickle.loads(pickle.dumps(kept))
    np.testing.assert_array_equal(copy[2][0], kept[2][0])
    assert copy.class_names == ["2", "8", "5"]


def test_rows_without_a_label_are_said_and_left_out(capfd):
    """Of a source that must be read for its labels."""

    class Damaged(Bare):
        def __getitem__(self, row):
            if row in (1, 6):
                raise OSError("damaged")
            return self.of.images[row], int(self.of.labels[row])

    whole = Damaged(source())
    assert labels_of(whole).tolist() == [0, -1, 2, 3, 4, 5, -1, 7, 8, 9]
    chosen = subset(whole, "0, 1, 2, 9")
    assert chosen.rows.tolist() == [0, 2, 9]
    assert "cannot read 2 labels, of row 1 the first" in capfd.readouterr().err


def test_no_row_of_the_classes():
    whole = source()
    with pytest.raises(UserError, match=r"no image is of the classes 8, 9 \(data\.classes\)"):
        subset(ArraySource(whole.images[:5], whole.labels[:5], whole.class_names), "8, 9")


def config_with(**data):
    config = small_config()
    config.data.classes = "8, 3"
    config.data.update(data)
    return resolve(config)


def test_every_split_has_the_classes_and_the_model_as_many():
    config = config_with(train_split="train[:80%]", val_split="train[80%:]")
    experiment = build(config)
    validation, evaluation = held_out_sources(experiment, own=False, evaluate=None)
    for part, split in ((experiment.source, "train[:80%]"), (validation, "train[80%:]"), (evaluation, "test")):
        whole = digits_source(split)
        assert part.class_names == ["8", "3"]
        assert len(part) == np.isin(whole.labels, [8, 3]).sum()
    assert experiment.abstract_state().params["head"]["bias"].shape == (2,)
    with pytest.raises(UserError, match="shares examples with"):
        held_out_sources(build(config_with(val_split="train[80%:]")), own=False, evaluate=None)


def test_own_data_are_chosen_from_too():
    experiment = build(config_with(), digits_source("train"))
    _, evaluation = held_out_sources(experiment, own=True, evaluate=digits_source("test"))
    assert list(experiment.source.class_names) == list(evaluation.class_names) == ["8", "3"]
    assert set(evaluation.labels) == {0, 1}


def test_a_folder_is_read_for_its_classes_alone(tmp_path):
    from PIL import Image

    for name, grey in (("ant", 10), ("bee", 20), ("cow", 30)):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "test" / name).mkdir(parents=True)
        for row in range(3):
            for split in ("train", "test"):
                Image.new("RGB", (8, 8), (grey,) * 3).save(tmp_path / split / name / f"{row}.png")
    config = config_with(name=f"folder:{tmp_path}", classes="cow, ant", image_size=8)
    chosen = named_source(config, "eval_split")
    greys = [int(decode_image(chosen[row][0])[0, 0, 0]) for row in range(len(chosen))]
    assert sorted(zip(greys, labels_of(chosen).tolist(), strict=True)) == [(10, 1)] * 3 + [(30, 0)] * 3
    assert describe(chosen, 0).endswith(".png")
