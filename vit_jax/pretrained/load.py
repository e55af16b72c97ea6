"""Weights from any CHECKPOINT: one door to all formats."""

import dataclasses
import pathlib

import numpy as np

from vit_jax.data.imagenet import imagenet_classes
from vit_jax.errors import UserError, named
from vit_jax.pretrained import big_vision, files, google, huggingface, own, timm
from vit_jax.pretrained.bundle import LABELS, PROGRAMS, bundle_folder, read_bundle
from vit_jax.pretrained.catalogue import Published
from vit_jax.pretrained.layout import read_layout
from vit_jax.pretrained.layouts import layout_of_arrays
from vit_jax.pretrained.locate import locate
from vit_jax.pretrained.weights import Weights

BEST = ":best"
NPZ = "weights.npz"
"""What an `.npz` is called in a folder that is named in its place."""


def load_weights(checkpoint: str, image_size: tuple[int, int] | None = None, **overrides) -> Weights:
    """Returns the weights of a CHECKPOINT.

    Args:
      checkpoint: a workdir (its newest checkpoint; `WORKDIR:best` its best), a step folder, a Google or big_vision
        `.npz`, a timm or Hugging Face `.safetensors` file or folder, a bundle of weights that `vit_jax.export` wrote,
        a `gs://` or `https://` address of a file, a Hugging Face hub id, or a short name.
      image_size: height and width that the weights were trained at, where the file cannot tell.
      overrides: model fields that the file cannot tell, such as `heads=3`.

    Raises:
      UserError: there is no such checkpoint, it is damaged, or it is of no kind known here.
    """
    best = checkpoint.endswith(BEST)
    if "://" in checkpoint:
        files.refuse_pickle(pathlib.Path(checkpoint))  # before it is downloaded
    located = locate(checkpoint.removesuffix(BEST))
    published = located.published
    fields = {**(published.fields if published else {}), **overrides}
    with named(str(located.path)):
        weights = read(located.path, best, image_size, fields)
    return described(weights, published) if published else weights


def described(weights: Weights, published: Published) -> Weights:
    """Returns weights with the preprocessing and the class names that the catalogue has for them."""
    names = weights.class_names
    if published.classes == "imagenet" and weights.classes == 1000:
        names = imagenet_classes()
    return dataclasses.replace(weights, preprocessing=published.preprocessing, class_names=names)


def read(path: pathlib.Path, best: bool, image_size: tuple[int, int] | None, fields: dict[str, object]) -> Weights:
    """Returns the weights of a file or folder, told by its layout and its names.

    Raises:
      UserError: it is damaged, or of no kind known here.
    """
    folder = bundle_folder(path)
    if folder is None:
        return unbundled(path, best, image_size, fields)
    bundle = read_bundle(folder)
    if bundle.format in PROGRAMS:
        raise UserError(
            f"{folder} holds a compiled program, whose weights cannot be taken out; load_model and vit_jax.predict run "
            "it; for weights export with --format=safetensors, npz or vit_jax"
        )
    weights = unbundled(path, best, image_size or bundle.preprocessing.size, fields)
    if bundle.class_names is not None and len(bundle.class_names) != weights.classes:
        raise UserError(f"{folder / LABELS} has {len(bundle.class_names)} names for {weights.classes} classes")
    return dataclasses.replace(
        weights,
        preprocessing=bundle.preprocessing,
        class_names=bundle.class_names,
        position_resize=bundle.position_resize,
    )


def unbundled(path: pathlib.Path, best: bool, image_size: tuple[int, int] | None, fields: dict[str, object]) -> Weights:
    """Returns what `read` does, whatever documents of a bundle lie beside."""
    source = str(path)
    if path.is_dir() and (own.is_workdir(path) or own.is_step(path)):
        return own.read_weights(path, best, **fields)
    if best:
        raise UserError(f"{source} is no workdir, so it has no best checkpoint")
    if (path / NPZ).is_file() and not any(path.glob("*.safetensors")):
        path = path / NPZ
    if path.is_dir():
        return torch_weights(files.read_folder(path), path, source, image_size, fields)
    files.refuse_pickle(path)
    if path.suffix == ".npz" or files.begins(path, b"PK"):
        arrays = google.without_prefix(files.read_npz(path))
        for reader in (google, big_vision):
            if reader.recognises(arrays):
                return reader.read_weights(arrays, source, image_size, **fields)
        raise unknown(source, arrays)
    return torch_weights(files.read_safetensors(path), path.parent, source, image_size, fields)


def torch_weights(
    arrays: dict[str, np.ndarray],
    folder: pathlib.Path,
    source: str,
    image_size: tuple[int, int] | None,
    fields: dict[str, object],
) -> Weights:
    """Returns the weights of arrays in PyTorch's layout.

    Args:
      folder: where `config.json` and `preprocessor_config.json` lie, if they do.
    """
    config = files.read_json(folder / "config.json")
    preprocessor = files.read_json(folder / "preprocessor_config.json")
    # Before the Vision Transformers, of whose names a BEiT in timm's has most.
    if (layout := layout_of_arrays(arrays)) is not None:
        return read_layout(layout, arrays, config, preprocessor, source, image_size, **fields)
    if huggingface.recognises(arrays):
        return huggingface.read_weights(arrays, config, preprocessor, source, image_size, **fields)
    if timm.recognises(arrays):
        return timm.read_weights(arrays, config, source, image_size, **fields)
    raise unknown(source, arrays)


def unknown(source: str, arrays: dict[str, np.ndarray]) -> UserError:
    """Returns the error for a file whose names belong to no known format."""
    shown = ", ".join(list(arrays)[:3])
    return UserError(
        f"{source}: {len(arrays)} arrays ({shown}, …) that are named like no model of Google, big_vision, timm or "
        "Hugging Face that is known here; README.md lists the families"
    )
