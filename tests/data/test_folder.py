"""A person's own images: every layout, what slices hold, odd names, and one line for each mistake."""

import collections
import io
import os
import pathlib
import pickle

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from vit_jax.data.folder import FolderSource, folder_source, folder_split_lengths, folder_split_range
from vit_jax.data.folder_layouts import EXTENSIONS
from vit_jax.errors import UserError

DEVKIT = "ILSVRC2012_devkit_t12/data"
CURE = "; rename it, or add it to train"
WNIDS = ("n01440764", "n01443537", "n01484850")


def encoded(colour: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (2, 3), (colour % 256, colour // 256, 7)).save(file, "PNG")
    return file.getvalue()


def write(root: pathlib.Path, *files: str) -> pathlib.Path:
    """Writes one image a name, each of its own colour, and returns the folder."""
    for colour, name in enumerate(files):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(colour))
    return root


def members(source: FolderSource) -> list[tuple[str, str]]:
    """Returns the class and file of each row."""
    return [(source.class_names[label], file) for label, file in zip(source.labels, source.files, strict=True)]


def message(path, split: str = "train") -> str:
    """Returns the one line with which a path or split is refused."""
    with pytest.raises(UserError) as error:
        folder_source(str(path), split)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def pets(tmp_path) -> pathlib.Path:
    """60 cats, 40 dogs and 20 emus, a folder for each."""
    counts = {"cat": 60, "dog": 40, "emu": 20}
    return write(tmp_path / "pets", *(f"{name}/{i:03}.png" for name, count in counts.items() for i in range(count)))


def test_rows_are_the_files_with_the_label_of_their_folder(pets):
    source = folder_source(str(pets), "train")
    assert source.class_names == ["cat", "dog", "emu"]
    assert source.image_size is None
    assert source.labels.dtype == np.int32
    assert len(source) == 120
    for row in range(len(source)):
        content, label = source[row]
        assert (type(content), type(label)) == (bytes, int)
        assert content == (pets / source.files[row]).read_bytes()
        assert source.describe(row) == source.files[row]
        assert source.files[row].startswith(source.class_names[label] + "/")
    assert len(set(source.files)) == 120


def test_order_is_shuffled_and_does_not_depend_on_how_files_were_made(pets, tmp_path):
    files = folder_source(str(pets), "train").files
    again = tmp_path / "again"
    for file in sorted(files, reverse=True):
        write(again, file)
    assert folder_source(str(again), "train").files == files
    assert files != sorted(files)
    half = [file[:3] for file in files[:60]]
    assert 20 < half.count("cat") < 40


@pytest.mark.parametrize("bound", ["80%", "50%", "100", "-13"])
def test_slices_partition_the_rows_and_hold_all_classes(pets, bound):
    whole, first, rest = (folder_source(str(pets), f"train{part}") for part in ("", f"[:{bound}]", f"[{bound}:]"))
    assert first.files + rest.files == whole.files
    np.testing.assert_array_equal(np.concatenate([first.labels, rest.labels]), whole.labels)
    assert set(first.labels) == set(rest.labels) == {0, 1, 2}


def test_images_lie_at_any_depth(tmp_path):
    root = write(tmp_path, "cat/tabby/old/1.png", "cat/2.png", "dog/1.png")
    assert set(members(folder_source(str(root), "train"))) == {
        ("cat", "cat/tabby/old/1.png"),
        ("cat", "cat/2.png"),
        ("dog", "dog/1.png"),
    }


def test_extensions_in_any_case_count(tmp_path):
    names = [f"{i}{extension}" for i, extension in enumerate([*EXTENSIONS, *map(str.upper, EXTENSIONS), ".Jpg"])]
    root = write(tmp_path, *(f"cat/{name}" for name in names), "dog/1.png")
    assert len(names) == 27
    assert len(folder_source(str(root), "train")) == 28


def test_other_files_are_counted_once_and_hidden_ones_pass_in_silence(tmp_path, capsys):
    root = write(tmp_path, "cat/1.png", "dog/1.png", "cat/.2.png", ".git/3.png", "__MACOSX/cat/._1.png")
    for name in ("notes.txt", "cat/Thumbs.db", "cat/1.png.bak", "dog/png", ".DS_Store"):
        (root / name).write_bytes(b"")
    assert len(folder_source(str(root), "train")) == 2
    said = f"folder:{root}: ignored 4 files that are no images: notes.txt, cat/1.png.bak, cat/Thumbs.db, …\n"
    assert capsys.readouterr().out == said
    folder_source(str(root), "train[:50%]")
    folder_split_lengths(str(root))
    assert capsys.readouterr().out == ""


def test_images_outside_the_class_folders_are_named(tmp_path, capsys):
    root = write(tmp_path, "cat/1.png", "dog/1.png", "all.png")
    assert len(folder_source(str(root), "train")) == 2
    assert capsys.readouterr().out == f"folder:{root}: ignored 1 image outside the class folders: all.png\n"


def test_contents_are_not_looked_at(tmp_path):
    root = write(tmp_path, "cat/1.png", "dog/1.png")
    (root / "dog" / "1.png").write_bytes(b"no picture")
    source = folder_source(str(root), "train")
    assert source[source.files.index("dog/1.png")] == (b"no picture", 1)


def test_home_and_relative_paths(pets, monkeypatch):
    monkeypatch.setenv("HOME", str(pets.parent))
    monkeypatch.chdir(pets)
    sources = [folder_source(path, "train") for path in ("~/pets", ".", "../pets/", str(pets))]
    assert len({source.root for source in sources}) == 1
    monkeypatch.chdir("/")
    assert sources[1][0] == sources[3][0]


def test_a_changed_folder_is_listed_anew(pets):
    assert len(folder_source(str(pets), "train")) == 120
    write(pets, "cat/new.png")
    os.utime(pets / "cat", ns=(1, 1))  # the file system's clock may be too coarse to tell two moments apart
    assert len(folder_source(str(pets), "train")) == 121


def test_pickled_source_reads_the_same(pets):
    source = folder_source(str(pets), "train[:50%]")
    copy = pickle.loads(pickle.dumps(source))
    assert (len(copy), copy.class_names, copy.image_size) == (60, source.class_names, None)
    assert [copy[row] for row in range(60)] == [source[row] for row in range(60)]


def test_pickle_holds_one_relative_path_and_label_a_row(pets):
    source = folder_source(str(pets), "train")
    assert len(pickle.dumps(source)) < 800 + len(source) * (len("cat/000.png") + 3 + 4)


def test_loops_of_links_end(tmp_path):
    root = write(tmp_path / "pets", "cat/1.png", "cat/deep/2.png", "dog/3.png")
    for place, target in {
        "cat/deep/up": root / "cat",
        "cat/deep/self": root / "cat" / "deep",
        "cat/all": root,
        "everything": root,
        "above": tmp_path,
        "dog/root": "/",
    }.items():
        (root / place).symlink_to(target)
    (root / "dog" / "me.png").symlink_to("me.png")
    source = folder_source(str(root), "train")
    assert sorted(source.files) == ["cat/1.png", "cat/deep/2.png", "dog/3.png", "dog/me.png"]
    with pytest.raises(OSError, match="symbolic links"):
        source[source.files.index("dog/me.png")]


def test_links_are_followed(tmp_path):
    write(tmp_path / "store", "a/1.png", "a/2.png", "3.png")
    root = write(tmp_path / "pets", "dog/1.png")
    (root / "cat").symlink_to(tmp_path / "store" / "a")
    (root / "dog" / "3.png").symlink_to(tmp_path / "store" / "3.png")
    source = folder_source(str(root), "train")
    assert sorted(source.files) == ["cat/1.png", "cat/2.png", "dog/1.png", "dog/3.png"]
    assert source[source.files.index("dog/3.png")] == (encoded(2), 1)


def test_broken_link_is_a_row_that_fails_when_read(tmp_path):
    root = write(tmp_path, "cat/1.png", "dog/1.png")
    (root / "cat" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    source = folder_source(str(root), "train")
    with pytest.raises(FileNotFoundError):
        source[source.files.index("cat/gone.jpg")]


def test_pipes_are_no_images(tmp_path, capsys):
    root = write(tmp_path, "cat/1.png", "dog/1.png")
    os.mkfifo(root / "cat" / "2.png")
    assert sorted(folder_source(str(root), "train").files) == ["cat/1.png", "dog/1.png"]
    assert "ignored 1 file that is no image: cat/2.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "described"),
    [
        (b"two\nlines.png", r"'cat/two\nlines.png'"),
        (b"caf\xe9.png", r"'cat/caf\udce9.png'"),
        (b"\x1b[31m.png", r"'cat/\x1b[31m.png'"),
        ("été 夏.png".encode(), "cat/été 夏.png"),
        (b"-rf 'a' \"b\".png", "cat/-rf 'a' \"b\".png"),
    ],
)
def test_odd_file_names(tmp_path, name, described):
    root = write(tmp_path, "dog/1.png", os.fsdecode(b"cat/" + name))
    source = pickle.loads(pickle.dumps(folder_source(str(root), "train")))
    row = int(np.argmin(source.labels))
    assert source.describe(row) == described
    assert source[row] == (encoded(1), 0)
    source.describe(row).encode("utf-8")


def test_odd_class_names_can_be_written(tmp_path):
    root = write(tmp_path, os.fsdecode(b"caf\xe9/1.png"), "dog/1.png")
    assert folder_source(str(root), "train").class_names == [r"caf\xe9", "dog"]


@pytest.fixture
def divided(tmp_path) -> pathlib.Path:
    """Two classes in train, val and test; emu, the last of train, is missing in val."""
    return write(
        tmp_path / "divided",
        *(f"train/{name}/{i}.png" for name in ("emu", "cat", "dog") for i in range(10)),
        *(f"val/{name}/{i}.png" for name in ("dog", "cat") for i in range(4)),
        *(f"test/{name}.png" for name in ("dog/old/2", "dog/1", "dog/a/b/1", "emu/1", "emu/2", "emu/3")),
    )


def test_splits_are_the_folders_with_the_classes_of_train(divided):
    sources = {split: folder_source(str(divided), split) for split in ("train", "val", "test")}
    for split, source in sources.items():
        assert source.class_names == ["cat", "dog", "emu"]
        assert source.files == sorted(source.files)
        assert all(file.startswith(f"{split}/{name}/") for name, file in members(source))
    assert [len(source) for source in sources.values()] == [30, 8, 6]
    assert collections.Counter(sources["val"].labels.tolist()) == {0: 4, 1: 4}
    assert collections.Counter(sources["test"].labels.tolist()) == {1: 3, 2: 3}


@pytest.mark.parametrize("folder", ["val", "validation", "valid"])
@pytest.mark.parametrize("asked", ["val", "validation", "valid"])
def test_names_of_the_validation_split_mean_the_same(divided, folder, asked, capsys):
    (divided / "val").rename(divided / folder)
    source = folder_source(str(divided), asked)
    assert len(source) == 8
    assert all(file.startswith(f"{folder}/") for file in source.files)
    assert folder_split_range(str(divided), f"{asked}[2:5]") == (folder, range(2, 5))
    assert capsys.readouterr().out == ""


def test_two_validation_folders_keep_their_own_names(divided):
    write(divided, "validation/cat/1.png")
    assert len(folder_source(str(divided), "val")) == len(folder_source(str(divided), "valid")) == 8
    assert folder_source(str(divided), "validation").files == ["validation/cat/1.png"]


def test_lengths_of_splits_under_all_their_names(divided, pets):
    assert folder_split_lengths(str(divided)) == {"train": 30, "val": 8, "validation": 8, "valid": 8, "test": 6}
    assert folder_split_lengths(str(pets)) == {"train": 120}


def test_slices_of_sorted_splits_hold_all_classes(divided):
    first, rest = (folder_source(str(divided), split) for split in ("train[:60%]", "train[60%:]"))
    assert sorted(first.files + rest.files) == folder_source(str(divided), "train").files
    assert set(first.labels) == set(rest.labels) == {0, 1, 2}
    assert first.files == sorted(first.files)
    assert all(file.startswith(f"train/{name}/") for name, file in members(first) + members(rest))


def test_train_alone_is_shuffled(divided):
    for name in ("val", "test"):
        (divided / name).rename(divided.parent / name)
    (divided / "docs").mkdir()
    source = folder_source(str(divided), "train")
    assert source.class_names == ["cat", "dog", "emu"]
    assert source.files != sorted(source.files)


def test_a_class_may_be_called_train(tmp_path):
    root = write(tmp_path, "bus/1.png", "car/1.png", "train/1.png")
    assert folder_source(str(root), "train").class_names == ["bus", "car", "train"]


def test_a_class_without_training_images_stays_if_another_split_has_some(divided):
    (divided / "train" / "yak").mkdir()
    assert message(divided) == f"folder:{divided}: class 'yak' has no images; add some or remove its folder"
    write(divided, "test/yak/1.png")
    assert folder_source(str(divided), "train").class_names == ["cat", "dog", "emu", "yak"]
    assert folder_source(str(divided), "test").labels.tolist() == [1, 1, 1, 2, 2, 2, 3]


def test_a_class_that_train_lacks_is_named(divided):
    write(divided, "val/emus/1.png", "val/yak/1.png")
    said = message(divided, "validation")
    assert (
        said == f"folder:{divided}: val holds class 'emus' and 1 more, which train lacks (did you mean 'emu'?)" + CURE
    )
    assert len(folder_source(str(divided), "train")) == 30


LABELS = (2, 0, 1, 1, 2, 0)
VAL_FILES = [f"ILSVRC2012_val_{i + 1:08}.JPEG" for i in range(len(LABELS))]


def write_imagenet(root: pathlib.Path) -> pathlib.Path:
    return write(
        root,
        *(f"train/{wnid}/{wnid}_{i}.JPEG" for wnid in WNIDS for i in range(5)),
        *(f"val/{name}" for name in VAL_FILES),
    )


def write_solution(folder: pathlib.Path, rows: int = len(LABELS)) -> None:
    """Writes Kaggle's table, whose lines are in no order."""
    pairs = list(zip(VAL_FILES, LABELS, strict=True))[:rows]
    lines = [f"{file.removesuffix('.JPEG')},{WNIDS[label]} 1 2 3 4 {WNIDS[0]} 5 6 7 8 " for file, label in pairs]
    (folder / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *reversed(lines)]) + "\n")


