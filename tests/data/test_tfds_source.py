"""TFDS sets, which TFDS's own API prepares here in miniature: rows, slices, descriptions, workers, damage."""

import concurrent.futures
import io
import multiprocessing
import operator
import pathlib
import pickle
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from vit_jax.data.memory import kept_in_memory
from vit_jax.data.sources import labels_of
from vit_jax.data.tfds_source import TfdsSource, tfds_source, tfds_split_lengths
from vit_jax.errors import UserError

COLOURS = ("red", "green", "blue")
ROWS = {"train": 20, "test": 6}
FEATURES = {
    "fixed": {"image": tfds.features.Image(shape=(4, 6, 3)), "label": tfds.features.ClassLabel(names=COLOURS)},
    "varied": {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=3)},
    "named": {
        "image": tfds.features.Image(shape=(4, 6, 3)),
        "label": tfds.features.ClassLabel(names=COLOURS),
        "file_name": tfds.features.Text(),
    },
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


def pixels(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)))


def prepare(kind: str, directory: str) -> pathlib.Path:
    """Prepares a set `tiny_<kind>` and returns where its files are."""
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
                    label = "a caption" if kind == "captioned" else row % 3
                    example = {"image": image, "label": label, "file_name": f"picture {row}.png"}
                    yield row, {name: example[name] for name in FEATURES[kind]}

    Tiny(data_dir=directory, file_format="array_record").download_and_prepare()
    return pathlib.Path(directory) / f"tiny_{kind}" / "1.0.0"


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> str:
    place = str(tmp_path_factory.mktemp("tfds"))
    for kind in FEATURES:
        prepare(kind, place)
    return place


@pytest.fixture
def copied(directory, tmp_path) -> pathlib.Path:
    """The files of tiny_fixed, to be damaged; `tmp_path` is their data.dir."""
    return shutil.copytree(f"{directory}/tiny_fixed/1.0.0", tmp_path / "tiny_fixed" / "1.0.0")


