"""The documents of an exported bundle: what lies beside the model file, and whether that file is whole."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable

from vit_jax.data.preprocessing import Preprocessing
from vit_jax.errors import UserError
from vit_jax.pretrained.files import read_json, write_text

PREPROCESSING, LABELS, VERIFICATION, README = "preprocessing.json", "labels.txt", "verification.json", "README.md"
VERSION = 1

MODEL_FILES = {
    "stablehlo": "model.stablehlo",
    "onnx": "model.onnx",
    "safetensors": "model.safetensors",
    "npz": "weights.npz",
    "vit_jax": "state",
}
"""What the model is called in a bundle of each format; the last is a folder of Orbax's."""

PROGRAMS = ("stablehlo", "onnx")
"""Formats that hold a compiled function, not a model's weights."""

OUTPUTS = ("logits", "probabilities", "embedding")
AGAIN = "export it again"


@dataclasses.dataclass(frozen=True)
class Bundle:
    """What `preprocessing.json` and `labels.txt` tell.

    Attributes:
      format: one of `MODEL_FILES`.
      preprocessing: from a picture to what the model takes.
      class_names: in the order of the outputs, or None where they are not known.
      outputs: how many numbers the model gives for an image: classes, or the width of the embedding.
      input: the type that the model takes: `float32`, normalised, or `uint8`, pixels as they are.
      output: what the model gives: `logits`, `probabilities`, or the `embedding` of a model without classes.
      loss: what makes probabilities of logits, as in training: `softmax` or `sigmoid`.
      position_resize: how the positions of weights are best resized to another grid, `linear` or `bicubic`.
      jax: the version that wrote it.
      files: SHA-256 of each file of the model, by its path in the bundle.
    """

    format: str
    preprocessing: Preprocessing
    class_names: list[str] | None
    outputs: int
    input: str
    output: str
    loss: str
    position_resize: str
    jax: str
    files: dict[str, str] = dataclasses.field(default_factory=dict)


def bundle_folder(path: pathlib.Path) -> pathlib.Path | None:
    """Returns the folder of the bundle that a path names, itself or by its model file; None where it is no bundle.

    Raises:
      UserError: it is what is left of one.
    """
    try:
        folder = path if path.is_dir() else path.parent
        if path != folder and path.name not in MODEL_FILES.values():
            return None
        if (folder / PREPROCESSING).is_file():
            return folder
    except (OSError, ValueError):  # no path at all, but an address or a name
        return None
    programs = [MODEL_FILES[kind] for kind in PROGRAMS if (folder / MODEL_FILES[kind]).is_file()]
    alone = bool(programs) and not any(folder.glob("*.safetensors"))
    if (folder / VERIFICATION).is_file() or path.name in programs or alone:
        raise UserError(f"{folder} is a bundle without its {PREPROCESSING}; {AGAIN}")
    return None


def read_bundle(folder: pathlib.Path) -> Bundle:
    """Returns what the documents of a bundle tell, once the model's files are known to be whole.

    Raises:
      UserError: a document is missing or damaged, or a file of the model is.
    """
    path = folder / PREPROCESSING
    stated = read_json(path)
    for key, (right, what) in STATED.items():
        if key not in stated or not right(stated[key]):
            found = f"is {stated[key]!r}, not" if key in stated else "is missing:"
            raise UserError(f"{path} is damaged: {key!r} {found} {what}; {AGAIN}")
    if unknown := sorted(stated.keys() - STATED.keys()):
        raise UserError(f"{path} is damaged: {unknown[0]!r} is unknown; {AGAIN}")
    seen = Preprocessing(
        size=tuple(stated["size"]),
        resize=stated["resize"],
        interpolation=stated["interpolation"],
        antialias=stated["antialias"],
        mean=tuple(map(float, stated["mean"])),
        std=tuple(map(float, stated["std"])),
    )
    try:
        seen.transform()
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}; {AGAIN}") from error
    names = _read_labels(folder / LABELS, stated["outputs"]) if stated["labels"] else None
    for name, digest in stated["files"].items():
        _require_whole(folder, name, digest)
    plain = ("format", "outputs", "input", "output", "loss", "position_resize", "jax", "files")
    return Bundle(preprocessing=seen, class_names=names, **{key: stated[key] for key in plain})