def write_devkit(root: pathlib.Path, truth: str | None = None) -> None:
    """Writes the kit: its ids are not in the order of the WordNet ids, and it knows inner nodes of the tree."""
    (root / DEVKIT).mkdir(parents=True)
    ids = {WNIDS[0]: 3, WNIDS[1]: 1, WNIDS[2]: 2, "n00001740": 1001}
    synsets = np.zeros((4, 1), [(field, object) for field in ("ILSVRC2012_ID", "WNID", "words", "num_children")])
    for row, (wnid, number) in enumerate(ids.items()):
        synsets[row, 0] = (np.float64(number), wnid, "a fish, a swimmer", int(number > 1000))
    savemat(root / DEVKIT / "meta.mat", {"synsets": synsets})
    truth = truth or "".join(f"{ids[WNIDS[label]]}\n" for label in LABELS)
    (root / DEVKIT / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)


def check_imagenet_val(path, root: pathlib.Path) -> None:
    source = folder_source(str(path), "val")
    assert source.class_names == ["tench", "goldfish", "great white shark"]
    assert source.files == [f"val/{name}" for name in VAL_FILES]
    assert source.labels.tolist() == list(LABELS)
    assert source[4] == ((root / "val" / VAL_FILES[4]).read_bytes(), LABELS[4])
    assert len(folder_source(str(path), "train")) == 15


