"""What happens to a batch on the device, inside the jitted step: flip, normalisation, mixup, cutmix."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """Pixels in [0, 1], less `mean`, over `std`, channel by channel."""

    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __call__(self, images: Array) -> Float[Array, "batch h w 3"]:
        scale = 1 / (255 * jnp.array(self.std, jnp.float32))
        return images.astype(jnp.float32) * scale - jnp.array(self.mean, jnp.float32) / jnp.array(self.std, jnp.float32)

    def invert(self, images: Float[Array, "batch h w 3"]) -> Float[Array, "batch h w 3"]:
        """Returns pixels in [0, 1]."""
        return images * jnp.array(self.std) + jnp.array(self.mean)


@dataclasses.dataclass(frozen=True)
class DeviceAugment:
    """Random flip and mixing of whole batches.

    Attributes:
      mixup: a of the Beta(a, a) whose draw blends the batch with itself in reverse order (Zhang et al. 2018); one draw
        a batch, the larger of it and its complement, as in Google's recipes.
      cutmix: a of the Beta(a, a) that sets the share of the image outside the pasted box (Yun et al. 2019).
        With both, each batch takes one of the two with equal chance.
    """

    num_classes: int
    normalisation: Normalisation = Normalisation()
    flip: bool = False
    mixup: float = 0.0
    cutmix: float = 0.0

    def __call__(
        self, key: jax.Array, images: Array, labels: Int[Array, "batch"], mask: Bool[Array, "batch"] | None = None
    ):
        """Returns float32 images `[batch, h, w, 3]` and label weights `[batch, classes]` that sum to 1.

        A row whose partner in mixing is masked keeps its own pixels and label.
        """
        flip_key, mix_key = jax.random.split(key)
        if self.flip:
            flipped = jax.random.bernoulli(flip_key, shape=(images.shape[0], 1, 1, 1))
            images = jnp.where(flipped, images[:, :, ::-1], images)
        images, labels = self.normalisation(images), jax.nn.one_hot(labels, self.num_classes)
        if not (self.mixup or self.cutmix):
            return images, labels
        mixed = self.mixed(mix_key, images, labels)
        if mask is None:
            return mixed
        partner = mask[::-1]
        return jnp.where(partner[:, None, None, None], mixed[0], images), jnp.where(partner[:, None], mixed[1], labels)

    def mixed(self, key: jax.Array, images: Float[Array, "b h w c"], labels: Float[Array, "b classes"]):
        """Returns the batch mixed with itself in reverse order, by mixup or cutmix."""
        choice_key, mix_key = jax.random.split(key)
        if not self.cutmix:
            return mixup(mix_key, images, labels, self.mixup)
        if not self.mixup:
            return cutmix(mix_key, images, labels, self.cutmix)
        return jax.lax.cond(
            jax.random.bernoulli(choice_key),
            lambda: mixup(mix_key, images, labels, self.mixup),
            lambda: cutmix(mix_key, images, labels, self.cutmix),
        )


def mixup(key: jax.Array, images: Float[Array, "b h w c"], labels: Float[Array, "b classes"], alpha: float):
    """Returns λ x + (1-λ) x' and the labels likewise; x' is the batch in reverse order, λ ≥ 1/2."""
    share = jax.random.beta(key, alpha, alpha)
    share = jnp.maximum(share, 1 - share)
    return share * images + (1 - share) * images[::-1], share * labels + (1 - share) * labels[::-1]


def cutmix(key: jax.Array, images: Float[Array, "b h w c"], labels: Float[Array, "b classes"], alpha: float):
    """Returns the images with a box of the reversed batch pasted in, labels weighted by the area that was kept."""
    share_key, place_key = jax.random.split(key)
    inside = box_mask(place_key, images.shape[1:3], jax.random.beta(share_key, alpha, alpha))
    kept = 1 - jnp.minimum(inside.mean(), 1)  # the mean of ones can be rounded to just above 1
    images = jnp.where(inside[None, :, :, None], images[::-1], images)
    return images, kept * labels + (1 - kept) * labels[::-1]


def box_mask(key: jax.Array, shape: tuple[int, int], kept: Float[Array, ""]) -> Array:
    """Returns bool `[h, w]`, True in a box of about (1-kept) of the area, wherever it fits (to whole pixels)."""
    height, width = shape
    side = jnp.sqrt(1 - kept)
    box_height, box_width = jnp.round(side * height), jnp.round(side * width)
    u_top, u_left = jax.random.uniform(key, (2,))
    top = jnp.floor(u_top * (height - box_height + 1))
    left = jnp.floor(u_left * (width - box_width + 1))
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    return (rows >= top) & (rows < top + box_height) & (columns >= left) & (columns < left + box_width)
