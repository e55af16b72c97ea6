"""Programs as ONNX, written by jax2onnx and run by onnxruntime."""

import contextlib
import logging
import pathlib
from collections.abc import Iterator

from vit_jax.errors import UserError, explained_writes
from vit_jax.inference.program import Loaded, Program
from vit_jax.layers.platform import portable
from vit_jax.pretrained.bundle import MODEL_FILES

OPSET = 20
"""The first with GELU as an operator; onnxruntime reads it from version 1.18 on."""
WEIGHTS_BESIDE = 2**31 - 2**26
"""Bytes of weights from which on they lie beside the graph: a protocol buffer holds less than 2 GiB."""
BESIDE = "model.onnx.data"
IMAGES = "images"
TYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}
PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
INSTALL = "pip install 'vit_jax[onnx]'"


def write(program: Program, folder: pathlib.Path) -> None:
    """Writes `model.onnx`, and `model.onnx.data` where the weights are too large to be inside.

    Raises:
      UserError: there is no room, jax2onnx is not installed, or it cannot express the model.
    """
    if program.dtype != "float32":
        raise UserError(f"onnxruntime on a CPU takes no {program.dtype}; export onnx with --dtype=float32")
    with _quiet():
        try:
            import onnx
            from jax2onnx import to_onnx
        except ImportError as error:
            raise UserError(f"ONNX needs jax2onnx ({error}); {INSTALL}") from error
        try:
            with portable():
                model = to_onnx(
                    lambda images: program(program.params, images),
                    [program.images("batch")],
                    model_name=type(program.module).__name__,
                    opset=OPSET,
                    input_names=[IMAGES],
                    output_names=[program.output],
                )
        except Exception as error:  # whatever a converter meets that it does not know
            reason = str(error).splitlines()[0][:150] if str(error) else type(error).__name__
            name = type(program.module).__name__
            raise UserError(f"jax2onnx cannot express this {name}: {reason}; --format=stablehlo can") from error
    path = folder / MODEL_FILES["onnx"]
    beside = {"save_as_external_data": True, "location": BESIDE} if program.bytes >= WEIGHTS_BESIDE else {}
    with explained_writes(str(path)):
        onnx.save_model(model, path, **beside)


def load(folder: pathlib.Path) -> Loaded:
    """Returns the program that a bundle holds.

    Raises:
      UserError: onnxruntime is not installed, or cannot read it.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"an ONNX bundle needs onnxruntime ({error}); {INSTALL}") from error
    available = onnxruntime.get_available_providers()
    path = folder / MODEL_FILES["onnx"]
    try:
        session = onnxruntime.InferenceSession(path, providers=[name for name in PROVIDERS if name in available])
        (images,), (outputs,) = session.get_inputs(), session.get_outputs()
    except Exception as error:  # of classes that onnxruntime makes without a common one
        reason = str(error).splitlines()[0][:150] if str(error) else type(error).__name__
        raise UserError(f"onnxruntime {onnxruntime.__version__} cannot read {path}: {reason}") from error
    return Loaded(
        lambda x: session.run(None, {images.name: x})[0], TYPES[images.type], tuple(images.shape[1:]), outputs.shape[1]
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the warnings of jax2onnx about its plugins for other libraries, and about shapes on the way."""
    loggers = [logging.getLogger(name) for name in ("jax2onnx", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