@pytest.mark.parametrize("level", ["", "ILSVRC", "ILSVRC/Data", "ILSVRC/Data/CLS-LOC"])
def test_kaggle_tree_at_any_of_its_levels(tmp_path, level):
    root = write_imagenet(tmp_path / "ILSVRC/Data/CLS-LOC")
    write(root, "test/ILSVRC2012_test_00000001.JPEG")
    write_solution(tmp_path)
    check_imagenet_val(tmp_path / level, root)
    said = message(tmp_path / level, "test")
    assert said.endswith("test/ holds images without labels (1); evaluate on another split")


def test_kaggle_table_is_found_through_a_link(tmp_path):
    root = write_imagenet(tmp_path / "store/ILSVRC/Data/CLS-LOC")
    write_solution(tmp_path / "store")
    (tmp_path / "imagenet").symlink_to(root)
    check_imagenet_val(tmp_path / "imagenet", root)


def test_development_kit_beside_the_images(tmp_path):
    root = write_imagenet(tmp_path)
    write_devkit(root)
    check_imagenet_val(root, root)


def test_development_kit_labels_by_number_where_images_are_missing(tmp_path):
    root = write_imagenet(tmp_path)
    write_devkit(root)
    (root / "val" / VAL_FILES[1]).unlink()
    assert folder_source(str(root), "val").labels.tolist() == [2, 1, 1, 2, 0]


