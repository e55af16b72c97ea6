"""DeiT with a distillation token (Touvron et al. 2021, "Training data-efficient image transformers")."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.dense import Dense
from vit_jax.models.vit import VisionTransformer


class DistilledVisionTransformer(VisionTransformer):
    """A ViT with a second learned token beside cls, `dist`, and a head for each of the two (section 3).

    Evaluation takes the mean of the two heads' logits; `token_logits` returns them apart, as distillation needs them.

    Attributes:
      dist_classifier: the distillation token has a head too. Without it the cls token alone classifies, as in Hugging
        Face's `DeiTForImageClassification`.
    """

    dist_classifier: bool = True

    def setup(self):
        super().setup()
        if self.pool != "cls" or self.pool_norm or (self.dist_classifier and self.hidden_width):
            raise ValueError(
                "a distilled model classifies by its cls and dist tokens: pool 'cls' and linear heads only"
            )
        if self.num_classes and self.dist_classifier:
            self.dist_head = Dense(
                self.num_classes,
                name="head_dist",
                kernel_init=nn.initializers.zeros,
                bias_init=nn.initializers.constant(self.head_bias),
                out_dtype="float32",
                dtype=self.dtype,
                param_dtype=self.param_dtype,
            )

    @property
    def class_token_names(self) -> tuple[str, ...]:
        """Names of the learned tokens that stand before the registers and the patches."""
        return ("cls", "dist")

    def __call__(
        self, images: Float[Array, "batch height width 3"], train: bool = False
    ) -> Float[Array, "batch classes"]:
        """Returns the mean of both heads' logits, float32; without classes the embedding."""
        if not (self.num_classes and self.dist_classifier):
            return super().__call__(images, train)
        cls, dist = self.token_logits(images, train)
        return (cls + dist) / 2

    def token_logits(
        self, images: Float[Array, "batch height width 3"], train: bool = False
    ) -> tuple[Float[Array, "batch classes"], Float[Array, "batch classes"]]:
        """Returns the logits of the cls token's head and of the distillation token's.

        Raises:
          ValueError: the model has not both heads.
        """
        if not (self.num_classes and self.dist_classifier):
            raise ValueError("token_logits needs both heads: num_classes above 0 and dist_classifier=True")
        tokens = self.features(images, train)
        return self.head_dense(tokens[:, 0]), self.dist_head(tokens[:, 1])

    def pooled(
        self, tokens: Float[Array, "batch tokens width"], sizes: Float[Array, "batch patches"] | None = None
    ) -> Float[Array, "batch width"]:
        """Returns the mean of the two tokens, as timm does; the cls token where it alone classifies."""
        if not self.dist_classifier:
            return tokens[:, 0]
        return tokens[:, :2].astype(jnp.float32).mean(axis=1)
