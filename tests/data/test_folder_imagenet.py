"""ImageNet in a folder: as it is published, as Kaggle has it, and one line for each mistake."""

import os
import pathlib

import numpy as np
import pytest
from scipy.io import savemat

from tests.data.folders import message, write
from vit_jax.data.folder import folder_source

DEVKIT = "ILSVRC2012_devkit_t12/data"
WNIDS = ("n01440764", "n01443537", "n01484850")
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