def test_val_in_class_folders_needs_no_table(tmp_path):
    root = write(tmp_path, *(f"{split}/{wnid}/{split}_1.JPEG" for split in ("train", "val") for wnid in WNIDS))
    assert folder_source(str(root), "val").labels.tolist() == [0, 1, 2]


def test_flat_val_without_labels_says_where_they_come_from(tmp_path):
    root = write_imagenet(tmp_path / "imagenet")
    said = message(root, "val")
    for part in ("LOC_val_solution.csv", "Kaggle", f"{DEVKIT}/meta.mat", "image-net.org", "val/<class>/"):
        assert part in said
    assert len(folder_source(str(root), "train")) == 15
    write_solution(tmp_path)
    os.utime(tmp_path, ns=(1, 1))
    check_imagenet_val(root, root)


def test_kaggle_table_that_does_not_fit(tmp_path):
    root = write_imagenet(tmp_path)
    table = root / "LOC_val_solution.csv"
    write_solution(root, rows=1)
    assert message(root, "val") == (
        f"folder:{root}: {table} labels 1 of 6 images of val/, not 'ILSVRC2012_val_00000002'"
    )
    table.write_text("ImageId,PredictionString\nILSVRC2012_val_00000001,n01440764 1 2 3 4\nILSVRC2012_val_00000002, \n")
    os.utime(table, ns=(1, 1))
    assert f"{table}:3: an image and its class are needed" in message(root, "val")
    table.write_text("file,label\n")
    os.utime(table, ns=(2, 2))
    assert f"{table}:1: the columns must be ImageId and PredictionString, not file, label" in message(root, "val")


