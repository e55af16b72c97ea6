"""Sources: digits, arrays and TFDS sets, which TFDS's own API prepares here in miniature."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from vit_jax.data.sources import ArraySource, DecodedOnce, digits_source, open_source
from vit_jax.errors import UserError

# Digits.


def test_digits_parts_are_disjoint_and_complete():
    train, test = digits_source("train"), digits_source("test")
    assert (len(train), len(test)) == (1437, 360)
    rows = [image.tobytes() + bytes([label]) for part in (train, test) for image, label in part]
    assert len(set(rows)) == 1797  # no two of scikit-learn's digits are the same picture


@pytest.mark.parametrize("split", ["train", "test"])
def test_digits_are_grey_uint8_of_all_classes(split):
    source = digits_source(split)
    assert source.images.dtype == np.uint8
    assert source.image_size == (8, 8)
    assert (source.images.min(), source.images.max()) == (0, 255)
    np.testing.assert_array_equal(source.images[..., 0], source.images[..., 2])
    assert set(source.labels) == set(range(10))
    assert np.bincount(source.labels).min() > len(source) / 15
    assert source.class_names == list("0123456789")


def test_digits_slices():
    whole = digits_source("train")
    first, rest = digits_source("train[:90%]"), digits_source("train[90%:]")
    np.testing.assert_array_equal(np.concatenate([first.images, rest.images]), whole.images)
    np.testing.assert_array_equal(np.concatenate([first.labels, rest.labels]), whole.labels)
    with pytest.raises(UserError, match="no split 'validation'"):
        open_source("digits", "validation")
    with pytest.raises(UserError, match="digits: split 'train\\[:0\\]' is empty"):
        open_source("digits", "train[:0]")


# Arrays.


def test_array_source_reads_rows():
    images = np.arange(2 * 3 * 5 * 3, dtype=np.uint8).reshape(2, 3, 5, 3)
    source = ArraySource(images, [1, 0], ["cat", "dog"])
    image, label = source[1]
    assert len(source) == 2
    assert source.image_size == (3, 5)
    assert (type(label), label) == (int, 0)
    np.testing.assert_array_equal(image, images[1])


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), [0, 1], r"uint8 .* not float32 \(2, 4, 4, 3\)"),
        (np.zeros((2, 4, 4), np.uint8), [0, 1], r"uint8 .* not uint8 \(2, 4, 4\)"),
        (np.zeros((2, 3, 4, 4), np.uint8), [0, 1], r"uint8 .* not uint8 \(2, 3, 4, 4\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), [0], r"2 images have labels of shape \(1,\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), [[0, 1], [1, 0]], r"labels of shape \(2, 2\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), [0.0, 1.0], "must be integers, not float64"),
        (np.zeros((2, 4, 4, 3), np.uint8), [0, 2], "label 2 is none of the 2 classes"),
        (np.zeros((2, 4, 4, 3), np.uint8), [0, -1], "label -1 is none of the 2 classes"),
    ],
)
def test_array_source_refuses_other_shapes_and_types(images, labels, message):
    with pytest.raises(UserError, match=message):
        ArraySource(images, labels, ["cat", "dog"])


def test_decoded_once_asks_for_every_row_once():
    class Counted(ArraySource):
        asked = ()

        def __getitem__(self, row):
            self.asked += (row,)
            return super().__getitem__(row)

    images = np.random.default_rng(0).integers(0, 256, (4, 2, 2, 3), dtype=np.uint8)
    counted = Counted(images, [0, 1, 1, 0], ["cat", "dog"])
    source = DecodedOnce(counted)
    for row in (2, 0, 2, 2, 3, 0):
        image, label = source[row]
        np.testing.assert_array_equal(image, images[row])
        assert label == counted.labels[row]
    assert counted.asked == (2, 0, 3)
    assert (len(source), source.image_size, source.class_names) == (4, (2, 2), ["cat", "dog"])


# TFDS.

COLOURS = ("red", "green", "blue")
ROWS = {"train": 20, "test": 6}
FEATURES = {
    "fixed": {"image": tfds.features.Image(shape=(4, 6, 3)), "label": tfds.features.ClassLabel(names=COLOURS)},
    "varied": {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=3)},
    "unlabelled": {"image": tfds.features.Image(shape=(4, 6, 3))},
    "captioned": {"image": tfds.features.Image(shape=(4, 6, 3)), "label": tfds.features.Text()},
}


def picture(row: int, width: int) -> np.ndarray:
    """Returns the picture of a row: the row's number, in the channel that is its label."""
    image = np.zeros((4, width, 3), np.uint8)
    image[..., row % 3] = row + 1
    return image


