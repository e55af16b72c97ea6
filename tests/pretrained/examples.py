"""Small models with random parameters, and files of them."""

import functools
import json
import pathlib
from collections.abc import Mapping

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vit_jax.data.preprocessing import Preprocessing
from vit_jax.errors import UserError
from vit_jax.models.registry import create_model
from vit_jax.pretrained.load import load_weights
from vit_jax.pretrained.save import save_weights
from vit_jax.pretrained.weights import Weights, make_weights, parameter_shapes

SIZE = (8, 8)
FIELDS = {"num_classes": 5, "patch_size": (4, 4), "width": 16, "depth": 2, "heads": 2, "mlp_dim": 32}
MIXER = {"num_classes": 5, "patch_size": (4, 4), "width": 16, "depth": 2, "tokens_mlp_dim": 8, "channels_mlp_dim": 24}


@functools.cache
def small_weights(model: str = "vit", size: tuple[int, int] = SIZE, **fields) -> Weights:
    """Returns weights of a model of two blocks, random in every parameter, with class names and a preprocessing.

    Made once for each model; they are not to be changed in place.
    """
    fields = {**(MIXER if model == "mixer" else FIELDS), **fields}
    module, generator = create_model(model, **fields), np.random.default_rng(0)
    shapes = parameter_shapes(module, size)
    params = {name: generator.normal(size=shape).astype(np.float32) / 2 for name, shape in sorted(shapes.items())}
    seen = Preprocessing(size, 11, "bicubic", mean=(0.4, 0.5, 0.6), std=(0.3, 0.2, 0.1))
    names = [f"class {i}" for i in range(module.num_classes)] or None
    return make_weights(model, fields, params, size, seen, "small", names)


def arrays_of(weights: Weights, kind: str, folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the arrays under a format's names."""
    out = folder / ("written.npz" if kind == "google" else f"written_{kind}")
    save_weights(weights, out, kind)
    return dict(np.load(out)) if kind == "google" else load_file(out / "model.safetensors")


def npz(folder: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> pathlib.Path:
    """Returns an `.npz` of arrays."""
    np.savez(folder / "x.npz", **arrays)
    return folder / "x.npz"


def torch_folder(
    folder: pathlib.Path, arrays: Mapping[str, np.ndarray], **documents: Mapping[str, object]
) -> pathlib.Path:
    """Returns a folder of its own with `model.safetensors` and JSON documents by their names (`config={…}`)."""
    folder = folder / f"torch{len(list(folder.iterdir()))}"
    folder.mkdir()
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / "model.safetensors")
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
    return folder


def refused(checkpoint, **known) -> str:
    """Returns the one line with which a checkpoint is refused; it names the file."""
    with pytest.raises(UserError) as error:
        load_weights(str(checkpoint), **known)
    assert "\n" not in str(error.value)
    assert str(checkpoint) in str(error.value)
    return str(error.value)


def same_params(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    """Returns whether parameters have the same names and the same bits."""
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
