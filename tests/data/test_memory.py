"""Images kept in memory: each file read and decoded once, as far as there is room; nothing kept of what is damaged."""

import concurrent.futures
import io
import pickle
import threading

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from vit_jax.data import memory
from vit_jax.data.decode import UnreadableImage, decode_image
from vit_jax.data.host import HostTransform
from vit_jax.data.memory import KeptArray, KeptImages, decoded_bytes, kept_in_memory
from vit_jax.data.sources import ArraySource, describe, labels_of

SIZE = (6, 5)
AREA = 3 * 6 * 5


def picture(row: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(row).integers(0, 256, (*size, 3), dtype=np.uint8)


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


class Nameless:
    """Files in memory, or what is raised of them; which rows are asked for is noted."""

    class_names = ("a", "b", "c")

    def __init__(self, files: list, image_size: tuple[int, int] | None = None):
        self.files, self.image_size, self.asked = files, image_size, []

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[bytes, int]:
        self.asked.append(row)
        if isinstance(self.files[row], Exception):
            raise self.files[row]
        return self.files[row], row % 3


class Files(Nameless):
    def describe(self, row: int) -> str:
        return f"{row}.png"


def equal_files(count: int = 10) -> Files:
    return Files([png(picture(row)) for row in range(count)], SIZE)


def varied_files(count: int = 10) -> Files:
    return Files([png(picture(row, (4, 1 + row))) for row in range(count)])


def kept(files: Files, room: float = 1e6) -> KeptArray | KeptImages:
    return (KeptArray if files.image_size else KeptImages)(files, room)


@pytest.mark.parametrize(("files", "kind"), [(equal_files(), KeptArray), (varied_files(), KeptImages)])
def test_sets_are_kept_as_far_as_they_fit(files, kind, monkeypatch):
    needed = 3 * sum(np.prod(decode_image(file).shape[:2]) for file in files.files)
    assert decoded_bytes(files) == needed
    for room, processes, expected in [
        (needed, 1, kind),
        (needed - 1, 1, Files),
        (4 * needed, 4, kind),
        (needed, 2, KeptImages),  # each process keeps half of them, and decodes the others as whole as those
        (needed - 1, 2, Files),
    ]:
        monkeypatch.setattr(memory, "IN_MEMORY_BYTES", room)
        source = kept_in_memory(files, processes)
        assert type(source) is expected
        assert source is files or source.room == room // processes


def test_arrays_are_in_memory_already():
    source = ArraySource(np.stack([picture(0), picture(1)]), [0, 1], ["a", "b"])
    assert kept_in_memory(source) is source


def test_size_is_estimated_from_some_rows():
    files = varied_files(300)
    exact = 3 * sum(4 * (1 + row) for row in range(300))
    assert abs(decoded_bytes(files) - exact) < 0.05 * exact
    assert 1 < len(files.asked) <= memory.SAMPLED_ROWS
    assert {0, 299} < set(files.asked)


def test_size_is_estimated_from_what_can_be_read():
    readable = png(picture(0))
    files = Files([b"", readable, OSError("gone"), readable, ValueError("damaged")])
    assert decoded_bytes(files) == 5 * AREA
    nothing = Files([b"", OSError("gone")])
    assert kept_in_memory(nothing) is nothing


@pytest.mark.parametrize("files", [equal_files, varied_files])
def test_each_row_is_read_once(files):
    source, reference = kept(files()), files()
    for row in (2, 0, 2, 2, 9, 0, 9):
        image, label = source[row]
        np.testing.assert_array_equal(image, decode_image(reference.files[row]))
        assert (type(label), label) == (int, row % 3)
    assert source.source.asked == [2, 0, 9]
    assert len(source) == 10


def test_array_knows_what_is_still_to_be_read():
    source = kept(equal_files())
    rows = np.array([4, 7, 4, 1])
    assert source.rows_to_read(rows).tolist() == [0, 1, 2, 3]
    assert not source.images.any()
    source[4]
    assert source.rows_to_read(rows).tolist() == [1, 3]
    source[7], source[1]
    assert source.rows_to_read(rows).size == 0
    np.testing.assert_array_equal(source.images[rows], [picture(row) for row in rows])
    assert source.known_labels[rows].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("size", [SIZE, None])
@pytest.mark.parametrize("damaged", [b"no image", png(picture(0))[:60], OSError("gone"), ValueError("damaged record")])
def test_bad_rows_are_not_kept_and_raise_each_time(damaged, size):
    files = Files([png(picture(0)), damaged, png(picture(2))], size)
    source = kept(files)
    for _ in range(3):
        with pytest.raises(type(damaged) if isinstance(damaged, Exception) else UnreadableImage):
            source[1]
        np.testing.assert_array_equal(source[2][0], picture(2))
    assert files.asked == [1, 2, 1, 1]
    files.files[1] = png(picture(1))  # mended
    np.testing.assert_array_equal(source[1][0], picture(1))


@pytest.mark.parametrize("other", [(5, 6), (7, 5), (1, 1)])
def test_an_image_of_another_size_in_a_set_of_one_size(other):
    source = kept(Files([png(picture(0)), png(picture(1, other))], SIZE))
    for _ in range(2):
        with pytest.raises(UnreadableImage, match=f"^{other[0]}x{other[1]} pixels, unlike the others"):
            source[1]
    assert not source.images[1].any()
    np.testing.assert_array_equal(source[0][0], picture(0))


def test_images_are_kept_until_the_room_is_taken():
    files = Files([png(picture(row)) for row in range(6)])
    source = kept(files, room=2 * AREA)
    for _ in range(3):
        for row in range(6):
            image, label = source[row]
            np.testing.assert_array_equal(image, picture(row))
            assert label == row % 3
    assert [files.asked.count(row) for row in range(6)] == [1, 1, 3, 3, 3, 3]
    assert source.taken == 2 * AREA


@pytest.mark.parametrize("files", [equal_files, varied_files])
def test_pickles_carry_no_images(files):
    source = kept(files())
    before = len(pickle.dumps(source))
    for row in range(10):
        source[row]
    source.source.asked.clear()
    assert len(pickle.dumps(source)) <= before
    copy = pickle.loads(pickle.dumps(source))
    assert (type(copy), len(copy), copy.room) == (type(source), 10, source.room)
    for row in (3, 3, 1):
        np.testing.assert_array_equal(copy[row][0], source[row][0])
    assert copy.source.asked == [3, 1]
    assert source.source.asked == []


class Blocks(Files):
    """Files that can be read many at once, except the blocks that hold a row of `broken`."""

    def __init__(self, files: list, broken: dict[int, Exception] | None = None):
        super().__init__(files, SIZE)
        self.broken, self.blocks = broken or {}, []

    def __getitems__(self, rows: range) -> list[tuple[bytes, int]]:
        self.blocks.append(list(rows))
        for row in rows:
            if row in self.broken:
                raise self.broken[row]
        return [(self.files[row], row % 3) for row in rows]


def blocks(broken: dict[int, Exception] | None = None) -> Blocks:
    return Blocks([png(picture(row)) for row in range(10)], broken)


@pytest.fixture
def blocks_of_four(monkeypatch):
    monkeypatch.setattr(memory, "BLOCK", 4)


@pytest.mark.usefixtures("blocks_of_four")
@pytest.mark.parametrize("first", ["row", "rows"])
def test_blocks_are_read_once_and_at_the_first_look(first):
    files = blocks()
    source = kept(files)
    assert files.blocks == []
    assert source.rows_to_read(np.array([3, 8])).size == 0 if first == "rows" else source[3]
    for row in range(10):
        np.testing.assert_array_equal(source[row][0], picture(row))
        assert source[row][1] == row % 3
    assert sorted(files.blocks) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert files.asked == []
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[9][0], picture(9))
    assert copy.source.asked == []


