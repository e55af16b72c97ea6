"""The tokens of a Vision Transformer before its first block, but for registers: class tokens and patches."""

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vit_jax.layers.conditional_position import ConditionalPosition
from vit_jax.layers.grid_tokens import Layout
from vit_jax.layers.patch_embed import PlacedEmbed
from vit_jax.layers.position import PositionEmbed
from vit_jax.layers.quadtree import Leaves
from vit_jax.models.patches import check_patches, patch_backbone, patch_embedding


class PatchTokens(nn.Module):
    """What makes tokens of an image, by the fields of `vit_jax.models.vit.VisionTransformer`, which is one."""

    def set_up_patches(self) -> None:
        """Sets up the embedding, the class tokens and the positions.

        Raises:
          ValueError: fields do not go together.
        """
        check_patches(self)
        self.backbone = self.make_backbone()
        self.embedding = self.make_embedding(self.backbone, name="patch_embed")
        if self.patch_embed == "positional":
            self.conditional_position = ConditionalPosition(
                self.prefix_tokens, name="conditional_position", dtype=self.dtype, param_dtype=self.param_dtype
            )
        # Several class tokens that started alike, and without positions, would stay alike.
        start = nn.initializers.zeros if self.class_tokens == 1 else nn.initializers.normal(0.02)
        for token in self.class_token_names:
            setattr(self, token, self.param(token, start, (1, 1, self.width), self.param_dtype))
        self.position_embed = PositionEmbed(self.position, self.positioned, self.param_dtype)

    def make_backbone(self) -> nn.Module | None:
        """Returns the ResNet from whose map patches are cut, or None."""
        return patch_backbone(self)

    def make_embedding(self, backbone: nn.Module | None = None, **named) -> nn.Module:
        """Returns what makes tokens of an image; see `vit_jax.models.patches.patch_embedding`."""
        return patch_embedding(self, backbone, **named)

    @property
    def class_token_names(self) -> tuple[str, ...]:
        """Names of the learned tokens that stand before the registers and the patches: `cls`, `cls_1`, …"""
        if self.pool in ("cls", "cls_gap", "multi_cls") or self.cls_token:
            return ("cls", *(f"cls_{i}" for i in range(1, self.class_tokens)))
        return ()

    @property
    def positioned(self) -> int:
        """Number of tokens before the patches that have a position."""
        return len(self.class_token_names) if self.cls_position else 0

    @property
    def stride(self) -> tuple[int, int]:
        """Height and width in pixels of what one place of the position embeddings stands for."""
        return self.make_embedding(parent=None).stride

    @property
    def training_variants(self) -> tuple[nn.Module, ...]:
        """The models of the same parameters among which each training step draws one: as a rule this one alone."""
        if self.patch_embed != "flexible":
            return (self,)
        return tuple(self.clone(patch_size=(side, side), parent=None) for side in self.patch_sizes)

    def patches(
        self, images: Float[Array, "batch height width 3"], train: bool = False
    ) -> tuple[Float[Array, "batch patches width"], tuple[int, int]]:
        """Returns the embedded patches, row by row, without positions, and the rows and columns of their grid.

        Not of an embedding that needs the positions to place its tokens (`PlacedEmbed`).
        """
        return self.embedding(images, train), self.embedding.grid(images.shape[1:3])

    def positioned_tokens(
        self, images: Float[Array, "batch height width 3"], train: bool
    ) -> tuple[Float[Array, "batch tokens width"], Layout]:
        """Returns the class tokens and the patches with their positions, and where the patches stand."""
        if isinstance(self.embedding, PlacedEmbed):
            return self.content_positioned(images)
        x, grid = self.patches(images, train)
        if not self.cls_position:
            x = self.position_embed(x, *grid)
        x = jnp.concatenate([*(self.broadcast(getattr(self, token), x) for token in self.class_token_names), x], axis=1)
        x = self.position_embed(x, *grid) if self.cls_position else x
        return x, Layout(grid, self.prefix_tokens)

    def content_positioned(
        self, images: Float[Array, "batch height width 3"]
    ) -> tuple[Float[Array, "batch tokens width"], Layout]:
        """Returns the same of an embedding that makes its tokens' positions of those of another grid."""
        grid = self.embedding.position_grid(images.shape[1:3])
        positions = self.position_embed(jnp.zeros((1, self.positioned + math.prod(grid), self.width)), *grid)
        x, grid, places = self.embedding.placed(images, positions[:, self.positioned :])
        first = [self.broadcast(getattr(self, token), x) for token in self.class_token_names]
        if self.positioned:
            first = [jnp.concatenate(first, axis=1) + positions[:, : self.positioned]]
        return jnp.concatenate([*first, x], axis=1), Layout(grid, self.prefix_tokens, places)

    def leaves(self, images: Float[Array, "batch height width 3"]) -> Int[Array, "batch patches 4"]:
        """Returns which pixels the token of each patch covers: top, left, height and width.

        Raises:
          ValueError: tokens are places of a grid (`patch_embed` is not `adaptive`).
        """
        leaves = self.of_quadtree(images)
        return self.embedding.boxes(leaves, images.shape[1:3])

    def assignment(
        self, images: Float[Array, "batch height width 3"], merged: Int[Array, "batch leaves"] | None = None
    ) -> Int[Array, "batch patches"]:
        """Returns for each of the smallest patches of adaptive ones, row by row, the token that it is part of.

        Args:
          merged: for each leaf the token that it has become part of, or None where none was merged.

        Raises:
          ValueError: tokens are places of a grid.
        """
        leaf = self.of_quadtree(images).assignment
        return self.prefix_tokens + leaf if merged is None else jnp.take_along_axis(merged, leaf, axis=1)

    def of_quadtree(self, images: Float[Array, "batch height width 3"]) -> Leaves:
        """Returns the leaves of each image's quadtree, for adaptive patches."""
        if self.patch_embed != "adaptive":
            raise ValueError(f"patch_embed {self.patch_embed!r} makes a grid of tokens; only 'adaptive' has leaves")
        return self.embedding.leaves(images)

    @staticmethod
    def broadcast(token: Float[Array, "1 n width"], tokens: Float[Array, "batch tokens width"]):
        """Returns the learned tokens once for every example."""
        return jnp.broadcast_to(token.astype(tokens.dtype), (tokens.shape[0], *token.shape[1:]))
