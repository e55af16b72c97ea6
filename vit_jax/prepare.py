"""Prepares a TFDS data set in array_record form, once: python -m vit_jax.prepare DATASET [--data_dir=DIR]."""

import argparse
import sys

from vit_jax.errors import UserError


def prepare(name: str, data_dir: str | None, manual_dir: str | None) -> None:
    """Downloads (or reads from `manual_dir`) and writes a data set where `data.dir` will look for it.

    Raises:
      UserError: there is no such set, its builder needs TensorFlow and there is none, or its source cannot be reached.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except tfds.core.registered.DatasetNotFoundError as error:
        raise UserError(f"no data set {name!r} in TFDS") from error
    if builder.is_prepared():
        print(f"{builder.info.full_name} is already prepared in {builder.data_dir}")
        return
    try:
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual_dir))
    except ImportError as error:
        raise UserError(f"the TFDS builder of {name} needs TensorFlow, this once: pip install tensorflow") from error
    except (OSError, ConnectionError, AssertionError) as error:
        raise UserError(f"cannot prepare {name}: {error}") from error
    print(f"{builder.info.full_name} is prepared in {builder.data_dir}")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m vit_jax.prepare", description=__doc__)
    parser.add_argument("dataset", help="a TFDS classification set, such as cifar10 or imagenet2012")
    parser.add_argument("--data_dir", help="where prepared sets are kept (default: TFDS's own)")
    parser.add_argument("--manual_dir", help="where the files are that you must fetch yourself (ImageNet)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    flags = parser.parse_args(arguments)
    try:
        prepare(flags.dataset, flags.data_dir, flags.manual_dir)
    except UserError as error:
        if flags.debug:
            raise
        print(f"vit_jax: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
