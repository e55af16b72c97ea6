"""Weights into any of the formats: one door to all writers."""

import pathlib

from vit_jax.data.preprocessing import Preprocessing
from vit_jax.errors import UserError
from vit_jax.pretrained import files, google, huggingface, own, timm
from vit_jax.pretrained.layout import write_layout
from vit_jax.pretrained.layouts import layout_of_model
from vit_jax.pretrained.weights import Weights

KINDS = ("google", "timm", "huggingface", "vit_jax")


def save_weights(weights: Weights, out: pathlib.Path, kind: str, described: bool = False) -> list[str]:
    """Writes weights in a format, to an `.npz` file for `google`, else to a folder; returns what a person should know.

    Folders hold `model.safetensors` and `config.json`, of `huggingface` also `preprocessor_config.json`; those of
    `vit_jax` are step folders as training writes them, without optimizer state.

    Args:
      described: preprocessing and class names will lie beside the file, so that it need not hold them.

    Raises:
      UserError: the format cannot express the model, or the file cannot be written.
    """
    try:
        return _save(weights, out, kind, described)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from error


def _save(weights: Weights, out: pathlib.Path, kind: str, described: bool) -> list[str]:
    if kind == "google":
        if out.suffix != ".npz":
            raise UserError(f"the google format is one file: name it {out}.npz, or choose another format with --to")
        if out.is_dir():
            raise UserError(f"{out} is a folder; the google format is one file")
        arrays, notes = google.write_weights(weights)
        files.write_npz(out, arrays)
        usual = weights.preprocessing == Preprocessing(weights.preprocessing.size, antialias=False)
        if not described and (not usual or weights.class_names):
            notes = [*notes, "an .npz does not hold preprocessing and class names; readers assume Google's"]
        return notes
    if out.suffix in (".npz", ".safetensors") or out.is_file():
        raise UserError(f"the {kind} format is a folder, not a file such as {out}")
    if kind == "vit_jax":
        own.write_weights(weights, out)
        return []
    layout = layout_of_model(weights.module, {"timm": timm.KIND, "huggingface": huggingface.KIND}.get(kind, kind))
    if layout is not None:
        arrays, documents, notes = write_layout(layout, weights)
    elif kind == "timm":
        arrays, config, notes = timm.write_weights(weights)
        documents = {"config.json": config}
    elif kind == "huggingface":
        arrays, config, preprocessor, notes = huggingface.write_weights(weights)
        documents = {"config.json": config, "preprocessor_config.json": preprocessor}
    else:
        raise UserError(f"no format {kind!r}, only {', '.join(KINDS)}")
    others = {path.name for path in out.iterdir()} - {files.WEIGHTS, *documents} if out.is_dir() else ()
    if others:
        raise UserError(f"{out} holds other things already, such as {min(others)}; name another folder")
    files.write_folder(out, arrays, documents)
    if not weights.preprocessing.antialias:
        notes = [*notes, "images will be resized with antialiasing there, unlike here"]
    return notes
