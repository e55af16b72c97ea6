"""From pixels to tokens by patches whose size the image's content chooses (Ronen et al. 2023, "Quadformer")."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vit_jax.layers.patch_embed import PlacedEmbed, in_patches
from vit_jax.layers.quadtree import Leaves, Quadtree, shrinking_errors, shrunken
from vit_jax.layers.token_merging import taken


class AdaptiveEmbed(PlacedEmbed):
    """Projects a fixed number of patches of several sizes to tokens: small ones where the image has detail.

    As in "Vision Transformers with Mixed-Resolution Tokenization" (Ronen et al. 2023, section 3), the patches are the
    leaves of a quadtree with as many leaves for every image, all are shrunk to the smallest size and embedded by one
    kernel, and detail is what that shrinking loses (their "pixel-blur" scorer; see `vit_jax.layers.quadtree`). A
    leaf's position is the mean of those of the grid of smallest patches that it covers, and leaves larger than these
    have an embedding of their size beside it (`scale`, one row a size, zero at first).

    Maps `[batch, height, width, channels]` to `[batch, patch_tokens, width]`, by the upper left corners of the leaves,
    row by row. Where all leaves are of the smallest size it equals `PatchEmbed`.

    Attributes:
      patch_size: of the smallest leaves.
      patch_scales: how many sizes there are: 3 are patches, 2x and 4x as large each way.
      patch_tokens: the number of leaves; None is half of what the smallest patches would be, or the next lower number
        that can be.

    Raises:
      ValueError: the image is not made of whole patches of the largest size, or of so many leaves.
    """

    patch_scales: int = 3
    patch_tokens: int | None = None

    def position_grid(self, image_shape: tuple[int, int]) -> tuple[int, int]:
        """Returns the rows and columns of the position embeddings: those of the smallest patches."""
        return self.grid(image_shape)

    def tree(self, image_shape: tuple[int, int]) -> Quadtree:
        """Returns the tree over images of a height and width."""
        if self.patch_scales < 2:
            raise ValueError(f"patch_scales must be at least 2, not {self.patch_scales}")
        return Quadtree(self.grid(image_shape), self.patch_scales)

    def count(self, tree: Quadtree) -> int:
        """Returns the number of leaves."""
        if self.patch_tokens is not None:
            return self.patch_tokens
        return tree.roots + max(tree.patches // 2 - tree.roots, 0) // 3 * 3

    def leaves(self, images: Float[Array, "batch height_px width_px channels"]) -> Leaves:
        """Returns the leaves of each image's tree."""
        tree = self.tree(images.shape[1:3])
        return self._leaves(shrunken(images.astype(jnp.float32), self.patch_scales), tree)

    def _leaves(self, pyramid: list[Float[Array, "..."]], tree: Quadtree) -> Leaves:
        return tree.leaves(jax.lax.stop_gradient(shrinking_errors(pyramid, self.patch_size)), self.count(tree))

    def boxes(self, leaves: Leaves, image_shape: tuple[int, int]) -> Int[Array, "batch tokens 4"]:
        """Returns which pixels the leaves cover: top, left, height and width."""
        return jnp.asarray(self.tree(image_shape).boxes * np.array(self.patch_size * 2, np.int32))[leaves.nodes]

    @nn.compact
    def placed(
        self, images: Float[Array, "batch height_px width_px channels"], positions: Float[Array, "1 places width"]
    ) -> tuple[Float[Array, "batch tokens width"], tuple[int, int], Float[Array, "batch tokens 2"]]:
        """Returns the tokens with their positions, the grid of smallest patches, and row and column of each token: of
        the middle of its leaf, which may lie between those of the grid.

        Args:
          positions: of the grid of smallest patches, row by row.
        """
        tree = self.tree(images.shape[1:3])
        pyramid = shrunken(images.astype(jnp.float32), self.patch_scales)
        nodes = self._leaves(pyramid, tree).nodes
        patches = jnp.concatenate([in_patches(level, self.patch_size) for level in pyramid[::-1]], axis=1)
        tokens = self.embedded(taken(patches, nodes), *self.weights(self.patch_size, images.shape[-1]))
        middles = (tree.boxes[:, :2] + (tree.boxes[:, 2:] - 1) / 2).astype(np.float32)
        return tokens + self.of_nodes(positions, tree)[nodes], tree.grid, jnp.asarray(middles)[nodes]

    def of_nodes(self, positions: Float[Array, "1 places width"], tree: Quadtree) -> Float[Array, "nodes width"]:
        """Returns what every node of the tree adds to its token: the mean of its positions, and its size's row."""
        scale = self.param("scale", nn.initializers.zeros, (tree.scales - 1, self.width), self.param_dtype)
        maps = shrunken(positions.astype(jnp.float32).reshape(1, *tree.grid, -1), tree.scales)
        rows = [maps[0], *(x + row.astype(jnp.float32) for x, row in zip(maps[1:], scale, strict=True))]
        return jnp.concatenate([x.reshape(-1, self.width) for x in rows[::-1]], axis=0)
