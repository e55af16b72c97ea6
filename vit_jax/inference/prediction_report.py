"""What `vit_jax.predict` says: the model, the answers as they come, the files that could not be read."""

import dataclasses
import os
import sys
from collections.abc import Callable

import numpy as np
from tqdm import tqdm

from vit_jax.errors import UserError
from vit_jax.inference.embedding_file import EmbeddingFile
from vit_jax.inference.picture_model import PictureModel
from vit_jax.inference.prediction import Answers, answers
from vit_jax.inference.prediction_formats import FORMATS, ranked


@dataclasses.dataclass
class Report:
    """Answers on standard output, everything else on standard error.

    Attributes:
      model: what `vit_jax.load_model` returns.
      files: that are looked at.
      format: one of `prediction_formats.FORMATS`.
      top: how many classes are said of each image.
      store: where embeddings go, or None where they are not wanted.
      proceed: called between files; it raises where no more are to be looked at.
      missed: how many files could not be read so far.
      undefined: of how many images the probabilities are not numbers.
    """

    model: PictureModel
    files: list[str]
    format: str
    top: int
    store: EmbeddingFile | None = None
    proceed: Callable[[], None] = lambda: None
    missed: int = 0
    undefined: int = 0

    def __post_init__(self):
        """Raises a `UserError` where the model does not give what is wanted."""
        self.classes = bool(self.model.num_classes)
        if not self.classes and not self.store:
            raise UserError(f"{self.model.source} has no classifier; --embeddings=FILE.npz writes its vectors")

    def describe(self) -> None:
        """Says what is used and what was assumed."""
        height, width = self.model.preprocessing.size
        weights = getattr(self.model, "weights", None)
        says(f"{self.model.source}: {f'{weights.name}, ' if weights else ''}images seen at {height}x{width} pixels")
        for note in getattr(self.model, "notes", ()):
            says(f"  note: {note}")
        if not self.classes:
            says("  note: it has no classifier; only embeddings are written")
        elif self.model.loss == "sigmoid":
            says("  note: trained with the sigmoid loss: each probability is of that class by itself")

    def run(self, batch_size: int, flip: bool) -> int:
        """Looks at all files and returns the exit status: 1 where one could not be read, or the model's answer is no
        number.

        Raises:
          UserError: the embeddings cannot be written.
        """
        self.writer = FORMATS[self.format](sys.stdout)
        machine = self.format != "table"
        if hasattr(sys.stdout, "reconfigure"):
            # Names of files may hold any bytes: programs get them back as they are, people in escapes.
            how = {"encoding": "utf-8", "errors": "surrogateescape"} if machine else {"errors": "backslashreplace"}
            sys.stdout.reconfigure(**how)
        hidden = None if len(self.files) > batch_size else True  # None: where nobody looks at a terminal
        try:
            with tqdm(total=len(self.files), unit="image", disable=hidden) as self.bar:
                wanted = {"classes": self.classes, "embeddings": self.store is not None}
                for part in answers(self.model, self.files, batch_size, flip, unreadable=self.miss, **wanted):
                    self.take(part)
            if self.classes:
                self.writer.close()
                sys.stdout.flush()
        except BrokenPipeError:  # whoever reads the output has seen enough, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if self.store:
                raise UserError(f"the output was closed before the end; {self.store.path} was not written") from None
            return bool(self.missed)
        return self.end()

    def take(self, part: Answers) -> None:
        """Writes the answers of one batch."""
        self.proceed()
        self.bar.update(len(part.paths))
        if part.embeddings is not None:
            self.store.add(part.paths, part.embeddings)
        if part.probabilities is None:
            return
        self.undefined += int((~np.isfinite(part.probabilities)).any(axis=-1).sum())
        with tqdm.external_write_mode():  # the bar is not torn
            for path, row in zip(part.paths, part.probabilities, strict=True):
                self.writer.write(path, ranked(row, self.model.class_names, self.top))
            sys.stdout.flush()

    def miss(self, path: str, error: UserError) -> None:
        """Names a file that cannot be read."""
        self.proceed()
        self.missed += 1
        self.bar.update()
        says(f"vit_jax: {error}")

    def end(self) -> int:
        """Writes the embeddings, says what went wrong, and returns the exit status."""
        if self.store and self.missed < len(self.files):
            rows, width = self.store.write()
            says(f"written: {self.store.path} ({rows} embeddings of {width} numbers)")
        elif self.store:
            says(f"vit_jax: {self.store.path} was not written: no file could be read")
        if self.undefined:
            says(f"vit_jax: of {self.undefined} images the answer is no number: the weights hold such, or overflow")
        if self.missed:
            says(f"vit_jax: {self.missed} of {len(self.files)} files could not be read")
        return int(bool(self.undefined or self.missed))


def says(line: str) -> None:
    """Prints a line on standard error, above a progress bar."""
    tqdm.write(line, file=sys.stderr)
