"""Files that are damaged, of another kind, or could run code: one line each, which names the file."""

import io
import json
import pathlib
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.pretrained.examples import arrays_of, npz, refused, small_weights, torch_folder
from vit_jax.errors import UserError
from vit_jax.pretrained import files
from vit_jax.pretrained.load import load_weights
from vit_jax.pretrained.save import save_weights


@pytest.fixture
def npz_file(tmp_path):
    return npz(tmp_path, arrays_of(small_weights(), "google", tmp_path))


@pytest.fixture
def safetensors_file(tmp_path):
    return torch_folder(tmp_path, arrays_of(small_weights(), "timm", tmp_path)) / "model.safetensors"


@pytest.fixture(params=["npz", "safetensors"])
def file(request):
    return request.getfixturevalue(f"{request.param}_file")


def explained(path: pathlib.Path, read: Callable, argument) -> bool:
    """Returns whether reading fails; if so, in one line that names the path."""
    try:
        read(argument)
    except UserError as error:
        message = str(error)
    else:
        return False
    assert str(path) in message
    assert "\n" not in message
    return True


def test_the_files_are_good_before_they_are_damaged(npz_file, safetensors_file):
    assert load_weights(str(npz_file)).module.depth == 2
    assert load_weights(str(safetensors_file), heads=2).module.depth == 2


def test_cut_off(file):
    whole = file.read_bytes()
    for end in (0, 1, 2, 7, 8, 9, 100, 1000, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        file.write_bytes(whole[:end])
        assert "damaged or no" in refused(file, heads=2)


def test_noise_and_other_files(file):
    for content in (random.Random(0).randbytes(5000), b"PK" + bytes(300), b"<!DOCTYPE html><html>", b"\x93NUMPY"):
        file.write_bytes(content)
        assert "damaged or no" in refused(file, heads=2)


def test_any_wrong_byte_is_read_or_explained(npz_file, safetensors_file):
    """Whatever zipfile, NumPy and safetensors raise for it; some bytes are only numbers."""
    generator, told = random.Random(1), 0
    for file, read in ((npz_file, files.read_npz), (safetensors_file, files.read_safetensors)):
        whole = file.read_bytes()
        for _ in range(150):
            places = [generator.randrange(4000), len(whole) - 1 - generator.randrange(4000)]
            changed = bytearray(whole)
            for place in places:
                changed[place] ^= 1 << generator.randrange(8)
            file.write_bytes(changed)
            told += explained(file, read, file)
    assert told > 50


def test_a_zip_that_needs_more_than_this_python_has(npz_file):
    """The central directory says compression 99; zipfile raises NotImplementedError."""
    changed = bytearray(npz_file.read_bytes())
    entry = changed.index(b"PK\x01\x02")
    changed[8] = changed[entry + 10] = 99
    npz_file.write_bytes(changed)
    assert "damaged or no" in refused(npz_file)


def test_a_shape_beyond_all_memory(npz_file):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 45, 1 << 5)})
    with zipfile.ZipFile(npz_file, "a") as archive:
        archive.writestr("huge.npy", header.getvalue())
    assert "damaged or no" in refused(npz_file)


@pytest.mark.parametrize("shape", ["('8',)", "(99999999999999999999999,)", "(-2, -4)", "(8.0,)", "(" * 9000])
def test_a_header_that_is_no_shape(shape, npz_file):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    with zipfile.ZipFile(npz_file, "a") as archive:
        archive.writestr("wrong.npy", b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + bytes(32))
    assert "damaged or no" in refused(npz_file)


class Code:
    """Unpickling it leaves a file behind."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return (open, (str(self.place), "w"))


@pytest.mark.parametrize("inside", [True, False])
def test_pickles_are_not_opened(inside, tmp_path):
    place, file = tmp_path / "ran", tmp_path / "x.npz"
    if inside:
        np.savez(file, a=np.array([Code(place)], dtype=object))
    else:
        file.write_bytes(pickle.dumps(Code(place)))
    assert "pickled objects, which could run any code" in refused(file)
    assert not place.exists()


@pytest.mark.parametrize("name", ["x.pth", "x.pt", "pytorch_model.bin", "x.ckpt", "x.pkl"])
def test_pytorchs_own_files(name, tmp_path):
    place = tmp_path / "ran"
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / name).write_bytes(pickle.dumps(Code(place)))
    for path in (folder / name, folder):
        message = refused(path)
        assert "pickle, which could run any code" in message
        assert "safetensors" in message
    assert not place.exists()


def test_arrays_of_no_numbers(tmp_path):
    assert "a is of type <U1, not of numbers" in refused(npz(tmp_path, {"a": np.array(["x"])}))


def test_a_single_array(tmp_path):
    np.save(tmp_path / "x.npy", np.ones(3))
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    assert "a single array" in refused(tmp_path / "x.npz")


OPTIONAL = {
    "google": {"cls"},
    "timm": {"cls_token", "pos_embed"},
    "huggingface": set(),
}
"""Arrays without which a file is one of another model that exists."""


@pytest.mark.parametrize("kind", OPTIONAL)
def test_every_array_is_missed(kind, tmp_path):
    arrays = arrays_of(small_weights(gelu="tanh" if kind == "google" else "exact"), kind, tmp_path)
    missed = 0
    for name in arrays.keys() - OPTIONAL[kind]:
        rest = {other: array for other, array in arrays.items() if other != name}
        if kind == "google":
            message = refused(npz(tmp_path, rest))
        else:
            folder = torch_folder(tmp_path, rest)
            message = refused(folder, heads=2)
            shutil.rmtree(folder)
        said = ("missing", "belongs to no part", "named like no", "nothing in the file holds")
        assert any(words in message for words in said), (name, message)
        missed += 1
    assert missed >= 30


@pytest.mark.parametrize("kind", OPTIONAL)
def test_every_wrong_shape_is_told(kind, tmp_path):
    """One more row or one axis more; where the first block's shapes tell the width, another array is blamed."""
    arrays = arrays_of(small_weights(gelu="tanh" if kind == "google" else "exact"), kind, tmp_path)
    for name, array in arrays.items():
        for wrong in (np.concatenate([array, array[..., :1]], axis=-1), np.stack([array] * 2), np.float32(3)):
            changed = {**arrays, name: np.asarray(wrong)}
            if kind == "google":
                refused(npz(tmp_path, changed))
            else:
                folder = torch_folder(tmp_path, changed, config={"num_attention_heads": 2, "image_size": 8})
                refused(folder, heads=2, image_size=(8, 8))
                shutil.rmtree(folder)