@pytest.mark.parametrize("kind", ["fixed", "varied"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_source_holds_every_example_once(kind, split, directory):
    source = tfds_source(f"tiny_{kind}", split, directory)
    assert len(source) == ROWS[split]
    numbers = []
    for row in range(len(source)):
        encoded, label = source[row]
        assert (type(encoded), type(label)) == (bytes, int)
        image = pixels(encoded)
        numbers.append(int(image.max()) - 1)
        assert label == numbers[-1] % 3
        np.testing.assert_array_equal(image, picture(numbers[-1], image.shape[1]))
    assert sorted(numbers) == list(range(ROWS[split]))


def test_source_knows_its_classes_and_its_image_size(directory):
    fixed, varied = (tfds_source(f"tiny_{kind}", "train", directory) for kind in ("fixed", "varied"))
    assert fixed.class_names == list(COLOURS)
    assert varied.class_names == ["0", "1", "2"]
    assert fixed.image_size == (4, 6)
    assert varied.image_size is None


def test_split_lengths(directory):
    assert tfds_split_lengths("tiny_fixed", directory) == ROWS


def rows_of(split: str, directory: str) -> list[tuple[bytes, int]]:
    source = tfds_source("tiny_fixed", split, directory)
    return [source[row] for row in range(len(source))]


@pytest.mark.parametrize("bound", ["50%", "95%", "3", "-3"])
def test_slices_partition(bound, directory):
    parts = rows_of(f"train[:{bound}]", directory), rows_of(f"train[{bound}:]", directory)
    assert all(parts)
    assert parts[0] + parts[1] == rows_of("train", directory)


def test_splits_add_up(directory):
    assert rows_of("test+train[:3]", directory) == rows_of("test", directory) + rows_of("train[:3]", directory)


def test_a_row_is_described_with_its_file_name(directory):
    source = tfds_source("tiny_named", "train[:90%]", directory)
    number = int(pixels(source[7][0]).max()) - 1
    assert source.describe(7) == f"tiny_named/1.0.0 train[:90%] row 7 (picture {number}.png)"
    assert tfds_source("tiny_fixed", "test", directory).describe(0) == "tiny_fixed/1.0.0 test row 0"


def test_many_rows_are_read_at_once(directory):
    source = tfds_source("tiny_fixed", "train[:90%]", directory)
    rows = [5, 17, 0, 5]
    assert source.__getitems__(rows) == [source[row] for row in rows]


@pytest.mark.parametrize("split", ["train", "train[:98%]", "train[25%:75%]"])
def test_source_is_pickled_as_paths(split, directory):
    source = tfds_source("tiny_fixed", split, directory)
    source[0]  # opens a file, which must not be pickled
    pickled = pickle.dumps(source)
    assert len(pickled) < 2000
    copy = pickle.loads(pickled)
    assert [copy[row] for row in range(len(copy))] == rows_of(split, directory)
    assert (copy.class_names, copy.image_size, copy.describe(1)) == (list(COLOURS), (4, 6), source.describe(1))


@pytest.mark.parametrize("block", [1000, 7])
def test_labels_are_read_once_and_without_images(block, directory, monkeypatch):
    monkeypatch.setattr("vit_jax.data.tfds_source.LABELS_AT_ONCE", block)
    monkeypatch.setattr("vit_jax.data.memory.decode_image", lambda image: pytest.fail("decoded an image"))
    source = tfds_source("tiny_fixed", "train[:90%]", directory)
    expected = [label for _, label in rows_of("train[:90%]", directory)]
    size = len(pickle.dumps(source))
    assert labels_of(kept_in_memory(source)).tolist() == expected
    assert source.labels.dtype == np.int32
    assert len(pickle.dumps(source)) == size
    source.records = None  # not read again
    assert labels_of(source).tolist() == expected


def test_source_is_read_in_a_worker_process(directory):
    source = tfds_source("tiny_named", "train[:98%]", directory)
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(operator.getitem, source, 5).result() == source[5]
        assert pool.submit(TfdsSource.describe, source, 5).result() == source.describe(5)


@pytest.mark.parametrize("split", ["validation", "train[", "train[:1000]", "train[:0]", "train[60%:40%]"])
def test_split_that_does_not_exist(split, directory):
    with pytest.raises(UserError) as error:
        tfds_source("tiny_fixed", split, directory)
    assert "tiny_fixed/1.0.0" in str(error.value)
    assert repr(split) in str(error.value)


@pytest.mark.parametrize("kind", ["unlabelled", "captioned"])
def test_set_without_class_labels(kind, directory):
    with pytest.raises(UserError, match=f"tiny_{kind} is no classification set"):
        tfds_source(f"tiny_{kind}", "train", directory)


@pytest.mark.parametrize(
    ("name", "near"), [("cifar1O", "cifar10"), ("imagenet-2012", "imagenet2012"), ("digit", "digits")]
)
def test_unknown_set_names_the_nearest(name, near, tmp_path):
    with pytest.raises(UserError, match=f"data set '{name}'.* .did you mean '{near}'"):
        tfds_source(name, "train", str(tmp_path))


@pytest.mark.parametrize("name", ["cifar10:0.0.1", "cifar10/coarse", "two words", "", "../cifar10", "a:b:c"])
def test_name_that_tfds_cannot_build_is_one_line(name, tmp_path):
    with pytest.raises(UserError) as error:
        tfds_source(name, "train", str(tmp_path))
    assert repr(name) in str(error.value)
    assert len(str(error.value)) < 200
    assert not list(tmp_path.iterdir())


def test_missing_data_dir(tmp_path):
    with pytest.raises(UserError, match=r"data\.dir '.*nowhere' is no directory"):
        tfds_source("cifar10", "train", str(tmp_path / "nowhere"))


def message(tmp_path: pathlib.Path, split: str = "train") -> str:
    """Returns what opening tiny_fixed complains of."""
    with pytest.raises(UserError) as error:
        tfds_source("tiny_fixed", split, str(tmp_path))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
    return str(error.value)


@pytest.mark.parametrize("damage", [b"{not json", b"", b"\xff\xfe\x00", b"{}", b'{"bogus": 1}'])
@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
def test_damaged_metadata_names_the_directory(file, damage, copied, tmp_path):
    (copied / file).write_bytes(damage)
    assert message(tmp_path).startswith(f"the metadata of tiny_fixed in {copied} cannot be read: ")


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
def test_missing_metadata(file, copied, tmp_path):
    (copied / file).unlink()
    assert str(copied) in message(tmp_path)


def test_damaged_metadata_of_a_set_whose_code_tfds_has(copied, tmp_path):
    place = shutil.copytree(copied, tmp_path / "cifar10" / "3.0.2")
    (place / "dataset_info.json").write_text("{not json")
    with pytest.raises(UserError, match=f"the metadata of cifar10 in {place} cannot be read: Failed to load JSON"):
        tfds_source("cifar10", "train", str(tmp_path))


def test_directory_without_metadata_is_neither_read_nor_overwritten(tmp_path):
    place = tmp_path / "cifar10" / "3.0.2"
    place.mkdir(parents=True)
    (place / "precious").touch()
    with pytest.raises(UserError, match=f"{place} holds no prepared set: dataset_info.json is missing"):
        tfds_source("cifar10", "train", str(tmp_path))
    assert [file.name for file in place.iterdir()] == ["precious"]


def shard(copied: pathlib.Path, split: str) -> pathlib.Path:
    (file,) = copied.glob(f"*-{split}.array_record*")
    return file


def test_missing_file(copied, tmp_path):
    file = shard(copied, "train")
    file.unlink()
    assert f"{file} is missing" in message(tmp_path)
    assert len(tfds_source("tiny_fixed", "test", str(tmp_path))) == ROWS["test"]


@pytest.mark.parametrize("kept", [0, 1000, 65536, 131000])
def test_file_that_is_cut_short(kept, copied, tmp_path):
    file = shard(copied, "train")
    file.write_bytes(file.read_bytes()[:kept])
    assert f"{file} is damaged: 0 of 20 records" in message(tmp_path)


def test_damaged_record_is_an_os_error_of_that_row_alone(copied, tmp_path):
    file = shard(copied, "train")
    content = bytearray(file.read_bytes())
    content[content.index(b"IHDR")] ^= 255  # in the first record's image
    file.write_bytes(content)
    source = tfds_source("tiny_fixed", "train", str(tmp_path))
    with pytest.raises(OSError, match="the record is damaged"):
        source[0]
    with pytest.raises(OSError, match="record is damaged"):
        source.__getitems__([1, 0])
    assert source.describe(0) == "tiny_fixed/1.0.0 train row 0"
    assert labels_of(source).tolist() == [-1] + [source[row][1] for row in range(1, 20)]
    assert [source[row][1] in range(3) for row in range(1, 20)] == [True] * 19


@pytest.mark.parametrize("record", [b"", b"\x0a\x00", b"no example"])
def test_record_without_an_image(record, directory):
    source = tfds_source("tiny_fixed", "train", directory)
    source.records = [record]
    with pytest.raises(OSError, match=r"the record (is damaged|holds no image)"):
        source[0]
    assert source.describe(0) == "tiny_fixed/1.0.0 train row 0"


def test_other_file_format_is_sent_elsewhere(copied, tmp_path):
    facts = copied / "dataset_info.json"
    facts.write_text(facts.read_text().replace("array_record", "riegeli"))
    assert message(tmp_path) == (
        f"{copied} holds tiny_fixed/1.0.0 as riegeli, not as array_record; prepare it in another directory: "
        "python -m vit_jax.prepare tiny_fixed --data_dir=DIR"
    )