def png(image: np.ndarray) -> io.BytesIO:
    """Returns a file, as TFDS passes it on without TensorFlow."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    file.seek(0)
    return file


def prepare(kind: str, directory: str) -> None:
    with tfds.core.registered.skip_registration():  # so that it is found by its files alone

        class Tiny(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")
            name = f"tiny_{kind}"

            def _info(self):
                return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(FEATURES[kind]))

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples(rows) for split, rows in ROWS.items()}

            def _generate_examples(self, rows):
                for row in range(rows):
                    image = png(picture(row, 6 + row % 4 if kind == "varied" else 6))
                    example = {"image": image, "label": "a caption" if kind == "captioned" else row % 3}
                    yield row, {name: example[name] for name in FEATURES[kind]}

    Tiny(data_dir=directory, file_format="array_record").download_and_prepare()


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> str:
    place = str(tmp_path_factory.mktemp("tfds"))
    for kind in FEATURES:
        prepare(kind, place)
    return place


@pytest.mark.parametrize("kind", ["fixed", "varied"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_tfds_holds_every_example_once(kind, split, directory):
    source = open_source(f"tiny_{kind}", split, directory)
    assert len(source) == ROWS[split]
    numbers = []
    for row in range(len(source)):
        image, label = source[row]
        numbers.append(int(image.max()) - 1)
        assert (image.dtype, type(label)) == (np.uint8, int)
        assert label == numbers[-1] % 3
        np.testing.assert_array_equal(image, picture(numbers[-1], image.shape[1]))
    assert sorted(numbers) == list(range(ROWS[split]))


def test_tfds_knows_its_classes_and_its_image_size(directory):
    fixed, varied = (open_source(f"tiny_{kind}", "train", directory) for kind in ("fixed", "varied"))
    assert list(fixed.class_names) == list(COLOURS)
    assert list(varied.class_names) == ["0", "1", "2"]
    assert fixed.image_size == (4, 6)
    assert varied.image_size is None


@pytest.mark.parametrize("bound", ["50%", "95%", "3", "-3"])
def test_tfds_slices_partition(bound, directory):
    def images(split):
        source = open_source("tiny_fixed", split, directory)
        return [source[row][0].tobytes() for row in range(len(source))]

    assert images(f"train[:{bound}]") + images(f"train[{bound}:]") == images("train")


@pytest.mark.parametrize("split", ["validation", "train[", "train[:1000]", "train[:0]", "train[60%:40%]"])
def test_tfds_split_that_does_not_exist(split, directory):
    with pytest.raises(UserError) as error:
        open_source("tiny_fixed", split, directory)
    assert "tiny_fixed/1.0.0" in str(error.value)
    assert repr(split) in str(error.value)


@pytest.mark.parametrize("kind", ["unlabelled", "captioned"])
def test_set_without_class_labels(kind, directory):
    with pytest.raises(UserError, match=f"tiny_{kind} is no classification set"):
        open_source(f"tiny_{kind}", "train", directory)


def test_set_in_another_file_format(tmp_path):
    prepare("fixed", str(tmp_path))
    facts = tmp_path / "tiny_fixed" / "1.0.0" / "dataset_info.json"
    facts.write_text(facts.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match=r"TFRECORD is not supported.*array_record"):
        open_source("tiny_fixed", "train", str(tmp_path))


def test_unprepared_set_names_the_command(tmp_path):
    with pytest.raises(UserError) as error:
        open_source("cifar10", "train", str(tmp_path))
    message = str(error.value)
    assert message.endswith(f"run: python -m vit_jax.prepare cifar10 --data_dir={tmp_path}")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "near"), [("cifar1O", "cifar10"), ("imagenet-2012", "imagenet2012"), ("digit", "digits")]
)
def test_unknown_set_names_the_nearest(name, near, tmp_path):
    with pytest.raises(UserError, match=f"did you mean '{near}'"):
        open_source(name, "train", str(tmp_path))


@pytest.mark.parametrize("name", ["cifar10:0.0.1", "cifar10/coarse", "two words", ""])
def test_name_that_tfds_cannot_build_is_one_line(name, tmp_path):
    with pytest.raises(UserError) as error:
        open_source(name, "train", str(tmp_path))
    assert repr(name) in str(error.value)
    assert len(str(error.value)) < 300


def test_missing_data_dir(tmp_path):
    with pytest.raises(UserError, match=r"data\.dir '.*nowhere' is no directory"):
        open_source("cifar10", "train", str(tmp_path / "nowhere"))
