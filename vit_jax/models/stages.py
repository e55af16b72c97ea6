"""What convolutional networks in stages share: the stages themselves, and the way from images to logits."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.dense import Dense
from vit_jax.layers.drop import drop_path_rate, dropout
from vit_jax.layers.types import DTypeLike
from vit_jax.models.encoder import REMAT_POLICIES


class Stage(nn.Module):
    """Blocks in a row, `block_0`, `block_1`, …, after what the stage does first to the map (`enter`).

    A subclass names the class and the fields of its blocks, which are called with the map, `train`, a key or None, and
    a drop path rate.

    Attributes:
      depth: number of blocks.
      before: number of the network's blocks in earlier stages, by which keys and drop path rates are counted on.
      total: number of the network's blocks.
      drop_path: the rate of the network's last block.
      remat: see `vit_jax.models.encoder.BlockStack`.
    """

    depth: int
    before: int
    total: int
    drop_path: float = 0.0
    remat: str = "none"
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch rows columns inputs"], train: bool, key: jax.Array | None
    ) -> Float[Array, "batch new_rows new_columns width"]:
        """Applies the stage; without a key nothing is dropped."""
        x = self.enter(x, train)
        for i in range(self.depth):
            block_class, fields = self.block(i)
            if self.remat != "none":
                block_class = nn.remat(block_class, policy=REMAT_POLICIES[self.remat], static_argnums=(2,))
            number = self.before + i
            block_key = None if key is None else jax.random.fold_in(key, number)
            block = block_class(dtype=self.dtype, param_dtype=self.param_dtype, name=f"block_{i}", **fields)
            x = block(x, train, block_key, drop_path_rate(self.drop_path, number, self.total))
        return x

    def enter(
        self, x: Float[Array, "batch rows columns inputs"], train: bool
    ) -> Float[Array, "batch new_rows new_columns width"]:
        """Returns the map that enters the first block."""
        return x

    def block(self, i: int) -> tuple[type[nn.Module], dict[str, object]]:
        """Returns the class and the fields of one block."""
        raise NotImplementedError


class Stages(nn.Module):
    """Stages in a row; parameters are `stage_0`, `stage_1`, …

    Attributes:
      stage_class: a `Stage`.
      fields: those of each stage.
    """

    stage_class: type[Stage]
    fields: tuple[dict[str, object], ...]

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch rows columns inputs"], train: bool, key: jax.Array | None
    ) -> list[Float[Array, "batch rows columns width"]]:
        """Returns the map after each stage."""
        maps = []
        for i, fields in enumerate(self.fields):
            x = self.stage_class(name=f"stage_{i}", **fields)(x, train, key)
            maps.append(x)
        return maps


class StagedClassifier(nn.Module):
    """Stem, stages, mean over the map and a linear classifier.

    A subclass sets up `stem`, `encoder` (its `Stages`) and the head (`set_up_head`), and may have a norm before the
    mean (`last`) or after it (`pooled`).

    Attributes:
      depths: number of blocks of each stage.
      widths: channels of each stage.
      head_bias: initial bias of the head; -10 suits the sigmoid loss with many classes.
      dropout: of the vector before the head.
      drop_path: the last block's rate; it grows linearly from 0 at the first.
      remat: see `vit_jax.models.encoder.BlockStack`.

    Raises:
      ValueError: a field's value is unknown, or the image is too small.
    """

    num_classes: int = 1000
    depths: tuple[int, ...] = (3, 4, 6, 3)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    head_bias: float = 0.0
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: str = "none"
    dtype: DTypeLike = "float32"
    param_dtype: DTypeLike = "float32"

    def check_fields(self) -> None:
        """Raises a `ValueError` for a field that no network can have."""
        if self.remat not in ("none", *REMAT_POLICIES):
            raise ValueError(f"remat must be one of none, {', '.join(REMAT_POLICIES)}, not {self.remat!r}")
        if not self.depths or len(self.depths) != len(self.widths):
            raise ValueError(f"depths {self.depths} and widths {self.widths} must have a number for each stage")
        for field in ("depths", "widths"):
            if min(getattr(self, field)) < 1:
                raise ValueError(f"{field} {getattr(self, field)} must be at least 1 each")
        for field in ("dropout", "drop_path"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 0 and less than 1, not {getattr(self, field)}")

    @property
    def depth(self) -> int:
        """Number of stages, which is that of the `intermediates`."""
        return len(self.depths)

    @property
    def types(self) -> dict[str, DTypeLike]:
        """What every layer is told of types."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    def stages(self, stage_class: type[Stage], each: Sequence[dict[str, object]]) -> Stages:
        """Returns the stages.

        Args:
          each: what the fields of every stage are beside those that all classes of stages have.
        """
        common = {"total": sum(self.depths), "drop_path": self.drop_path, "remat": self.remat, **self.types}
        numbered = [{"depth": depth, "before": sum(self.depths[:i])} for i, depth in enumerate(self.depths)]
        return Stages(stage_class, tuple({**common, **a, **b} for a, b in zip(numbered, each, strict=True)))

    def set_up_head(self) -> None:
        """Sets up the classifier, which starts at zero."""
        if self.num_classes:
            self.head_dense = self.classifier("head")

    def classifier(self, name: str) -> Dense:
        """Returns a linear classifier, which starts at zero."""
        return Dense(
            self.num_classes,
            name=name,
            kernel_init=nn.initializers.zeros,
            bias_init=nn.initializers.constant(self.head_bias),
            out_dtype="float32",
            **self.types,
        )

    def __call__(
        self, images: Float[Array, "batch height width 3"], train: bool = False
    ) -> Float[Array, "batch classes"]:
        """Returns the logits, float32; without classes (`num_classes=0`) the embedding."""
        x = self.embed(images, train)
        if not self.num_classes:
            return x
        return self.head_dense(dropout(self.dropping(train, self.dropout), x, self.dropout))

    def embed(self, images: Float[Array, "batch height width 3"], train: bool = False) -> Float[Array, "batch width"]:
        """Returns the pooled vector before the head, float32."""
        return self.pooled(self.features(images, train)).astype(jnp.float32)

    def features(
        self, images: Float[Array, "batch height width 3"], train: bool = False
    ) -> Float[Array, "batch rows columns width"]:
        """Returns the map before pooling."""
        return self.last(self.maps(images, train)[-1])

    def intermediates(
        self, images: Float[Array, "batch height width 3"], layers: Sequence[int], train: bool = False
    ) -> list[Float[Array, "batch rows columns width"]]:
        """Returns the map after each stage of `layers` (counted from 0; -1 is the last), without any final norm.

        Raises:
          ValueError: there is no such stage.
        """
        unknown = [i for i in layers if not -self.depth <= i < self.depth]
        if unknown:
            raise ValueError(f"no layer {unknown[0]} in a model of {self.depth} stages")
        maps = self.maps(images, train)
        return [maps[i] for i in layers]

    def maps(
        self, images: Float[Array, "batch height width 3"], train: bool = False
    ) -> list[Float[Array, "batch rows columns width"]]:
        """Returns the map after each stage."""
        return self.encoder(self.first_map(images, train), train, self.dropping(train, self.drop_path))

    def first_map(
        self, images: Float[Array, "batch height width 3"], train: bool = False
    ) -> Float[Array, "batch rows columns width"]:
        """Returns the map that enters the first stage."""
        return self.stem(images, train)

    def last(self, x: Float[Array, "batch rows columns width"]) -> Float[Array, "batch rows columns width"]:
        """Returns the map that is pooled."""
        return x

    def pooled(self, x: Float[Array, "batch rows columns width"]) -> Float[Array, "batch width"]:
        """Returns one vector an image."""
        return x.astype(jnp.float32).mean((1, 2))

    def dropping(self, train: bool, rate: float) -> jax.Array | None:
        """Returns a key where something is dropped at that rate, else None."""
        return self.make_rng("dropout") if train and rate else None


def hidden_width(width: int, ratio: float) -> int:
    """Returns the hidden channels of an MLP, rounded down; a ratio that was made by division hits its number."""
    return int(width * ratio + 1e-6)