@pytest.mark.parametrize(
    ("truth", "words"),
    [("1\n2\n", "labels ILSVRC2012_val_00000001 to 00000002, not ILSVRC2012_val_00000003"), ("1\n77\n", "KeyError")],
)
def test_development_kit_that_does_not_fit(tmp_path, truth, words):
    root = write_imagenet(tmp_path)
    write_devkit(root, truth)
    assert words in message(root, "val")


@pytest.mark.parametrize("content", [b"", b"junk" * 100])
def test_damaged_meta_mat(tmp_path, content):
    root = write_imagenet(tmp_path)
    write_devkit(root)
    (root / DEVKIT / "meta.mat").write_bytes(content)
    assert "cannot read" in message(root, "val")
    assert "meta.mat" in message(root, "val")


PICTURES = [f"images/{i}.png" for i in range(12)]


def table(root: pathlib.Path, *lines: str, name: str = "labels.csv", start: bytes = b"") -> pathlib.Path:
    root.mkdir(exist_ok=True)
    (root / name).write_bytes(start + os.fsencode("\n".join(lines)))
    return root / name


@pytest.mark.parametrize("file_column", ["file", "filename", "image", "image_id", "path", "File"])
@pytest.mark.parametrize("label_column", ["label", "class", "target", "category", " Label"])
def test_csv_columns_go_by_their_names(tmp_path, file_column, label_column):
    write(tmp_path, *PICTURES)
    rows = [f"{i},{'cat' if i % 3 else 'dog'},{file},more" for i, file in enumerate(PICTURES)]
    source = folder_source(str(table(tmp_path, f"id,{label_column},{file_column},notes", *rows)), "train")
    assert source.class_names == ["cat", "dog"]
    assert sorted(members(source)) == sorted(("cat" if i % 3 else "dog", file) for i, file in enumerate(PICTURES))
    assert source[0][0] == (tmp_path / source.files[0]).read_bytes()


