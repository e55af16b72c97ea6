"""BEiT (Bao et al. 2022, "BERT Pre-Training of Image Transformers"): a Vision Transformer with relative positions."""

from collections.abc import Sequence

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from vit_jax.layers.block import EncoderBlock
from vit_jax.layers.grid_tokens import GridTokens
from vit_jax.layers.relative_bias import RelativeBias
from vit_jax.models.encoder import Encoder
from vit_jax.models.vit import VisionTransformer

RELATIVE_BIAS = ("blocks", "shared", "none")
"""Whether each block has relative positions of its own, all have the same, or none has."""


class BeitBlock(EncoderBlock):
    """A pre-norm encoder block whose keys have no bias, and whose scores have one for each relative position."""

    relative_bias: str = "blocks"

    key_bias = False

    @nn.compact
    def __call__(
        self, x: GridTokens, key: jax.Array | None = None, drop_path_rate: float | Float[Array, ""] = 0.0
    ) -> GridTokens:
        """Applies the block; without a key nothing is dropped (evaluation)."""
        bias = x.bias
        if self.relative_bias == "blocks":
            bias = RelativeBias(self.heads, cls=True, param_dtype=self.param_dtype, name="relative_bias")(
                *x.layout.grid
            )
        return x.replace(tokens=super().__call__(x.tokens, key, drop_path_rate, bias))


class BeitEncoder(Encoder):
    """The blocks of a BEiT."""

    relative_bias: str = "blocks"

    block_class = BeitBlock


class Beit(VisionTransformer):
    """A Vision Transformer with relative in place of absolute positions, LayerScale, and a norm after the mean.

    All fields of a Vision Transformer are there; the defaults are those of the published models. Relative positions are
    made for the image's size at initialisation.

    Attributes:
      relative_bias: `blocks`, `shared` (pre-trained models that were never fine-tuned) or `none`.

    Raises:
      ValueError: a field's value is unknown, or the sizes do not fit together.
    """

    gelu: str = "exact"
    pool: str = "gap"
    pool_norm: bool = True
    cls_token: bool = True
    position: str = "none"
    layer_scale: float | None = 0.1
    relative_bias: str = "blocks"

    encoder_class = BeitEncoder

    def setup(self):
        if self.relative_bias not in RELATIVE_BIAS:
            raise ValueError(f"relative_bias must be one of {', '.join(RELATIVE_BIAS)}, not {self.relative_bias!r}")
        if self.relative_bias != "none" and (self.registers or len(self.class_token_names) != 1):
            raise ValueError("relative positions are those of a cls token and the patches: registers have none")
        if self.attention != "full" or self.position in ("rope2d", "relative"):
            told = f"attention {self.attention!r} with position {self.position!r}"
            raise ValueError(f"a BEiT has full attention and relative_bias, not {told}; that a plain ViT has")
        if self.merge_tokens:
            raise ValueError(f"a BEiT merges no tokens: merge_tokens must be 0, not {self.merge_tokens}")
        if self.patch_embed in ("positional", "adaptive", "flexible") or self.patch_dropout:
            raise ValueError(
                "a BEiT's relative positions are of one whole grid: patch_embed must be another than 'positional', "
                "'adaptive' and 'flexible', and patch_dropout 0"
            )
        super().setup()
        if self.relative_bias == "shared":
            self.shared_bias = RelativeBias(self.heads, cls=True, param_dtype=self.param_dtype, name="relative_bias")

    def encoded(
        self, images: Float[Array, "batch height width 3"], train: bool, layers: Sequence[int] = ()
    ) -> tuple[Float[Array, "batch tokens width"], list[Float[Array, "batch tokens width"]]]:
        """Returns the tokens after the last block, and those after each of the blocks named in `layers`."""
        x = self.placed_tokens(images, train)
        if self.relative_bias == "shared":
            x = x.replace(bias=self.shared_bias(*x.layout.grid))
        x, found = self.encoder(x, train, layers)
        return x.tokens, [after.tokens for after in found]
