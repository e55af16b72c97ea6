"""Layer-wise learning-rate decay: which factor each name has, and that it scales whole updates of every optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from vit_jax.config import default_config
from vit_jax.duration import Clock
from vit_jax.models.registry import create_model
from vit_jax.training.frozen import split
from vit_jax.training.optimizer import layer_factors, make_optimizer

CLOCK = Clock(examples_per_epoch=1000, batch_size=10, total_steps=100)


def initial(name: str = "vit_ti16", **fields) -> dict:
    """Returns the parameters of a two-block model, random ones, so that none is zero."""
    sizes = {"patch_size": (4, 4), "width": 8, "depth": 2, "heads": 2, "mlp_dim": 8, "num_classes": 3}
    model = create_model(name, **sizes | fields)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)


@pytest.fixture(scope="module")
def params() -> dict:
    """Those of a ViT with everything that may stand before and after the blocks."""
    return initial("vit_distilled", registers=2, pre_norm=True)


BEFORE, FIRST, SECOND, AFTER = 0.125, 0.25, 0.5, 1.0

EXPECTED = {
    "patch_embed/kernel": BEFORE,
    "position_embed/embedding": BEFORE,
    "cls": BEFORE,
    "dist": BEFORE,
    "registers": BEFORE,
    "pre_norm/scale": BEFORE,
    "encoder/block_0/norm_0/scale": FIRST,
    "encoder/block_0/attention/query/kernel": FIRST,
    "encoder/block_1/mlp/dense_1/bias": SECOND,
    "norm/scale": AFTER,
    "head/kernel": AFTER,
    "head/bias": AFTER,
    "head_dist/kernel": AFTER,
}


def test_factors_of_a_vit_with_two_blocks(params):
    factors = layer_factors(flatten_dict(params, sep="/"), 0.5)
    assert {name: factors[name] for name in EXPECTED} == EXPECTED
    assert factors.keys() == flatten_dict(params, sep="/").keys()
    for block, factor in (("block_0", FIRST), ("block_1", SECOND)):
        assert {value for name, value in factors.items() if f"/{block}/" in name} == {factor}
    elsewhere = {name.split("/")[0]: value for name, value in factors.items() if "block_" not in name}
    assert elsewhere == {name.split("/")[0]: value for name, value in EXPECTED.items() if "block_" not in name}


@pytest.mark.parametrize("pool", ["map", "sequence"])
def test_factors_of_poolings_and_hidden_layers(pool):
    names = flatten_dict(initial(pool=pool, pre_logits=4), sep="/")
    factors = layer_factors(names, 0.5)
    after = [name for name in names if name.startswith((f"{pool}_pool/", "pre_logits/", "head/", "norm/"))]
    assert len({name.split("/")[0] for name in after}) == 4
    assert {factors[name] for name in after} == {AFTER}


def test_blocks_are_counted_in_natural_order_and_over_several_stacks():
    names = [f"encoder/block_{i}/mlp/kernel" for i in range(12)]
    assert list(layer_factors(names, 0.5).values()) == [0.5 ** (12 - i) for i in range(12)]
    names = [f"stage_{stage}/block_{block}/kernel" for stage, block in ((0, 0), (0, 1), (1, 0), (10, 0), (2, 0))]
    assert list(layer_factors(names, 0.5).values()) == [0.5**5, 0.5**4, 0.5**3, 0.5, 0.5**2]


def test_a_factor_of_lora_belongs_to_the_layer_of_its_kernel():
    names = ["encoder/block_0/mlp/dense_0/kernel", "encoder/block_1/mlp/dense_0/kernel", "head/kernel", "cls"]
    factors = layer_factors([*names, "lora/encoder/block_0/mlp/dense_0/a", "lora/head/b", "lora/patch_embed/a"], 0.5)
    assert factors["lora/encoder/block_0/mlp/dense_0/a"] == factors["encoder/block_0/mlp/dense_0/kernel"] == FIRST
    assert factors["lora/head/b"] == AFTER
    assert factors["lora/patch_embed/a"] == BEFORE


def updates_of(params: dict, name: str, decay: float | None, trained: dict | None = None) -> dict[str, np.ndarray]:
    """Returns the second updates, by name, of an optimizer with weight decay, for fixed gradients."""
    config = default_config()
    config.optimizer.name, config.optimizer.lr, config.optimizer.weight_decay = name, 0.1, 0.5
    config.optimizer.layer_decay = decay
    config.train.clip_norm = 1.0
    config.schedule.name = "constant"
    optimizer, _ = make_optimizer(config, CLOCK, params)
    trained = params if trained is None else trained
    gradients = jax.tree.map(jnp.cos, trained)
    state = optimizer.init(trained)
    for _ in range(2):
        updates, state = optimizer.update(gradients, state, trained)
    return flatten_dict(updates, sep="/")


@pytest.mark.parametrize("name", ["adamw", "lamb", "sgd", "muon"])
def test_whole_updates_are_scaled_whatever_the_optimizer(params, name):
    plain, scaled = (updates_of(params, name, decay) for decay in (None, 0.5))
    factors = layer_factors(plain, 0.5)
    assert set(factors.values()) == {BEFORE, FIRST, SECOND, AFTER}
    for parameter, update in plain.items():
        assert np.abs(update).max() > 0
        np.testing.assert_allclose(scaled[parameter], factors[parameter] * update, rtol=1e-6, err_msg=parameter)


def test_frozen_blocks_count(params):
    """With the last block frozen, the first is still the last but one."""
    trained, _ = split(params, "block_1")
    plain, scaled = (updates_of(params, "adamw", decay, trained) for decay in (None, 0.5))
    name = "encoder/block_0/mlp/dense_0/kernel"
    np.testing.assert_allclose(scaled[name], FIRST * plain[name], rtol=1e-6)


def test_it_needs_the_parameters():
    config = default_config()
    config.optimizer.layer_decay = 0.5
    with pytest.raises(ValueError, match="needs the parameters"):
        make_optimizer(config, CLOCK)


def test_what_a_stage_does_first_belongs_to_its_first_block():
    stage = "encoder/stage_{}"
    blocks = [f"{stage.format(i)}/block_{j}/mlp/kernel" for i in (0, 1) for j in (0, 1)]
    names = ["stem/kernel", *blocks, f"{stage.format(1)}/downsample/kernel", "head/kernel"]
    factors = layer_factors(names, 0.5)
    assert list(factors.values()) == [0.5**power for power in (5, 4, 3, 2, 1, 2, 0)]
