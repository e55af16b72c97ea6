"""The Vision Transformer as a Flax user writes it, from Flax's own layers: what this package's is measured against."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from vit_jax.layers.types import DTypeLike
from vit_jax.measurement.cases import Case
from vit_jax.measurement.peers import Sizes, peer_sizes
from vit_jax.measurement.programs import JaxProgram, inputs_of, work_of
from vit_jax.training.optimizer import make_optimizer
from vit_jax.training.sharding import batch_sharding, replicated


class Block(nn.Module):
    """A pre-norm encoder block (Dosovitskiy et al. 2021, eq. 2 and 3)."""

    heads: int
    mlp_dim: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        y = nn.LayerNorm(dtype=self.dtype)(x)
        x = x + nn.MultiHeadDotProductAttention(self.heads, dtype=self.dtype)(y, y)
        y = nn.LayerNorm(dtype=self.dtype)(x)
        y = nn.gelu(nn.Dense(self.mlp_dim, dtype=self.dtype)(y))
        return x + nn.Dense(x.shape[-1], dtype=self.dtype)(y)


class LinenViT(nn.Module):
    """A ViT with a cls token and learned positions; logits `[batch, classes]` are float32."""

    sizes: Sizes
    dtype: DTypeLike

    @nn.compact
    def __call__(self, images: Float[Array, "batch height width 3"]) -> Float[Array, "batch classes"]:
        sizes, patch = self.sizes, (self.sizes.patch,) * 2
        x = nn.Conv(sizes.width, patch, patch, padding="VALID", dtype=self.dtype)(images)
        x = x.reshape(x.shape[0], -1, sizes.width)
        cls = self.param("cls", nn.initializers.zeros, (1, 1, sizes.width))
        x = jnp.concatenate([jnp.broadcast_to(cls, (x.shape[0], 1, sizes.width)).astype(x.dtype), x], axis=1)
        positions = self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        x = x + positions.astype(x.dtype)
        for _ in range(sizes.depth):
            x = Block(sizes.heads, sizes.mlp_dim, self.dtype)(x)
        x = nn.LayerNorm(dtype=self.dtype)(x)
        return nn.Dense(sizes.classes, dtype=self.dtype)(x[:, 0]).astype(jnp.float32)


def linen_program(case: Case, mode: str, label: str) -> JaxProgram:
    """Returns the plain model's forward pass, or its training step with the config's optimizer and a cross-entropy.

    Both take float images that lie on the devices; parameters are whole on each device, the batch is split.

    Raises:
      UserError: the case is not one that a plain ViT and a plain step stand for.
    """
    sizes, experiment = peer_sizes(case, mode), case.experiment()
    model = LinenViT(sizes, jnp.dtype(experiment.model.dtype))
    whole, layout = replicated(experiment.mesh), batch_sharding(experiment.mesh)
    size, count = (sizes.image, sizes.image, 3), case.config.train.batch_size
    images, labels = jax.ShapeDtypeStruct((count, *size), jnp.float32), jax.ShapeDtypeStruct((count,), jnp.int32)

    def variables() -> dict:
        return model.init(jax.random.key(case.config.seed), jnp.zeros((1, *size)))

    make = functools.partial(JaxProgram, label, "linen", case, work_of(experiment, mode))
    if mode == "infer":
        forward = jax.jit(model.apply, in_shardings=(whole, layout))
        return make(forward, jax.jit(variables, out_shardings=whole), inputs_of(images, layout), steps=False)
    optimizer, _ = make_optimizer(case.config, experiment.clock)

    def start():
        parameters = variables()
        return parameters, optimizer.init(parameters)

    def step(state, batch):
        def loss(parameters):
            logits = model.apply(parameters, batch["image"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

        parameters, opt_state = state
        value, gradients = jax.value_and_grad(loss)(parameters)
        updates, opt_state = optimizer.update(gradients, opt_state, parameters)
        return (optax.apply_updates(parameters, updates), opt_state), value

    jitted = jax.jit(step, in_shardings=(whole, layout), out_shardings=whole, donate_argnums=0)
    inputs = inputs_of({"image": images, "label": labels}, layout)
    return make(jitted, jax.jit(start, out_shardings=whole), inputs, steps=True)