@pytest.mark.usefixtures("blocks_of_four")
def test_a_bad_image_in_a_block_spoils_no_other():
    files = blocks()
    files.files[5] = b"no image"
    source = kept(files)
    assert source.rows_to_read(np.arange(10)).tolist() == [5]
    for _ in range(2):
        with pytest.raises(UnreadableImage):
            source[5]
    assert files.asked == [5, 5]
    assert len(files.blocks) == 3


@pytest.mark.usefixtures("blocks_of_four")
@pytest.mark.parametrize("error", [OSError("gone"), ValueError("damaged")])
def test_rows_of_a_block_that_cannot_be_read_are_read_one_by_one(error):
    files = blocks({6: error})
    source = kept(files)
    assert source.rows_to_read(np.arange(10)).tolist() == [4, 5, 6, 7]
    for row in range(10):
        np.testing.assert_array_equal(source[row][0], picture(row))
    assert files.asked == [4, 5, 6, 7]
    assert len(files.blocks) == 3


@pytest.mark.usefixtures("blocks_of_four")
def test_threads_read_the_blocks_once():
    files = blocks()
    source, together = kept(files), threading.Barrier(4, timeout=60)

    def look(row: int) -> np.ndarray:
        together.wait()
        return source[row][0]

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        images = list(pool.map(look, range(4)))
    np.testing.assert_array_equal(images, [picture(row) for row in range(4)])
    assert len(files.blocks) == 3


@pytest.mark.parametrize("files", [equal_files, varied_files])
def test_facts_and_names_are_handed_through(files):
    original = files()
    source = kept(original)
    assert (source.class_names, source.image_size) == (original.class_names, original.image_size)
    assert describe(source, 3) == "3.png"
    original.files[4] = b"no image"
    original.files[7] = OSError("gone")
    np.testing.assert_array_equal(labels_of(source), [row % 3 if row != 7 else -1 for row in range(10)])
    original.labels = np.array([2] * 10)
    np.testing.assert_array_equal(labels_of(kept(original)), original.labels)


def test_a_source_without_names_has_rows():
    assert describe(KeptImages(Nameless([png(picture(0))]), 1e6), 0) == "row 0"


@pytest.mark.parametrize("size", [None, (300, 400)])
def test_views_do_not_depend_on_the_number_of_processes(size, monkeypatch):
    """What is kept is cropped from whole images, and what is not must be too: decoding would shrink it otherwise."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    files = Files([simplejpeg.encode_jpeg(noise, quality=80)] * 4, size)
    monkeypatch.setattr(memory, "IN_MEMORY_BYTES", 4 * noise.nbytes)
    transform = HostTransform((64, 64), crop="random_resized", area=(0.5, 1.0))
    uniform = np.full(transform.draws, 0.3)
    views = [
        [transform.train(source[row][0], uniform) for row in range(4)]
        for source in (kept_in_memory(files, processes) for processes in (1, 2, 4))
    ]
    np.testing.assert_array_equal(views[0], views[1])
    np.testing.assert_array_equal(views[0], views[2])
    assert (transform.train(files[0][0], uniform) != views[0][0]).any()  # or this test would show nothing