def test_another_architecture(tmp_path):
    names = ("trunk.0.weight", "trunk.1.gate.weight", "trunk.norm.weight", "classifier.fc.weight")
    arrays = {name: np.ones((3, 3), np.float32) for name in names}
    for path in (torch_folder(tmp_path, arrays), npz(tmp_path, arrays), npz(tmp_path, {})):
        assert "named like no model of Google, big_vision, timm or Hugging Face" in refused(path)


def test_folders_without_weights(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "holds no checkpoint" in refused(folder)
    (folder / "config.json").write_text("{}")
    assert "holds no checkpoint" in refused(folder)
    for name in ("a", "b"):
        save_file({"x": np.ones(3, np.float32)}, folder / f"{name}.safetensors")
    assert "2 .safetensors files; name one of them, such as a.safetensors" in refused(folder)


@pytest.mark.parametrize("content", ['{"num_attention_heads": 2', "[1]", "", "\x00\xff", '{"a":' * 200_000])
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", files.INDEX])
def test_damaged_documents(name, content, tmp_path):
    save_weights(small_weights(gelu="exact"), tmp_path / "x", "huggingface")
    (tmp_path / "x" / name).write_text(content)
    message = refused(tmp_path / "x")
    assert str(tmp_path / "x" / name) in message
    assert "is damaged" in message or "no JSON object" in message


JUNK = [None, "x", 3.5, [1], {"a": 1}]


@pytest.mark.parametrize("kind", ["timm", "huggingface"])
def test_documents_with_values_of_other_types(kind, tmp_path):
    """Every value of every document in turn: read as far as it makes sense, else one line."""
    weights, told = small_weights(gelu="exact"), []
    save_weights(weights, tmp_path / "x", kind)
    for file in sorted((tmp_path / "x").glob("*.json")):
        whole = json.loads(file.read_text())
        inner = [key for key, value in whole.items() if isinstance(value, dict)]
        for path in [*((key,) for key in whole), *((key, deeper) for key in inner for deeper in whole[key])]:
            for junk in JUNK:
                changed = json.loads(json.dumps(whole))
                holder = changed if len(path) == 1 else changed[path[0]]
                holder[path[-1]] = junk
                file.write_text(json.dumps(changed))
                if explained(tmp_path / "x", load_weights, str(tmp_path / "x")):
                    told.append(path[-1])
        file.write_text(json.dumps(whole))
    wanted = {"timm": {"img_size", "num_heads", "mean", "model_args", "label_names", "crop_pct"}}
    wanted["huggingface"] = {"image_size", "num_attention_heads", "size", "image_mean", "id2label", "layer_norm_eps"}
    assert set(told) >= wanted[kind]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a thread of Orbax
def test_a_damaged_step_folder(tmp_path):
    """Each file of it cut in half, emptied or gone: read all the same, or one line."""
    save_weights(small_weights(), tmp_path / "good", "vit_jax")
    names = [path.relative_to(tmp_path / "good") for path in (tmp_path / "good").rglob("*") if path.is_file()]
    told = []
    for name in names:
        for damage in ("half", "gone"):
            shutil.rmtree(tmp_path / "x", ignore_errors=True)
            shutil.copytree(tmp_path / "good", tmp_path / "x")
            file = tmp_path / "x" / name
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]) if damage == "half" else file.unlink()
            if explained(tmp_path / "x", load_weights, str(tmp_path / "x")):
                told.append(name.parts[0])
    assert {"state", "run"} <= set(told)


@pytest.mark.parametrize("damage", ["{}", '{"config": 3}', '{"config": {"model.name": "vitt"}, "class_names": null}'])
def test_a_step_folder_whose_document_says_nothing(damage, tmp_path):
    save_weights(small_weights(), tmp_path / "x", "vit_jax")
    (tmp_path / "x" / "run" / "metadata").write_text(damage)
    refused(tmp_path / "x")


def test_a_workdir_without_a_checkpoint(tmp_path):
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    assert "holds no complete checkpoint" in refused(tmp_path)
    with pytest.raises(UserError, match="holds no best checkpoint"):
        load_weights(f"{tmp_path}:best")


def test_pickles_of_pytorch_under_another_name_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "weights.npz", "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
    with pytest.raises(UserError, match="such as PyTorch's pickles"):
        load_weights(str(tmp_path / "weights.npz"))
