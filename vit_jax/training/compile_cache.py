"""Compiled programs that are kept between starts."""

import pathlib

import jax

from vit_jax.errors import explained_writes
from vit_jax.pretrained.download import cache_directory


def use_compile_cache(folder: str = "") -> None:
    """Makes jax keep the programs that it compiles in a folder, and load from there what it has compiled before.

    The names of the programs are made of all that they depend on, jax's version and the device among it: runs of many
    models may share a folder. Programs that compile in less than a second, which jax would not keep, are kept too:
    small models have no others.

    Args:
      folder: empty for `compiled` beside the downloaded weights.

    Raises:
      UserError: it cannot be written.
    """
    path = (pathlib.Path(folder).expanduser() if folder else cache_directory() / "compiled").absolute()
    with explained_writes(f"compiled programs to {path}"):
        path.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
