"""Tables of files and labels: columns, splits, encodings, and one line for each mistake."""

import os
import pathlib

import pytest

from tests.data.folders import CURE, encoded, members, message, write
from vit_jax.data.folder import folder_source, folder_split_lengths

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
