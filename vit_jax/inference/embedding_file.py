"""A file of embeddings, which may be larger than memory."""

import os
import pathlib
import tempfile

import numpy as np
from jaxtyping import Float

from vit_jax.errors import UserError, explained_writes
from vit_jax.pretrained.files import write_npz


class EmbeddingFile:
    """Collects embeddings in an unnamed file beside the one that is wanted, and writes that whole at the end.

    The `.npz` holds `embeddings`, float32 `[images, width]`, and `paths`, text `[images]`, which is no pickle. To be
    used in a `with`.
    """

    def __init__(self, path: pathlib.Path, keep: str):
        """Makes sure that the file can be written.

        Args:
          keep: a CHECKPOINT, which is not to be overwritten where it is this file.

        Raises:
          UserError: it cannot, or its name does not end in `.npz`.
        """
        if path.suffix != ".npz" or path.is_dir():
            raise UserError(f"embeddings are written to an .npz file, which {path} is not")
        try:
            if path.exists() and os.path.exists(keep) and path.samefile(keep):
                raise UserError(f"embeddings in {path} would overwrite the checkpoint; name another file")
            path.parent.mkdir(parents=True, exist_ok=True)
            self.rows = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 (closed by __exit__)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from error
        self.path = path
        self.paths: list[str] = []

    def add(self, paths: list[str], embeddings: Float[np.ndarray, "files width"]) -> None:
        """Adds the embeddings of some files.

        Raises:
          UserError: there is no room.
        """
        with explained_writes(str(self.path)):
            self.rows.write(np.ascontiguousarray(embeddings, np.float32))
        self.paths += paths

    def write(self) -> tuple[int, int]:
        """Writes the file, of one embedding or more, and returns the shape of `embeddings`.

        Raises:
          UserError: there is no room.
        """
        with explained_writes(str(self.path)):
            self.rows.flush()
        # Mapped, so that NumPy copies it to the file piece by piece.
        embeddings = np.memmap(self.rows, np.float32, "r").reshape(len(self.paths), -1)
        write_npz(self.path, {"embeddings": embeddings, "paths": np.array(self.paths)})
        return embeddings.shape

    def __enter__(self) -> "EmbeddingFile":
        return self

    def __exit__(self, *_) -> None:
        self.rows.close()