def test_csv_without_header(tmp_path):
    write(tmp_path, *PICTURES)
    source = folder_source(str(table(tmp_path, *(f"{file},c{i % 2}" for i, file in enumerate(PICTURES)))), "train")
    assert sorted(members(source)) == sorted((f"c{i % 2}", file) for i, file in enumerate(PICTURES))


def test_csv_of_one_split_is_shuffled(tmp_path):
    write(tmp_path, *PICTURES)
    path = str(table(tmp_path, "file,label", *(f"{file},{i // 6}" for i, file in enumerate(PICTURES))))
    whole, first, rest = (folder_source(path, f"train{part}") for part in ("", "[:50%]", "[50%:]"))
    assert whole.files != PICTURES
    assert first.files + rest.files == whole.files
    assert set(first.labels) == set(rest.labels) == {0, 1}


def test_csv_with_a_split_column_keeps_its_order(tmp_path):
    write(tmp_path, *PICTURES)
    order = [PICTURES[i] for i in (7, 2, 9, 4, 0, 11)]
    rows = [f"{file},{split},{label}" for file, split, label in zip(order, ["train", "val"] * 3, "abbaab", strict=True)]
    path = str(table(tmp_path, "file,split,label", *rows))
    assert members(folder_source(path, "train")) == [("a", order[0]), ("b", order[2]), ("a", order[4])]
    assert members(folder_source(path, "validation")) == [("b", order[1]), ("a", order[3]), ("b", order[5])]
    assert folder_split_lengths(path)["val"] == 3


@pytest.mark.parametrize("other", ["val", "valid", "validation", "test"])
def test_folder_of_csvs(tmp_path, other):
    write(tmp_path, *PICTURES)
    table(tmp_path, "file,label", *(f"{file},{i % 3}" for i, file in enumerate(PICTURES[8::-1])), name="train.csv")
    table(tmp_path, f"{PICTURES[11]},2", f"{PICTURES[10]},0", name=f"{other}.csv")
    train, held = (folder_source(str(tmp_path), split) for split in ("train", other))
    assert train.files == PICTURES[8::-1]
    assert members(held) == [("2", PICTURES[11]), ("0", PICTURES[10])]
    assert held.class_names == train.class_names == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["10", "9", "-1", "9"], ["-1", "9", "10"]),
        (["10", "9", "b", "9"], ["10", "9", "b"]),
        (["1.5", "-3", "1.5", "10"], ["-3", "1.5", "10"]),
        (["x y", " x y ", "a,b", "a,b"], ["a,b", "x y"]),
    ],
)
def test_csv_class_names(tmp_path, labels, names):
    write(tmp_path, *PICTURES)
    rows = [f'{file},"{label}"' for file, label in zip(PICTURES, labels, strict=False)]
    source = folder_source(str(table(tmp_path, *rows)), "train")
    assert source.class_names == names
    by_file = {file: source.class_names[label] for file, label in zip(source.files, source.labels, strict=True)}
    assert [by_file[file] for file in PICTURES[:4]] == [label.strip() for label in labels]


