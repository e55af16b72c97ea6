"""A checkpoint as a self-contained bundle for inference: the model file, its documents, and the proof that it works."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence

import jax

from vit_jax.errors import UserError, explained_writes
from vit_jax.inference import onnx, stablehlo
from vit_jax.inference.bundle_readme import readme
from vit_jax.inference.exported import load_exported
from vit_jax.inference.model import LoadedModel, load_model
from vit_jax.inference.picture_model import Picture
from vit_jax.inference.program import Program, narrowed
from vit_jax.inference.verification import Verification, photographs, verify
from vit_jax.pretrained.bundle import MODEL_FILES, PROGRAMS, README, VERIFICATION, Bundle, read_bundle, write_documents
from vit_jax.pretrained.files import read_json, write_text
from vit_jax.pretrained.save import save_weights

NAMES = ("timm", "huggingface")
DTYPES = ("float32", "bfloat16")

PORTABLE = {"remat": "none", "scan_layers": False, "attention_kernel": "plain", "fused_qkv": False}
"""Fields that change no result, as every platform and format can express the model."""

WEIGHTS_ONLY = ("safetensors", "npz")
"""Formats that know no more of a model than its architecture."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What is written.

    Attributes:
      format: one of `vit_jax.pretrained.bundle.MODEL_FILES`.
      dtype: `float32` or `bfloat16`: in which a program computes, and in which kernels are stored.
      with_preprocessing: a program that takes pixels and gives probabilities (without classes, the embedding).
      names: whose names the arrays of a safetensors bundle bear: `timm` (also None) or `huggingface`.

    Raises:
      UserError: the options do not go together.
    """

    format: str
    dtype: str = "float32"
    with_preprocessing: bool = False
    names: str | None = None

    def __post_init__(self):
        for value, known in ((self.format, MODEL_FILES), (self.dtype, DTYPES), (self.names or "timm", NAMES)):
            if value not in known:
                raise UserError(f"{value!r} is not one of {', '.join(known)}")
        if self.with_preprocessing and self.format not in PROGRAMS:
            raise UserError(f"only {' and '.join(PROGRAMS)} can hold the preprocessing, not {self.format}")
        if self.format == "onnx" and self.dtype != "float32":
            raise UserError(f"onnxruntime on a CPU takes no {self.dtype}; export onnx with --dtype=float32")
        if self.format == "npz" and self.dtype != "float32":
            raise UserError(f"an .npz knows no {self.dtype}; export it with --format=safetensors")
        if self.format != "safetensors" and self.names is not None:
            raise UserError(f"--names={self.names} is for --format=safetensors, not {self.format}")


def export_bundle(
    live: LoadedModel, out: pathlib.Path, options: Options, pictures: Sequence[Picture] | None = None
) -> tuple[Verification, list[str]]:
    """Writes a bundle, whole or not at all, and runs it; returns what that has shown and what a person should know.

    Args:
      live: the model, computing in float32.
      pictures: that the bundle is verified on; None is parts of two photographs.

    Raises:
      UserError: the folder holds something already or cannot be written, the format cannot express the model, or the
        written file gives other answers than the live model.
    """
    if live.merge_tokens and options.format in WEIGHTS_ONLY:
        raise UserError(
            f"--format={options.format} holds weights only, not merge_tokens={live.merge_tokens}; take stablehlo, onnx "
            "or vit_jax, or export with --merge-tokens=0"
        )
    with _whole_folder(out) as folder:
        notes, bundle = _write_model(live, folder, options)
        architecture, beside = _architecture(folder, options), (folder / stablehlo.BESIDE).is_file()
        bundle = write_documents(folder, bundle)
        bundled = load_exported(folder, read_bundle(folder)) if options.format in PROGRAMS else load_model(folder)
        shown = verify(live, bundled, options.dtype, photographs() if pictures is None else pictures)
        _require_passed(shown, options)
        if shown.strays:
            notes = [*notes, _strayed(shown)]
        if not shown.output_range:
            notes = [*notes, "all outputs of the model are equal, so that comparing them shows nothing"]
        document = {**dataclasses.asdict(shown), "dtype": options.dtype, "compared_with": "the checkpoint in float32"}
        document["merge_tokens"] = live.merge_tokens
        document["pictures"] = "given" if pictures is not None else "parts of two photographs of scikit-learn"
        write_text(folder / VERIFICATION, json.dumps(document, indent=2) + "\n")
        title = f"{live.weights.name}, {live.weights.parameter_count:,} parameters"
        facts = _facts(live, options, bundle, shown)
        pooler = "pre_logits/kernel" in live.weights.params
        write_text(folder / README, readme(bundle, title, architecture, facts, beside, pooler))
    return shown, notes


def program_of(live: LoadedModel, options: Options) -> Program:
    """Returns the model at the image size of its preprocessing, as one function."""
    weights, seen = live.weights_in_use(), live.preprocessing
    portable = {key: value for key, value in PORTABLE.items() if key in live.module.__dataclass_fields__}
    probabilities = "probabilities" if options.with_preprocessing else "logits"
    return Program(
        module=live.module.clone(dtype=options.dtype, **portable),
        params=narrowed(weights.params) if options.dtype == "bfloat16" else weights.params,
        size=tuple(seen.size),
        input="uint8" if options.with_preprocessing else "float32",
        output=probabilities if live.num_classes else "embedding",
        dtype=options.dtype,
        mean=seen.mean,
        std=seen.std,
        loss=live.loss,
    )


def _write_model(live: LoadedModel, folder: pathlib.Path, options: Options) -> tuple[list[str], Bundle]:
    program = program_of(live, options)
    notes = []
    if options.format in PROGRAMS:
        (onnx if options.format == "onnx" else stablehlo).write(program, folder)
    else:
        weights = dataclasses.replace(live.weights_in_use(), params=program.params)
        if options.format == "vit_jax":
            weights = dataclasses.replace(weights, fields={**weights.fields, "dtype": options.dtype})
        kind = {"safetensors": options.names or "timm", "npz": "google"}.get(options.format, options.format)
        place = folder / MODEL_FILES["npz"] if options.format == "npz" else folder
        notes += save_weights(weights, place, kind, described=True)
    if live.weights.image_size not in (None, program.size):
        (height, width), size = live.weights.image_size, "x".join(map(str, program.size))
        notes.append(f"positions are resized from {height}x{width} to {size} pixels, which the preprocessing makes")
    bundle = Bundle(
        format=options.format,
        preprocessing=live.preprocessing,
        class_names=live.class_names,
        outputs=jax.eval_shape(program, program.params, program.images(1)).shape[-1],
        input=program.input,
        output=program.output,
        loss=live.loss,
        position_resize=live.weights.position_resize,
        jax=jax.__version__,
    )
    return notes, bundle


def _architecture(folder: pathlib.Path, options: Options) -> str:
    if options.names != "huggingface":
        return "timm"
    return read_json(folder / "config.json")["architectures"][0]


def _require_passed(shown: Verification, options: Options) -> None:
    if not shown.passed:
        raise UserError(
            f"the {options.format} file was written and run, but differs from the model by "
            f"{shown.max_abs_difference:.3g}, where {shown.tolerance:.3g} is tolerated "
            f"({options.dtype}, outputs in a range of {shown.output_range:.3g}); nothing was kept"
        )


def _strayed(shown: Verification) -> str:
    return (
        f"{shown.strays} of {shown.images} images differ by more than {shown.tolerance:.2g}: of tokens that are "
        "equally alike, rounding chose others to merge"
    )


def _facts(live: LoadedModel, options: Options, bundle: Bundle, shown: Verification) -> list[str]:
    facts = []
    if live.merge_tokens:
        facts.append(
            f"Each block merges up to {live.merge_tokens} tokens into others that are like them (token merging, Bolya "
            "et al. 2023): faster than the model without, with slightly other answers."
        )
    if options.format == "stablehlo":
        facts.append(
            f"Written by jax {bundle.jax} for cpu, cuda and tpu. jax promises that versions from three weeks older to "
            "six months newer run it; for others export it again."
        )
    if options.format == "onnx":
        facts.append(f"ONNX opset {onnx.OPSET}; onnxruntime reads it from version 1.18 on.")
    if options.dtype != "float32":
        computes = "Computes" if options.format in PROGRAMS else "Its kernels are stored"
        facts.append(f"{computes} in {options.dtype}.")
    same = "" if shown.top1_agreement is None else f", the same class for {shown.top1_agreement:.1%}"
    facts.append(
        f"Run on {shown.images} images, its outputs differed from the model's by at most "
        f"{shown.max_abs_difference:.2g} in a range of {shown.output_range:.3g}{same}."
        + (f" {_strayed(shown)[0].upper()}{_strayed(shown)[1:]}." if shown.strays else "")
    )
    return facts


@contextlib.contextmanager
def _whole_folder(out: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a hidden folder beside `out`, which takes its name at the end; after an error nothing is left of it."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} holds something already; name another folder with --out")
    with explained_writes(str(out)):
        out.parent.mkdir(parents=True, exist_ok=True)
        part = pathlib.Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        (part / "bundle").mkdir()  # with the usual permissions, unlike `part`
    try:
        yield part / "bundle"
        with explained_writes(str(out)):
            if out.exists():
                out.rmdir()
            os.rename(part / "bundle", out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
