"""A person's own images: every layout, what slices hold, odd names, and one line for each mistake."""

import collections
import os
import pathlib
import pickle

import numpy as np
import pytest

from tests.data.folders import CURE, encoded, members, message, write
from vit_jax.data.folder import folder_source, folder_split_lengths, folder_split_range
from vit_jax.data.folder_layouts import EXTENSIONS


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
