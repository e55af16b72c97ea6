"""A stack of blocks, run as a loop or as a scan, with or without rematerialisation."""

import operator
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vit_jax.layers.attention import ADDED, ATTENTION
from vit_jax.layers.attention_kernel import told
from vit_jax.layers.attention_kind import Full
from vit_jax.layers.block import EncoderBlock
from vit_jax.layers.drop import drop_path_rate
from vit_jax.layers.grid_tokens import GridTokens
from vit_jax.layers.placement import over_batch
from vit_jax.layers.product import PRODUCT
from vit_jax.layers.token_merging import MergedTokens, unmerged
from vit_jax.layers.types import DTypeLike

REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.save_only_these_names(PRODUCT),
    "full": jax.checkpoint_policies.nothing_saveable,
}
"""What is kept for the backward pass: the results of products with weights, or the blocks' inputs alone."""

RATES = ("dropout", "attention_dropout", "drop_path")
"""The fields of a stack by which it drops at random in training."""


class BlockStack(nn.Module):
    """Equal blocks in a row; parameters are `block_0`, `block_1`, … whichever way they are run.

    A subclass names its `block_class`, whose layers are called with tokens, a key or None, and a drop path rate, and
    has all fields of that class beside its own.

    Attributes:
      depth: the number of blocks.
      drop_path: the last block's rate; it grows linearly from 0 at the first.
      remat: "none", "dots" (keep the products' results, recompute the rest) or "full" (keep only each block's input).
      scan_layers: compile one block and scan over the depth: compile time no longer grows with it. The parameters are
        stacked inside the step, so names, checkpoints and results stay those of the loop.
    """

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        train: bool,
        layers: Sequence[int] = (),
        after_first: Callable[[Array], Array] | None = None,
    ) -> tuple[Float[Array, "batch tokens width"], list[Float[Array, "batch tokens width"]]]:
        """Returns the tokens after the last block, and those after each of the blocks named in `layers`.

        Args:
          after_first: what becomes of the tokens between the first block and the second.
        """
        random = train and max(getattr(self, rate, 0.0) for rate in RATES) > 0
        key = self.make_rng("dropout") if random else None
        looked_into = self.is_mutable_collection(ATTENTION) or ADDED in self.variables
        if self.scan_layers and not self.is_initializing() and not looked_into:
            if not isinstance(x, MergedTokens):
                return self.scan(x, key, layers, after_first)
            told("the blocks run as a loop, not as a scan: with merge_tokens each has its own number of tokens")
        block_class = self.block_class
        if self.remat != "none" and not looked_into:
            block_class = nn.remat(block_class, policy=REMAT_POLICIES[self.remat])
        wanted = {}
        for i in range(self.depth):
            block_key = None if key is None else jax.random.fold_in(key, i)
            rate = drop_path_rate(self.drop_path, i, self.depth)
            x = entering(self.block(block_class, f"block_{i}")(entering(x, i), block_key, rate), i)
            if i in layers:
                wanted[i] = x
            x = x if after_first is None or i else after_first(x)
        return x, [wanted[i] for i in layers]

    def block(self, block_class: type[nn.Module], name: str | None, **kwargs) -> nn.Module:
        """Returns one block with this stack's options."""
        fields = self.block_class.__dataclass_fields__.keys() - {"parent", "name"}
        return block_class(name=name, **{field: getattr(self, field) for field in fields}, **kwargs)

    def scan(
        self,
        x: Float[Array, "batch tokens width"],
        key: jax.Array | None,
        layers: Sequence[int],
        after_first: Callable[[Array], Array] | None = None,
    ):
        """Runs the blocks as one scanned block over their stacked parameters; the first before, if it is followed."""
        blocks = [self.variables["params"][f"block_{i}"] for i in range(self.depth)]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)
        block = self.block(self.block_class, None, parent=None)

        def body(x, scanned):
            params, i = scanned
            block_key = None if key is None else jax.random.fold_in(key, i)
            rate = drop_path_rate(self.drop_path, i, self.depth)
            x = entering(block.apply({"params": params}, entering(x, i), block_key, rate), i)
            return x, x if layers else None

        if self.remat != "none":
            body = jax.checkpoint(body, policy=REMAT_POLICIES[self.remat], prevent_cse=False)
        numbered = (stacked, jnp.arange(self.depth))
        if after_first is None:
            x, outputs = jax.lax.scan(body, x, numbered)
        else:
            x, first = body(x, jax.tree.map(operator.itemgetter(0), numbered))
            x, others = jax.lax.scan(body, after_first(x), jax.tree.map(lambda leaf: leaf[1:], numbered))
            outputs = jax.tree.map(lambda one, more: jnp.concatenate([one[None], more]), first, others)
        return x, [jax.tree.map(operator.itemgetter(i), outputs) for i in layers]


def entering(
    x: Float[Array, "batch tokens width"] | MergedTokens | GridTokens, layer: int | Int[Array, ""]
) -> Float[Array, "batch tokens width"] | MergedTokens | GridTokens:
    """Returns the tokens of a block, laid out as the batch is, and told its number where they know their places."""
    if isinstance(x, GridTokens):
        return x.replace(tokens=over_batch(x.tokens), layout=x.layout.replace(layer=layer))
    return over_batch(x)


class Encoder(BlockStack):
    """The `depth` pre-norm blocks of a Vision Transformer.

    Attributes:
      merge_tokens: how many tokens each block merges, in evaluation only (see `vit_jax.layers.token_merging`). The
        number of tokens then changes from block to block, so `scan_layers` has no effect, which is said.
      prefix_tokens: how many tokens at the beginning are never merged.
      attention_kind: who attends to whom (see `vit_jax.layers.attention_kinds`). Where it needs to know the places of
        tokens, these are `GridTokens`.
    """

    depth: int
    heads: int
    mlp_dim: int
    mlp: str = "gelu"
    gelu: str = "tanh"
    qk_norm: bool = False
    qkv_bias: bool = True
    layer_scale: float | None = None
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    norm_epsilon: float = 1e-6
    attention_kernel: str = "auto"
    fused_qkv: bool = False
    merge_tokens: int = 0
    prefix_tokens: int = 0
    attention_kind: Full = Full()
    remat: str = "none"
    scan_layers: bool = False
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    block_class = EncoderBlock

    def __call__(
        self,
        x: Float[Array, "batch tokens width"] | GridTokens,
        train: bool,
        layers: Sequence[int] = (),
        after_first: Callable[[Array], Array] | None = None,
    ) -> tuple[Float[Array, "batch tokens width"] | MergedTokens | GridTokens, list]:
        """Returns the tokens after the last block, and those after each of the blocks named in `layers`.

        With `merge_tokens` they are `MergedTokens`.

        Raises:
          ValueError: tokens are to be merged in training.
        """
        if not self.merge_tokens:
            return super().__call__(x, train, layers, after_first)
        if train:
            raise ValueError(f"merge_tokens={self.merge_tokens} is an option of inference; train with merge_tokens=0")
        return super().__call__(unmerged(x, self.prefix_tokens), train, layers, after_first)
