"""Programs as `jax.export` serialises them: StableHLO for cpu, cuda and tpu, for any batch size."""

import functools
import pathlib

import jax
import jax.export
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from vit_jax.errors import UserError, explained_writes
from vit_jax.inference.program import Loaded, Program
from vit_jax.pretrained.bundle import MODEL_FILES
from vit_jax.pretrained.files import read_npz, write_npz

PLATFORMS = ("cpu", "cuda", "tpu")
WEIGHTS_BESIDE = 2**31 - 2**26
"""Bytes of weights from which on they lie beside the program: a FlatBuffer holds less than 2 GiB."""
BESIDE = "weights.npz"
NEEDS = "StableHLO needs flatbuffers; pip install flatbuffers"


def write(program: Program, folder: pathlib.Path) -> None:
    """Writes `model.stablehlo`, and `weights.npz` where the weights are too large to be inside.

    In float32 the products are exact on every platform: accelerators would else round their operands.

    Raises:
      UserError: there is no room, or flatbuffers is not installed.
    """
    beside = program.bytes >= WEIGHTS_BESIDE

    def outputs(stored, images):
        return program({name: _loaded(program.params[name], array) for name, array in stored.items()}, images)

    images = program.images("batch")
    exported_for = (_stored(program.params), images) if beside else (images,)
    function = outputs if beside else (lambda images: program(program.params, images))
    precision = "highest" if program.dtype == "float32" else "default"
    with jax.default_matmul_precision(precision):
        exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(*exported_for)
    try:
        serialised = exported.serialize()
    except ImportError as error:
        raise UserError(NEEDS) from error
    path = folder / MODEL_FILES["stablehlo"]
    with explained_writes(str(path)):
        path.write_bytes(serialised)
    if beside:
        write_npz(folder / BESIDE, _stored(program.params))


def load(folder: pathlib.Path, written_by: str) -> Loaded:
    """Returns the program that a bundle holds.

    Args:
      written_by: the version of jax that wrote it, for the message.

    Raises:
      UserError: this version of jax cannot read it.
    """
    path = folder / MODEL_FILES["stablehlo"]
    try:
        exported = jax.export.deserialize(bytearray(path.read_bytes()))
    except ImportError as error:
        raise UserError(NEEDS) from error
    except Exception as error:  # flatbuffers and MLIR raise what they like
        reason = str(error).splitlines()[0][:150] if str(error) else type(error).__name__
        raise UserError(
            f"jax {jax.__version__} cannot read {path}, which jax {written_by} wrote: {reason}; export it again"
        ) from error
    call, images, outputs = jax.jit(exported.call), exported.in_avals[-1], exported.out_avals[0]
    if len(exported.in_avals) > 1:
        call = functools.partial(call, jax.device_put(read_npz(folder / BESIDE)))
    return Loaded(lambda x: np.asarray(call(x)), images.dtype.name, images.shape[1:], outputs.shape[1])


def _stored(params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns arrays as an `.npz` can hold them: bfloat16, which NumPy does not know, by its bits."""
    return {name: a.view(np.uint16) if a.dtype == ml_dtypes.bfloat16 else a for name, a in params.items()}


def _loaded(original: np.ndarray, stored: jax.Array) -> jax.Array:
    bits = original.dtype == ml_dtypes.bfloat16
    return jax.lax.bitcast_convert_type(stored, jnp.bfloat16) if bits else stored
