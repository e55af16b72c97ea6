"""A checkpoint as a self-contained bundle: python -m vit_jax.export CHECKPOINT --format=FORMAT --out=DIR."""

import argparse
import pathlib
import sys

from vit_jax.command import Parser, exit_status, model_fields, size_of, split_overrides
from vit_jax.errors import UserError
from vit_jax.process import use_huge_pages

FORMATS = ("stablehlo", "onnx", "safetensors", "npz", "vit_jax")


def parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, object]]:
    """Returns the flags and the model's fields of a command line.

    Raises:
      UserError: a flag is unknown, lacks its value or has a wrong one.
    """
    parser = Parser(prog="python -m vit_jax.export", description=__doc__, allow_abbrev=False)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a workdir, a file, an address, a short name")
    parser.add_argument("--format", required=True, choices=FORMATS, help="of the model file")
    parser.add_argument("--out", required=True, type=pathlib.Path, metavar="DIR", help="a new folder")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default: float32")
    parser.add_argument("--names", choices=("timm", "huggingface"), help="of a safetensors file (default: timm)")
    parser.add_argument(
        "--with-preprocessing", action="store_true", help="stablehlo, onnx: uint8 pixels in, probabilities out"
    )
    parser.add_argument("--image-size", type=size_of, metavar="N|HxW", help="that the model shall see")
    parser.add_argument("--merge-tokens", type=int, metavar="R", help="merge R tokens in every block: faster")
    parser.add_argument(
        "--images", nargs="+", metavar="IMAGE|FOLDER", help="to verify the file on (default: parts of two photographs)"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--model.FIELD", dest="_", metavar="VALUE", help="what the file does not tell: --model.heads=3")
    rest, overrides = split_overrides(arguments, "--model.")
    flags = parser.parse_args(rest)
    fields = model_fields(overrides)
    if "dtype" in fields:
        raise UserError("the type of a bundle is given by --dtype, not by --model.dtype")
    merge = flags.merge_tokens
    if merge is not None and (given := fields.setdefault("merge_tokens", merge)) != merge:
        raise UserError(f"--merge-tokens={merge} and --model.merge_tokens={given} contradict each other")
    if "://" in str(flags.out) or str(flags.out).startswith("gs:/"):
        raise UserError("--out must be a folder on this computer; copy it from there")
    return flags, fields


def run(arguments: list[str]) -> None:
    """Runs the command line.

    Raises:
      UserError: the checkpoint cannot be read, the format cannot express it, or the written file is wrong.
    """
    flags, fields = parse(arguments)
    from vit_jax.inference.bundle_writer import Options, export_bundle
    from vit_jax.inference.model import load_with_weights
    from vit_jax.inference.pictures import image_files

    options = Options(flags.format, flags.dtype, flags.with_preprocessing, flags.names)
    pictures = image_files(flags.images) if flags.images else None
    live = load_with_weights(flags.checkpoint, flags.image_size, dtype="float32", **fields)
    shown, notes = export_bundle(live, flags.out, options, pictures)
    size = sum(path.stat().st_size for path in flags.out.rglob("*") if path.is_file())
    height, width = live.preprocessing.size
    print(f"{live.source}: {live.weights.name}, {height}x{width} pixels, {live.num_classes} classes")
    for line in live.weights.unused:
        print(f"  not used: {line}")
    for line in (*live.notes, *notes):
        print(f"  note: {line}")
    same = "" if shown.top1_agreement is None else f", the same class for {shown.top1_agreement:.1%}"
    print(
        f"run on {shown.images} images: differs by at most {shown.max_abs_difference:.2g} "
        f"({shown.tolerance:.2g} is tolerated){same}"
    )
    print(f"written: {flags.out} ({flags.format}, {size / 1e6:.1f} MB)")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return exit_status(run, arguments, "interrupted; nothing was written")


if __name__ == "__main__":
    use_huge_pages()
    sys.exit(main())
