"""Checkpoints and bundles as those who serve them run them: images go in and answers come out as NumPy arrays."""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Num

from vit_jax.data.loading import processors
from vit_jax.inference import onnx, stablehlo
from vit_jax.inference.exported import ExportedModel
from vit_jax.inference.model import LoadedModel, load_model, load_with_weights
from vit_jax.measurement.exported_flops import onnx_products, stablehlo_products
from vit_jax.measurement.flops import Products, products_of
from vit_jax.measurement.memory import program_memory
from vit_jax.measurement.programs import Facts, forward_work
from vit_jax.pretrained.bundle import MODEL_FILES, bundle_folder, read_bundle

Images = Num[np.ndarray, "batch height width 3"]
Answer = Callable[[Images], Float[np.ndarray, "batch outputs"]]

ONNX_DEVICES = {"cpu": "CPUExecutionProvider", "gpu": "CUDAExecutionProvider"}
"""What runs an ONNX program where JAX does, by JAX's name of the platform."""

COUNTED_BY_FILE = "the memory of a StableHLO program is XLA's account of it and its file, whose weights are constants"


@dataclasses.dataclass(frozen=True)
class Served:
    """A checkpoint or a bundle, read and ready to be given images.

    Attributes:
      by: what runs it: `vit_jax`, `stablehlo` (jax.export) or `onnx` (onnxruntime).
      size: height and width of the images it takes.
      input: their type.
      dtype: the type it computes in.
      tokens: of an image inside the model, None where the file does not tell.
      products: of one image, None where they are not known.
      load_seconds: from the file to here; the file had been read before, so that no disk is waited for.
      file_bytes: of the model's files, None of a run or a folder that holds more than one model.
      ready: compiles for images of a shape, and returns what answers them.
      notes: what its figures do not tell by themselves.
    """

    by: str
    size: tuple[int, int]
    input: str
    dtype: str
    tokens: int | None
    products: Products | None
    load_seconds: float
    file_bytes: int | None
    ready: Callable[[Images], tuple[Answer, Facts]]
    notes: tuple[str, ...] = ()

    def images(self, batch: int) -> Images:
        """Returns noise of the type that the model takes."""
        generator, shape = np.random.default_rng(0), (batch, *self.size, 3)
        if self.input == "uint8":
            return generator.integers(0, 256, shape, np.uint8)
        return generator.standard_normal(shape, np.float32)


def serve(checkpoint: str, image_size: tuple[int, int] | None, fields: Mapping[str, object]) -> Served:
    """Returns a CHECKPOINT (see `vit_jax.load_model`) ready to be measured.

    It is loaded twice: once by the door that everyone takes, which says what is wrong with it, then timed.

    Args:
      image_size: height and width, None as the checkpoint has it.
      fields: of the model, such as `dtype`; an exported program takes none.

    Raises:
      UserError: the checkpoint cannot be read, does not fit the size or the fields, or needs what is not installed.
    """
    loaded = load_model(checkpoint, image_size, **fields)
    if isinstance(loaded, ExportedModel):
        folder = bundle_folder(pathlib.Path(checkpoint).expanduser())
        return (serve_onnx if loaded.bundle.format == "onnx" else serve_stablehlo)(loaded, folder)
    return serve_live(checkpoint, image_size, fields)


def serve_live(checkpoint: str, image_size: tuple[int, int] | None, fields: Mapping[str, object]) -> Served:
    """Returns a model with its weights on the device, whose jitted function is measured."""
    begun = time.perf_counter()
    live = load_with_weights(checkpoint, image_size, **fields)
    weights = live.weights_in_use()
    variables = jax.block_until_ready(jax.device_put(weights.variables))
    seconds = time.perf_counter() - begun
    size = tuple(live.preprocessing.size)
    work = forward_work(live.module, weights.variables, size, 1)
    return Served(
        by="vit_jax",
        size=size,
        input="float32",
        dtype=jnp.dtype(live.module.dtype or jnp.float32).name,
        tokens=work.tokens,
        products=work.products,
        load_seconds=seconds,
        file_bytes=_bytes_of_live(checkpoint, live),
        ready=lambda images: _compiled(jax.jit(live.module.apply), (variables,), images),
    )


