"""From paths to image files: natural order, links that lead round, and paths that are not there."""

import os

import pytest

from vit_jax.data.folder_tables import EXTENSIONS
from vit_jax.errors import UserError
from vit_jax.inference.pictures import image_files, natural_key


@pytest.fixture
def folder(tmp_path):
    names = [
        "10.jpg",
        "2.JPG",
        "1.png",
        "notes.txt",
        ".hidden.jpg",
        "b2/1.webp",
        "b10/1.webp",
        "b10/x/y.gif",
        "ä ö/1.bmp",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    return tmp_path


def relative(files, folder):
    return [os.path.relpath(file, folder) for file in files]


def test_folders_are_searched_in_natural_order(folder):
    expected = ["1.png", "2.JPG", "10.jpg", "b2/1.webp", "b10/1.webp", "b10/x/y.gif", "ä ö/1.bmp"]
    assert relative(image_files([str(folder)]), folder) == expected


def test_a_file_stands_for_itself_whatever_it_is_called(folder):
    files = [str(folder / name) for name in ("notes.txt", ".hidden.jpg", "1.png", "1.png")]
    assert image_files(files) == files
    assert image_files([files[0], str(folder / "b10"), files[2]]) == [
        files[0],
        str(folder / "b10" / "1.webp"),
        str(folder / "b10" / "x" / "y.gif"),
        files[2],
    ]


def test_links_that_lead_round_are_not_followed(folder):
    os.symlink("..", folder / "b2" / "up")
    os.symlink(folder, folder / "again")
    os.symlink("self", folder / "self")
    os.symlink("nowhere", folder / "dead.jpg")
    files = relative(image_files([str(folder)]), folder)
    assert len(files) == 8
    assert "dead.jpg" in files  # named when it cannot be read


@pytest.mark.parametrize("suffix", sorted(EXTENSIONS))
def test_all_kinds_of_images_are_found(suffix, tmp_path):
    (tmp_path / f"x{suffix}").touch()
    (tmp_path / f"X{suffix.upper()}").touch()
    assert len(image_files([str(tmp_path)])) == 2


@pytest.mark.parametrize("name", ["nowhere.jpg", "nowhere/", "", "a\nb", "a\0b"])
def test_a_path_that_does_not_exist_is_named(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match="no such file or folder: ") as error:
        image_files(["1.png", name])
    assert "\n" not in str(error.value)
    assert (name or "''") in str(error.value) or repr(name) in str(error.value)


def test_a_folder_without_images(folder):
    (folder / "empty").mkdir()
    (folder / "empty" / "notes.txt").touch()
    with pytest.raises(UserError, match=r"empty holds no images; known are .*\.jpg"):
        image_files([str(folder / "1.png"), str(folder / "empty")])


def test_natural_order_is_total():
    names = ["a", "a01", "a1", "a1b", "a2", "a10", "10", "9", "a/b", "a/1", "", "1²"]
    assert len({str(natural_key(name)) for name in names}) == len(names)
    ordered = sorted(names, key=natural_key)
    names.reverse()
    assert ordered == sorted(names, key=natural_key)
    assert ordered.index("9") < ordered.index("10")
    assert ordered.index("a2") < ordered.index("a10")