def test_csv_with_byte_order_mark_blank_lines_and_odd_names(tmp_path):
    odd = [os.fsdecode(b"caf\xe9.png"), "a,b.png", "two\r\nlines.png", 'quote".png', str(tmp_path / "absolute.png")]
    write(tmp_path, *odd)
    quoted = ['"' + name.replace('"', '""') + '"' for name in odd]
    lines = [f"{name},{i % 2}\r\n" for i, name in enumerate(quoted)]
    source = folder_source(str(table(tmp_path, "path,label\r", *lines, start=b"\xef\xbb\xbf")), "train")
    assert sorted(source.files) == sorted(odd)
    assert all(source[row][0] == encoded(odd.index(source.files[row])) for row in range(5))


def test_file_that_a_csv_names_but_is_missing_fails_when_read(tmp_path):
    write(tmp_path, *PICTURES[:2])
    source = folder_source(str(table(tmp_path, "gone.png,a", f"{PICTURES[0]},b", f"{PICTURES[1]},a")), "train")
    with pytest.raises(FileNotFoundError):
        source[source.files.index("gone.png")]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["file,label", "images/0.png,a", "images/1.png"], ":3: a file and a label are needed"),
        (["file,label", "images/0.png,a", "images/1.png, "], ":3: a file and a label are needed"),
        (["file,label", '"two\nlines.png",a', "images/1.png"], ":4: a file and a label are needed"),
        (["file,label", "", ",a"], ":3: a file and a label are needed"),
        (["images/0.png;a", "images/1.png;b"], ":1: there is no file 'images/0.png;a'"),
        (["images/0.png", "images/1.png"], ":1: a file and a label are needed, separated by a comma"),
        (["file,label,split", "images/0.png,a,train", "images/1.png,b"], ":3: a file, a label and a split are needed"),
        (["file,label,split", "images/0.png,a,train", "images/1.png,b,"], ":3: a file, a label and a split are needed"),
        (["images/0.png,a", "images/1\0.png,b"], ":2: a file and a label are needed"),
        (["file,label"], ":1: there are no rows"),
        ([], ":1: there are no rows"),
        (["", ""], ":1: there are no rows"),
        (["img,breed", "images/0.png,a", "images/1.png,b"], ":1: there is no file 'img'; if this line is a header"),
        (["file,breed", "images/0.png,a", "images/1.png,b"], ":1: there is no file 'file'; if this line is a header"),
        (["file,label", "0.png,a", "1.png,b"], ": there is no file '0.png' in "),
        (["images/0.png,a", "images/1.png,a"], "only one class, 'a'"),
        (["images/0.png,a", "images/1.png," + "b" * 200_000], ":2: field larger than field limit"),
    ],
)
def test_csv_mistakes(tmp_path, lines, words):
    write(tmp_path, *PICTURES)
    path = table(tmp_path, *lines)
    said = message(path)
    assert str(path) + words in said or f"folder:{path} has {words}" in said


def test_csv_class_that_train_lacks(tmp_path):
    write(tmp_path, *PICTURES)
    rows = ["0.png,cat,train", "1.png,dog,train", "2.png,cta,val"]
    path = table(tmp_path / "images", "file,label,split", *rows)
    assert message(path, "val").endswith("val holds class 'cta', which train lacks (did you mean 'cat'?)" + CURE)
    assert folder_source(str(path), "train").class_names == ["cat", "dog"]


def test_csv_that_cannot_be_read(tmp_path, monkeypatch):
    write(tmp_path, *PICTURES)
    path = table(tmp_path, "images/0.png,a", "images/1.png,b")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    assert message(path) == f"cannot read {path}: Permission denied"


def test_path_that_does_not_exist_names_the_nearest(pets):
    assert message(pets.parent / "pest") == f"folder:{pets.parent}/pest does not exist (did you mean 'pets'?)"
    assert message(pets.parent / "pest/a/b") == f"folder:{pets.parent}/pest/a/b does not exist (did you mean 'pets'?)"
    assert message(pets / "xyz") == f"folder:{pets}/xyz does not exist"
    assert "names no path" in message("")


def test_file_that_is_no_csv(tmp_path):
    (tmp_path / "pets.zip").write_bytes(b"")
    assert message(tmp_path / "pets.zip") == f"folder:{tmp_path}/pets.zip is a file, but no folder and no .csv"