def write_documents(folder: pathlib.Path, bundle: Bundle) -> Bundle:
    """Writes `preprocessing.json` and `labels.txt` beside the model's files; returns the bundle with their digests.

    Raises:
      UserError: a class name holds a line break.
    """
    names = bundle.class_names
    if broken := [name for name in names or () if "\n" in name or "\r" in name]:
        raise UserError(f"the class name {broken[0]!r} holds a line break, which {LABELS} cannot hold; rename it")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    bundle = dataclasses.replace(bundle, files={path.relative_to(folder).as_posix(): digest(path) for path in files})
    stated = {"version": VERSION, **dataclasses.asdict(bundle), "labels": names is not None}
    stated |= stated.pop("preprocessing")
    del stated["class_names"]
    if names is not None:
        write_text(folder / LABELS, "".join(f"{name}\n" for name in names))
    write_text(folder / PREPROCESSING, json.dumps({key: stated[key] for key in STATED}, indent=2) + "\n")
    return bundle


def digest(path: pathlib.Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_labels(path: pathlib.Path, classes: int) -> list[str]:
    try:
        *names, rest = path.read_bytes().decode("utf-8").split("\n")
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; {AGAIN}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}; {AGAIN}") from error
    names = [name.removesuffix("\r") for name in (*names, *([rest] if rest else []))]
    if len(names) != classes:
        raise UserError(f"{path} has {len(names)} names for {classes} classes; {AGAIN}")
    return names


def _require_whole(folder: pathlib.Path, name: str, expected: str) -> None:
    if ".." in pathlib.PurePath(name).parts or pathlib.PurePath(name).is_absolute():
        raise UserError(f"{folder / PREPROCESSING} is damaged: it names {name!r}, outside of the bundle; {AGAIN}")
    path = folder / name
    try:
        found = digest(path)
    except (OSError, ValueError) as error:  # the latter of a null byte in the name
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}; {AGAIN}") from error
    if found != expected:
        raise UserError(f"{path} is damaged or was changed: it is not the file that {PREPROCESSING} names; {AGAIN}")


def _one_of(*values: object) -> tuple[Callable[[object], bool], str]:
    return (lambda value: any(value is one or (value == one and type(value) is type(one)) for one in values)), (
        " or ".join(json.dumps(value) for value in values)
    )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31


def _is_colour(value: object, above: float) -> bool:
    numbers = isinstance(value, list) and all(type(number) in (int, float) for number in value)
    return numbers and len(value) == 3 and all(above < number < 1e6 for number in value)


def _is_digests(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(one, str) for one in value.values())


STATED = {
    "version": _one_of(VERSION),
    "format": _one_of(*MODEL_FILES),
    "jax": (lambda value: isinstance(value, str), "a version"),
    "input": _one_of("float32", "uint8"),
    "output": _one_of(*OUTPUTS),
    "outputs": (_is_whole, "a whole number from 1 up"),
    "labels": _one_of(True, False),
    "loss": _one_of("softmax", "sigmoid"),
    "position_resize": _one_of("linear", "bicubic"),
    "size": (
        lambda value: isinstance(value, list) and len(value) == 2 and all(map(_is_whole, value)),
        "[height, width] in pixels",
    ),
    "resize": (lambda value: value is None or _is_whole(value), "a whole number from 1 up, or null"),
    "interpolation": _one_of("nearest", "bilinear", "bicubic", "lanczos"),
    "antialias": _one_of(True, False),
    "mean": (lambda value: _is_colour(value, -1e6), "three numbers"),
    "std": (lambda value: _is_colour(value, 0), "three numbers above 0"),
    "files": (_is_digests, "a digest for each file"),
}
"""What `preprocessing.json` states: for each key a test, and in words what must stand there."""
