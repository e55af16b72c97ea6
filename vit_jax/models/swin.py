"""Swin Transformer (Liu et al. 2021, "Hierarchical Vision Transformer using Shifted Windows") and V2 (2022)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.dense import Dense
from vit_jax.layers.drop import drop_path
from vit_jax.layers.mlp import Mlp
from vit_jax.layers.norm import LayerNorm
from vit_jax.layers.patch_embed import PatchEmbed, grid_shape, places
from vit_jax.layers.relative_bias import ContinuousRelativeBias, RelativeBias
from vit_jax.layers.types import DTypeLike
from vit_jax.layers.window_attention import WindowAttention, padding_of, window_of
from vit_jax.models.stages import Stage, StagedClassifier, hidden_width

EPSILON = 1e-5
"""Of the norms after the patch embedding and in the merging of patches, whatever that of the blocks is."""


class PatchMerging(nn.Module):
    """Joins 2x2 neighbours to one place: a norm of all their channels, then a product; in V2 first the product.

    Maps `[batch, rows, columns, inputs]` to `[batch, ceil(rows / 2), ceil(columns / 2), width]`, float32; odd sides are
    padded with zeros. The neighbours' channels come in the order top left, bottom left, top right, bottom right.
    """

    width: int
    version: int
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch rows columns inputs"]) -> Float[Array, "batch half half width"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        rows, columns, inputs = x.shape[1:]
        x = jnp.pad(x, ((0, 0), (0, rows % 2), (0, columns % 2), (0, 0)))
        down, right = (rows + 1) // 2, (columns + 1) // 2
        x = x.reshape(-1, down, 2, right, 2, inputs).transpose(0, 1, 3, 4, 2, 5).reshape(-1, down, right, 4 * inputs)
        product = Dense(self.width, use_bias=False, out_dtype=jnp.float32, name="reduction", **types)
        if self.version == 1:
            return product(LayerNorm(EPSILON, name="norm", **types)(x))
        return LayerNorm(EPSILON, "float32", self.param_dtype, name="norm")(product(x))


class SwinBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), with attention in windows (Liu et al. 2021, eq. 3).

    In V2 it is x + norm(attention(x)) and x + norm(mlp(x)), with norms whose scale starts at zero, so that the block
    starts as the identity; the scores are scaled cosines, and their bias is continuous (Liu et al. 2022, figure 1).
    """

    heads: int
    mlp_dim: int
    window: int
    shifted: bool
    trained_window: int
    version: int
    qkv_bias: bool
    gelu: str
    norm_epsilon: float
    square_windows: bool
    deciding_rows: int
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch rows columns width"],
        train: bool,
        key: jax.Array | None = None,
        drop_path_rate: float | Float[Array, ""] = 0.0,
    ) -> Float[Array, "batch rows columns width"]:
        """Applies the block; without a key nothing is dropped (evaluation)."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        windows = {field: getattr(self, field) for field in ("window", "shifted", "square_windows", "deciding_rows")}
        attention = WindowAttention(
            self.heads,
            qkv_bias=self.qkv_bias,
            kernel="plain",
            key_bias=self.version == 1,
            cosine=self.version == 2,
            name="attention",
            **windows,
            **types,
        )
        bias = self.bias(*window_of(x.shape[1:3], **windows)[0])
        mlp = Mlp(self.mlp_dim, self.gelu, name="mlp", **types)
        keys = (None, None) if key is None else jax.random.split(key)
        if self.version == 1:
            norms = [LayerNorm(self.norm_epsilon, name=f"norm_{i}", **types) for i in (0, 1)]
            x = x + drop_path(keys[0], attention(norms[0](x), bias=bias), drop_path_rate)
            return x + drop_path(keys[1], mlp(norms[1](x)), drop_path_rate)
        types = {"dtype": "float32", "param_dtype": self.param_dtype, "scale_init": nn.initializers.zeros}
        norms = [LayerNorm(self.norm_epsilon, name=f"norm_{i}", **types) for i in (0, 1)]
        x = x + drop_path(keys[0], norms[0](attention(x, bias=bias)), drop_path_rate)
        return x + drop_path(keys[1], norms[1](mlp(x)), drop_path_rate)

    def bias(self, rows: int, columns: int) -> Float[Array, "1 heads tokens tokens"]:
        """Returns what the relative positions in a window add to the scores."""
        named = {"param_dtype": self.param_dtype, "name": "relative_bias"}
        if self.version == 1:
            return RelativeBias(self.heads, init=nn.initializers.truncated_normal(0.02), **named)(rows, columns)
        return ContinuousRelativeBias(self.heads, self.trained_window, **named)(rows, columns)


class SwinStage(Stage):
    """Merged patches, but for the first stage, then blocks, of which every second one has shifted windows."""

    width: int = 96
    heads: int = 3
    window: int = 7
    trained_window: int = 0
    merges: bool = False
    mlp_ratio: float = 4.0
    version: int = 1
    qkv_bias: bool = True
    gelu: str = "exact"
    norm_epsilon: float = 1e-5
    square_windows: bool = False
    deciding_rows: int = 0

    def enter(
        self, x: Float[Array, "batch rows columns inputs"], train: bool
    ) -> Float[Array, "batch new_rows new_columns width"]:
        """Returns the map that enters the first block."""
        if not self.merges:
            return x
        return PatchMerging(self.width, self.version, self.dtype, self.param_dtype, name="downsample")(x)

    def block(self, i: int) -> tuple[type[nn.Module], dict[str, object]]:
        """Returns the class and the fields of one block."""
        same = ("heads", "trained_window", "version", "qkv_bias", "gelu", "norm_epsilon")
        fields = {field: getattr(self, field) for field in (*same, "window", "square_windows", "deciding_rows")}
        return SwinBlock, {**fields, "mlp_dim": hidden_width(self.width, self.mlp_ratio), "shifted": i % 2 == 1}


class SwinTransformer(StagedClassifier):
    """Patch embedding and its norm, stages of blocks with attention in windows, norm, mean and a classifier.

    The image's size is free as long as the patch divides it; with `square_windows` others are padded with zeros below
    and on the right. No window is larger than its map. Parameters of version 1 hold one number for each relative
    position in a window, so that they are those of the windows at initialisation; parameters of version 2 depend on no
    size. Windows and shifts are chosen by the maps of each image; timm's model keeps those of the size that it was
    built for where it runs at another (`strict_img_size=False`).

    Attributes:
      patch_size: height and width of a patch, in pixels.
      heads: of each stage.
      window_size: greatest side of the windows, in places of the map: one number, or one for each stage.
      trained_window: of version 2: the windows that its relative positions were first trained for, likewise; 0 is those
        of this model.
      mlp_ratio: hidden channels of an MLP, for each channel.
      version: 1, or 2: norms after attention and MLP, cosine attention, continuous relative positions, and no bias of
        the keys.
      gelu: `exact` as in the published models, or `tanh`.
      norm_epsilon: of the norms in blocks and after the last.
      square_windows: see `vit_jax.layers.window_attention.WindowAttention`.
      deciding_rows: likewise, one number, or one for each stage: Hugging Face's version 2 chooses windows by the rows
        that the maps of one image size have, whatever the image's.

    Raises:
      ValueError: a field's value is unknown, or the sizes do not fit together.
    """

    patch_size: tuple[int, int] = (4, 4)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    widths: tuple[int, ...] = (96, 192, 384, 768)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int | tuple[int, ...] = 7
    trained_window: int | tuple[int, ...] = 0
    mlp_ratio: float = 4.0
    version: int = 1
    qkv_bias: bool = True
    gelu: str = "exact"
    norm_epsilon: float = 1e-5
    square_windows: bool = False
    deciding_rows: int | tuple[int, ...] = 0

    def setup(self):
        self.check_fields()
        if self.version not in (1, 2):
            raise ValueError(f"version must be 1 or 2, not {self.version}")
        if len(self.heads) != self.depth or min(self.heads) < 1:
            raise ValueError(f"heads {self.heads} must have a positive number for each of {self.depth} stages")
        if min(self.patch_size) < 1 or self.mlp_ratio <= 0:
            raise ValueError(f"patch_size {self.patch_size} and mlp_ratio {self.mlp_ratio} must be positive")
        windows = self.of_stages("window_size", least=1)
        trained = self.of_stages("trained_window", least=0)
        self.patch_embed = PatchEmbed(self.patch_size, self.widths[0], **self.types)
        self.patch_norm = LayerNorm(EPSILON, "float32", self.param_dtype)
        alike = ("mlp_ratio", "version", "qkv_bias", "gelu", "norm_epsilon", "square_windows")
        same = {field: getattr(self, field) for field in alike}
        each = zip(self.widths, self.heads, windows, trained, self.of_stages("deciding_rows", least=0), strict=True)
        names = ("width", "heads", "window", "trained_window", "deciding_rows")
        self.encoder = self.stages(
            SwinStage,
            [{**same, **dict(zip(names, values, strict=True)), "merges": i > 0} for i, values in enumerate(each)],
        )
        self.norm = LayerNorm(self.norm_epsilon, **self.types)
        self.set_up_head()

    def of_stages(self, field: str, least: int) -> tuple[int, ...]:
        """Returns a field of one number for all stages, or one each, as one for each stage.

        Raises:
          ValueError: there are more or fewer than stages, or one is too small.
        """
        value = getattr(self, field)
        each = (value,) * self.depth if isinstance(value, int) else tuple(value)
        if len(each) != self.depth or min(each) < least:
            numbers = f"one number, or one for each of {self.depth} stages, from {least} up"
            raise ValueError(f"{field} must be {numbers}, not {value}")
        return each

    def first_map(
        self, images: Float[Array, "batch height width 3"], train: bool = False
    ) -> Float[Array, "batch rows columns width"]:
        """Returns the embedded and normalised patches, which enter the first stage."""
        grid = self.grid(images.shape[1:3])
        missing = padding_of(images.shape[1:3], self.patch_size)
        if any(missing):
            images = jnp.pad(images, ((0, 0), *((0, more) for more in missing), (0, 0)))
        return self.patch_norm(self.patch_embed(images)).reshape(-1, *grid, self.widths[0])

    def last(self, x: Float[Array, "batch rows columns width"]) -> Float[Array, "batch rows columns width"]:
        """Returns the last stage's map after the final norm."""
        return self.norm(x)

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Returns the rows and columns of the patches.

        Raises:
          ValueError: the patch does not divide the image, which is not padded.
        """
        return (places if self.square_windows else grid_shape)(image_size, self.patch_size)

    def maps_sides(self, image_size: tuple[int, int]) -> list[tuple[int, int]]:
        """Returns rows and columns of the map of each stage."""
        sides = self.grid(image_size)
        return [tuple(-(-side // 2**i) for side in sides) for i in range(self.depth)]

    def windows(self, image_size: tuple[int, int]) -> list[tuple[tuple[int, int], tuple[int, int], bool]]:
        """Returns each stage's windows, their shift, and whether its maps, for images of that size, are padded first.

        The last is told only where it makes a difference.
        """
        found = []
        own = (self.depths, self.of_stages("window_size", 1), self.of_stages("deciding_rows", 0))
        for sides, depth, window, rows in zip(self.maps_sides(image_size), *own, strict=True):
            sizes, shift = window_of(sides, window, depth > 1, self.square_windows, rows)
            found.append((sizes, shift, self.square_windows and any(shift) and any(padding_of(sides, sizes))))
        return found