def test_no_images(tmp_path):
    assert "holds no images (.avif .bmp" in message(tmp_path)
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "notes.txt").write_text("")
    assert "holds no images (.avif .bmp" in message(tmp_path)


def test_images_without_class_folders(tmp_path):
    root = write(tmp_path, "b.png", "a.png")
    said = message(root)
    assert "holds 2 images, such as a.png, but no folders of classes" in said
    for layout in ("PATH/cat/1.jpg", "PATH/train/cat/1.jpg", "PATH/labels.csv"):
        assert layout in said
    (root / "all.csv").write_text("")
    assert message(root).endswith(f"to read all.csv: data.name='folder:{root}/all.csv'")


def test_train_without_class_folders(tmp_path):
    root = write(tmp_path, "train/1.png", "test/1.png")
    assert "train/ holds no images in folders of classes" in message(root)


def test_only_one_class(tmp_path):
    root = write(tmp_path, "cat/1.png")
    assert message(root) == f"folder:{root} has only one class, 'cat'; at least two are needed"
    root = write(tmp_path / "cat", "tabby/1.png")
    assert message(tmp_path).endswith(f"at least two are needed; did you mean data.name='folder:{root}'?")
    root = write(tmp_path / "divided", "train/cat/1.png", "val/cat/1.png")
    assert "has only one class, 'cat'" in message(root)


def test_class_without_images(pets):
    (pets / "yak").mkdir()
    assert message(pets) == f"folder:{pets}: class 'yak' has no images; add some or remove its folder"


@pytest.mark.parametrize("folders", [("Training", "Testing"), ("val", "test"), ("train", "Validation"), ("Train",)])
def test_folders_that_look_like_splits(tmp_path, folders):
    root = write(tmp_path, *(f"{folder}/{name}/1.png" for folder in folders for name in ("cat", "dog")))
    said = message(root)
    assert f"holds {', '.join(sorted(folders))}: call the folders of splits train, val and test" in said
    assert said.endswith(f"data.name='folder:{root}/{min(folders)}'")


def test_train_that_may_be_a_class_or_a_split(tmp_path):
    root = write(tmp_path, "train/steam/1.png", "train/diesel/1.png", "bus/1.png")
    assert f"data.name='folder:{root}/train'; if it is a class, rename it" in message(root)


def test_split_that_does_not_exist(pets, divided):
    hold_out = "hold some of it out: data.train_split='train[:80%]' data.eval_split='train[80%:]'"
    for split in ("test", "val[:50%]"):
        name = split.partition("[")[0]
        assert message(pets, split) == f"folder:{pets}: no split {name!r}; there is only 'train'; {hold_out}"
    said = f"folder:{divided}: no split 'tset'; there are train, val, test (did you mean 'test'?)"
    assert message(divided, "tset") == said
    (divided / "val").rename(divided.parent / "elsewhere")
    assert message(divided, "valid") == f"folder:{divided}: no split 'valid'; there are train, test"


def test_split_that_is_empty(pets, divided):
    assert message(pets, "train[:0]") == f"folder:{pets}: split 'train[:0]' is empty; 'train' has 120 images"
    assert "'valid[5:5]' is empty; 'val' has 8 images" in message(divided, "valid[5:5]")
    (divided / "test").rename(divided.parent / "elsewhere")
    (divided / "test").mkdir()
    assert message(divided, "test") == f"folder:{divided}: test/ holds no images; add some"
    (divided / "test" / "cat").mkdir()
    assert message(divided, "test") == f"folder:{divided}: test/ holds no images; add some"


@pytest.mark.parametrize("split", ["train[", "train+val", "[:3]", "", "train[:999]"])
def test_split_syntax(pets, split):
    assert repr(split) in message(pets, split)


def test_folder_that_cannot_be_listed(pets, monkeypatch):
    scandir = os.scandir

    def refuse(place):
        if str(place).endswith("dog"):
            raise PermissionError(13, "Permission denied", place)
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    assert message(pets) == f"folder:{pets}: cannot list {pets}/dog: Permission denied"
