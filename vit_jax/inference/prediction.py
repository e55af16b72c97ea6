"""Class probabilities and embeddings of any number of image files, a batch at a time."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from vit_jax.data.loading import processors
from vit_jax.errors import UserError
from vit_jax.inference.picture_model import PictureModel, probabilities

BATCHES_AHEAD = 2
"""How many batches are decoded while the model is at work: memory does not grow with the number of files."""


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a model says of some files.

    Attributes:
      paths: of the files that could be read, in the order in which they were given.
      probabilities: of every class, float32, or None where they were not asked for.
      embeddings: the pooled vectors before the head, float32, or None where they were not asked for.
    """

    paths: list[str]
    probabilities: Float[np.ndarray, "files classes"] | None
    embeddings: Float[np.ndarray, "files width"] | None


def answers(
    model: PictureModel,
    files: Sequence[str],
    batch_size: int = 32,
    flip: bool = False,
    classes: bool = True,
    embeddings: bool = False,
    unreadable: Callable[[str, UserError], None] | None = None,
) -> Iterator[Answers]:
    """Yields what a model says of image files, in their order, batch by batch.

    Every batch has the same shape, the last one padded, so that the model is compiled once. Files are read and decoded
    by threads ahead of the model.

    Args:
      model: what `vit_jax.load_model` returns.
      batch_size: images that go through the model at once; where there are fewer files, their number.
      flip: average over each image and its mirror image: the probabilities (Krizhevsky et al. 2012, section 4.1), and
        the embeddings.
      classes: whether probabilities are wanted.
      embeddings: whether embeddings are wanted.
      unreadable: told of each file that cannot be read, and why; such a file is left out. None: it is an error.

    Raises:
      UserError: a file cannot be read, and nobody is to be told; or the model gives no embeddings.
    """

    def averaged(call: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
        return (call(x) + call(x[:, :, ::-1])) / 2 if flip else call(x)

    def judged(x: np.ndarray) -> np.ndarray:
        return np.asarray(probabilities(model.logits(x), model.loss))

    size = min(batch_size, len(files))
    with contextlib.closing(_views(model.view, files, BATCHES_AHEAD * size, unreadable)) as views:
        while batch := list(itertools.islice(views, size)):
            x = _padded(model.preprocessing.normalised(np.stack([view for _, view in batch])), size)
            yield Answers(
                [path for path, _ in batch],
                averaged(judged, x)[: len(batch)] if classes else None,
                averaged(model.embeddings, x)[: len(batch)] if embeddings else None,
            )


def _views(
    view: Callable[[str], UInt8[np.ndarray, "h w 3"]],
    files: Sequence[str],
    ahead: int,
    unreadable: Callable[[str, UserError], None] | None,
) -> Iterator[tuple[str, UInt8[np.ndarray, "h w 3"]]]:
    """Yields each file that can be read and what the model sees of it; at most `ahead` files are held."""
    waiting: collections.deque[tuple[str, concurrent.futures.Future]] = collections.deque()
    rest = iter(files)
    pool = concurrent.futures.ThreadPoolExecutor(processors(), "vit_jax_predict")
    try:
        while True:
            waiting += [(path, pool.submit(view, path)) for path in itertools.islice(rest, ahead - len(waiting))]
            if not waiting:
                return
            path, future = waiting.popleft()
            try:
                seen = future.result()
            except UserError as error:
                if unreadable is None:
                    raise
                unreadable(path, error)
                continue
            yield path, seen
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _padded(x: Float[np.ndarray, "rows h w 3"], size: int) -> Float[np.ndarray, "batch h w 3"]:
    return np.concatenate([x, np.zeros((size - len(x), *x.shape[1:]), x.dtype)]) if len(x) < size else x