def _bytes_of_live(checkpoint: str, live: LoadedModel) -> int | None:
    path = pathlib.Path(checkpoint).expanduser()
    folder = bundle_folder(path)
    if folder is not None:
        return bytes_of_files(folder, read_bundle(folder).files)
    return path.stat().st_size if path.is_file() else None


def bytes_of_files(folder: pathlib.Path, names: Mapping[str, str]) -> int:
    """Returns the size of a bundle's model: of the files that its documents name."""
    return sum((folder / name).stat().st_size for name in names)


def serve_stablehlo(loaded: ExportedModel, folder: pathlib.Path) -> Served:
    """Returns the program of a StableHLO bundle, called as its README.md does."""
    file = folder / MODEL_FILES["stablehlo"]
    begun = time.perf_counter()
    exported = jax.export.deserialize(bytearray(file.read_bytes()))
    given = (jax.device_put(dict(np.load(folder / stablehlo.BESIDE))),) if len(exported.in_avals) > 1 else ()
    jax.block_until_ready(given)
    seconds = time.perf_counter() - begun
    call, size = jax.jit(exported.call), tuple(loaded.preprocessing.size)
    one = jax.ShapeDtypeStruct((1, *size, 3), loaded.bundle.input)
    products, dtype = stablehlo_products(call.lower(*given, one))
    constants = 0 if given else file.stat().st_size
    return Served(
        by="stablehlo",
        size=size,
        input=loaded.bundle.input,
        dtype=dtype,
        tokens=None,
        products=products,
        load_seconds=seconds,
        file_bytes=bytes_of_files(folder, loaded.bundle.files),
        ready=lambda images: _compiled(call, given, images, products, constants),
        notes=(COUNTED_BY_FILE,) if constants else (),
    )


def _compiled(
    function: jax.stages.Wrapped, given: tuple, images: Images, products: Products | None = None, constants: int = 0
) -> tuple[Answer, Facts]:
    """Compiles a jitted function for images of a shape.

    Args:
      given: what it takes before the images.
      products: of one image, where tracing does not show them.
      constants: bytes inside the program that XLA's account of its memory leaves out.
    """
    begun = time.perf_counter()
    traced = function.trace(*given, images)
    compiled = traced.lower().compile()
    seconds = time.perf_counter() - begun
    memory = program_memory(compiled)
    hardware = products_of(traced.jaxpr) if products is None else products * len(images)
    facts = Facts(seconds, None if memory is None else memory.peak + constants, hardware)
    return lambda x: np.asarray(compiled(*given, x)), facts


def serve_onnx(loaded: ExportedModel, folder: pathlib.Path) -> Served:
    """Returns an ONNX bundle in a session of onnxruntime: its default options, and a thread for each core."""
    import onnxruntime

    options, cores = onnxruntime.SessionOptions(), processors()
    options.intra_op_num_threads = cores
    available = onnxruntime.get_available_providers()
    providers = [name for name in onnx.PROVIDERS if name in available]
    file = folder / MODEL_FILES["onnx"]
    begun = time.perf_counter()
    session = onnxruntime.InferenceSession(file, options, providers=providers)
    seconds = time.perf_counter() - begun
    products, runs_on = onnx_products(file), session.get_providers()[0]
    here = runs_on == ONNX_DEVICES.get(jax.devices()[0].platform)
    notes = (f"onnxruntime {onnxruntime.__version__} runs on {runs_on} with {cores} intra-op threads",)
    if products is None:
        notes += ("operations of an ONNX program are counted with the package onnx; pip install onnx",)
    return Served(
        by="onnx",
        size=tuple(loaded.preprocessing.size),
        input=loaded.bundle.input,
        dtype="float32",
        tokens=None,
        products=products,
        load_seconds=seconds,
        file_bytes=bytes_of_files(folder, loaded.bundle.files),
        ready=lambda images: (
            lambda x: session.run(None, {onnx.IMAGES: x})[0],
            Facts(None, None, None if products is None else products * len(images), on_device=here),
        ),
        notes=notes,
    )
