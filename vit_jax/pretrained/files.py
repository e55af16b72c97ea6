"""Arrays out of `.npz` and `.safetensors` files, and the JSON that lies beside them. Nothing is ever unpickled."""

import contextlib
import json
import pathlib
from collections.abc import Iterator, Mapping

import ml_dtypes
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from vit_jax.errors import UserError, explained_writes

PICKLED = b"\x80"
"""What a pickle begins with."""
PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".tar")
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns all arrays of an `.npz`; bfloat16, which NumPy saves as two bytes of no type, is recognised.

    Raises:
      UserError: the file is damaged, or holds pickled objects.
    """
    try:
        stored = np.load(path, allow_pickle=False)
        if isinstance(stored, np.ndarray):
            raise UserError(f"{path} holds a single array, not weights by name")
        with stored:
            return {name: _typed(stored[name], name, path) for name in stored.files}
    except UserError:
        raise
    except Exception as error:  # of damaged files zipfile, its decompressors and NumPy raise what they like
        if "Object arrays" in str(error) or begins(path, PICKLED):  # NumPy calls pickled whatever it does not know
            raise UserError(f"{path} holds pickled objects, which could run any code; it is not read") from error
        raise UserError(f"{path} is damaged or no .npz file ({_first_line(error)}); fetch it again") from error


def read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns all arrays of a `.safetensors` file.

    Raises:
      UserError: the file is damaged.
    """
    try:
        with safe_open(path, framework="numpy") as stored:
            return {name: _typed(stored.get_tensor(name), name, path) for name in stored.keys()}  # noqa: SIM118
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} is damaged or no safetensors file ({_first_line(error)}); fetch it again") from error


def _typed(array: np.ndarray, name: str, path: pathlib.Path) -> np.ndarray:
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path} is a zip file of other things than arrays, such as PyTorch's pickles; {CONVERT}")
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:
        array = array.view(ml_dtypes.bfloat16)
    if array.dtype.kind not in "fiub" and array.dtype != ml_dtypes.bfloat16:
        raise UserError(f"{path}: {name} is of type {array.dtype}, not of numbers")
    return array


def begins(path: pathlib.Path, start: bytes) -> bool:
    """Returns whether a file begins with some bytes.

    Raises:
      UserError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read(len(start)) == start
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:150] if str(error) else type(error).__name__


def read_folder(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns all arrays of a folder as Hugging Face lays it out: one `.safetensors` file, or parts with an index.

    Raises:
      UserError: there is none, or a part is missing.
    """
    if (folder / INDEX).is_file():
        places = _required(read_json(folder / INDEX), "weight_map", folder / INDEX).values()
        arrays = {}
        for part in sorted({str(place) for place in places}):
            if pathlib.Path(part).name != part or not (folder / part).is_file():
                raise UserError(f"{folder / INDEX} names {part!r}, which is not in the folder")
            arrays |= read_safetensors(folder / part)
        return arrays
    files = sorted(folder.glob("*.safetensors"))
    if len(files) > 1:
        files = [file for file in files if file.name == WEIGHTS] or files
    if len(files) == 1:
        return read_safetensors(files[0])
    if files:
        raise UserError(f"{folder} holds {len(files)} .safetensors files; name one of them, such as {files[0].name}")
    if pickles := [file.name for file in folder.iterdir() if file.suffix in PICKLES]:
        raise UserError(f"{folder} holds weights only as {pickles[0]}, a pickle, which could run any code; {CONVERT}")
    raise UserError(f"{folder} holds no checkpoint: no .safetensors file, no steps of a training run")


CONVERT = "save it as .safetensors where it was made (safetensors.torch.save_file)"


def refuse_pickle(path: pathlib.Path) -> None:
    """Raises a `UserError` for a file of PyTorch or Python that could run code when it is read."""
    if path.suffix in PICKLES:
        raise UserError(f"{path} is a pickle, which could run any code; {CONVERT}")


def read_json(path: pathlib.Path) -> dict[str, object]:
    """Returns the object of a JSON file, or an empty one where there is no such file.

    Raises:
      UserError: the file is damaged or holds no object.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError, MemoryError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object")
    return value


@contextlib.contextmanager
def understood(document: str) -> Iterator[None]:
    """Says in one line that a JSON document is not as it should be, where its values are of other types.

    Raises:
      UserError: reading the document raised what values of a wrong type raise.
    """
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        raise UserError(f"{document} is not as it should be ({type(error).__name__}: {_first_line(error)})") from error


def _required(value: Mapping[str, object], key: str, path: pathlib.Path) -> object:
    if not isinstance(value.get(key), dict):
        raise UserError(f"{path} has no {key!r}")
    return value[key]


def write_npz(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an `.npz`, whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    with explained_writes(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            np.savez(file, **arrays)
        part.replace(path)


def write_folder(
    folder: pathlib.Path, arrays: Mapping[str, np.ndarray], documents: Mapping[str, Mapping[str, object]]
) -> None:
    """Writes `model.safetensors` and JSON documents, by their names, to a folder."""
    with explained_writes(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / ".model.safetensors.part"
        part.touch()
        mode = part.stat().st_mode
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, part, {"format": "pt"})
        part.chmod(mode)  # safetensors writes for the owner's eyes only
        part.replace(folder / WEIGHTS)
        for name, document in documents.items():
            write_text(folder / name, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file, in UTF-8 and with the same line ends on every system."""
    with explained_writes(str(path)):
        path.write_text(text, encoding="utf-8", newline="\n")
