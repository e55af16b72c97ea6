"""A model out of a bundle that holds a compiled program: pictures in, answers out, no weights."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Array, Float, Num, UInt8

from vit_jax.data.preprocessing import Preprocessing
from vit_jax.errors import UserError
from vit_jax.inference import onnx, stablehlo
from vit_jax.inference.picture_model import PictureModel
from vit_jax.pretrained.bundle import AGAIN, PREPROCESSING, Bundle


class PixelPreprocessing(Preprocessing):
    """The preprocessing of a program that normalises within: it takes pixels as they are."""

    def normalised(self, images: UInt8[np.ndarray, "... 3"]) -> UInt8[np.ndarray, "... 3"]:
        """Returns the pixels as the program takes them: the same."""
        return images


class ExportedModel(PictureModel):
    """A compiled program with its preprocessing and its class names.

    Attributes:
      bundle: what its documents tell.
      preprocessing: from a picture to what the program takes, which may be pixels.
      class_names: in the order of the outputs, or None where they are not known.
    """

    def __init__(self, bundle: Bundle, source: str, function: Callable[[np.ndarray], np.ndarray]):
        """Makes a model of a program.

        Args:
          source: where it comes from, for messages.
          function: the outputs of a batch of images.
        """
        seen = bundle.preprocessing
        pixels = bundle.input == "uint8"
        self.bundle, self.source, self.function, self.loss = bundle, source, function, bundle.loss
        self.class_names = bundle.class_names
        self.preprocessing = PixelPreprocessing(**_fields(seen)) if pixels else seen

    @property
    def num_classes(self) -> int:
        """Number of classes, 0 where there is no classifier."""
        return 0 if self.bundle.output == "embedding" else self.bundle.outputs

    def outputs(self, x: Num[Array, "batch height width 3"]) -> Float[np.ndarray, "batch outputs"]:
        """Returns what the program gives for images that it takes: `bundle.output` of a batch of `bundle.input`.

        Raises:
          UserError: the images are of another size or type.
        """
        x = np.asarray(x)
        height, width = self.preprocessing.size
        if x.ndim != 4 or x.shape[1:] != (height, width, 3) or x.dtype != self.bundle.input or not len(x):
            expected = f"{self.bundle.input} [batch, {height}, {width}, 3]"
            raise UserError(f"{self.source} takes images as {expected}, not {x.dtype} {list(x.shape)}")
        outputs = self.function(x)
        if outputs.shape != (len(x), self.bundle.outputs):
            raise UserError(f"{self.source} gives {list(outputs.shape)} for {len(x)} images; export it again")
        return outputs

    def logits(self, x: Num[Array, "batch height width 3"]) -> Float[np.ndarray, "batch classes"]:
        """Returns the logits of images as the program takes them; of one without classes, the embedding.

        Of a program that gives probabilities they are worked out from these, up to a constant for each image.

        Raises:
          UserError: the images are of another size or type.
        """
        outputs = self.outputs(x)
        if self.bundle.output != "probabilities":
            return outputs
        with np.errstate(divide="ignore"):  # a probability of zero
            return np.log(outputs) - (np.log1p(-outputs) if self.loss == "sigmoid" else 0)

    def embeddings(self, x: Num[Array, "batch height width 3"]) -> Float[np.ndarray, "batch width"]:
        """Returns the pooled vectors of images as the program takes them.

        Raises:
          UserError: the program is a classifier, which gives no vectors.
        """
        if self.bundle.output != "embedding":
            held = self.bundle.output
            raise UserError(f"{self.source} gives {held} only; for embeddings load the checkpoint that it was made of")
        return self.outputs(x)


def load_exported(
    folder: pathlib.Path,
    bundle: Bundle,
    image_size: tuple[int, int] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> ExportedModel:
    """Returns the model of a bundle that holds a compiled program.

    Raises:
      UserError: the program cannot be read, or overrides ask for another model.
    """
    size = bundle.preprocessing.size
    if image_size is not None and tuple(image_size) != size:
        raise UserError(
            f"{folder} was compiled for {size[0]}x{size[1]} pixels and takes no {image_size[0]}x{image_size[1]}; "
            "export the checkpoint again with --image-size"
        )
    if overrides:
        raise UserError(f"{folder} is compiled: its {next(iter(overrides))} cannot be changed; export it again")
    loaded = onnx.load(folder) if bundle.format == "onnx" else stablehlo.load(folder, bundle.jax)
    stated = (bundle.input, (*size, 3), bundle.outputs)
    if stated != loaded[1:]:
        told, found = (f"{kind} {list(image)} to {outputs} outputs" for kind, image, outputs in (stated, loaded[1:]))
        raise UserError(f"{folder / PREPROCESSING} tells of {told}, but the program takes {found}; {AGAIN}")
    return ExportedModel(bundle, str(folder), loaded.function)


def _fields(seen: Preprocessing) -> dict[str, object]:
    return {field.name: getattr(seen, field.name) for field in dataclasses.fields(seen)}
