"""LoRA: starts as its base, trains nothing but factors and head, and merges into what was trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.conftest import small_config
from tests.training.examples import experiment_of, flat, start, steps
from vit_jax.config import default_config, resolve
from vit_jax.errors import UserError
from vit_jax.models.lora import merge
from vit_jax.training.experiment import Experiment, parameter_bytes
from vit_jax.training.loop import Loop
from vit_jax.training.lora import lora_scale, with_lora
from vit_jax.training.run import train
from vit_jax.training.sharding import batch_sharding, place
from vit_jax.training.summary import parameter_table

RANK, ALPHA = 3, 12.0
SCALE = 4.0

KERNELS = {
    "patch_embed": (2, 2, 3, 4),
    "encoder/block_0/attention/query": (4, 2, 5),
    "encoder/block_0/attention/out": (2, 5, 4),
    "encoder/block_0/mlp/dense_0": (4, 7),
    "head": (4, 6),
}


def lora_config(**keys):
    config = default_config()
    config.lora.rank, config.lora.alpha = RANK, ALPHA
    config.lora.update(keys)
    return config


def base(dtype=jnp.float32) -> dict:
    """Returns a small tree of random kernels and biases."""
    rng, params = np.random.default_rng(0), {}
    for name, shape in KERNELS.items():
        group = params
        for part in name.split("/"):
            group = group.setdefault(part, {})
        group["kernel"] = jnp.asarray(rng.normal(size=shape), dtype)
        group["bias"] = jnp.asarray(rng.normal(size=shape[-1]), dtype)
    return params


def assert_same(one: dict, other: dict) -> None:
    one, other = flat(one), flat(other)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_factors_mirror_their_kernels_as_matrices():
    params = base()
    factors = flat(with_lora(jax.random.key(0), params, lora_config())["lora"])
    block = "encoder/block_0"
    assert {name: factor.shape for name, factor in factors.items()} == {
        f"{block}/attention/query/a": (4, RANK),
        f"{block}/attention/query/b": (RANK, 2, 5),
        f"{block}/attention/out/a": (2, 5, RANK),
        f"{block}/attention/out/b": (RANK, 4),
        f"{block}/mlp/dense_0/a": (4, RANK),
        f"{block}/mlp/dense_0/b": (RANK, 7),
    }
    for name, factor in factors.items():
        assert factor.any() == name.endswith("/a"), name


def test_first_factors_are_normal_with_the_variance_of_the_inputs():
    params = {"mlp": {name: {"kernel": jnp.zeros((400, 5))} for name in ("dense_0", "dense_1")}}
    factors = flat(with_lora(jax.random.key(0), params, lora_config(targets="mlp", rank=100))["lora"])
    one, other = factors["mlp/dense_0/a"], factors["mlp/dense_1/a"]
    np.testing.assert_allclose([one.std(), other.std()], 400**-0.5, rtol=0.02)
    assert np.abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.02


def test_merge_adds_the_product_of_the_matrices():
    params = with_lora(jax.random.key(0), base(), lora_config(targets="."))
    filled = jax.tree.map(lambda leaf: leaf + 0.1, params["lora"])
    merged = flat(merge({**params, "lora": filled}, SCALE))
    assert merged.keys() == flat(base()).keys()
    factors = flat(filled)
    for name, shape in KERNELS.items():
        a, b = factors[f"{name}/a"].reshape(-1, RANK), factors[f"{name}/b"].reshape(RANK, -1)
        inputs = shape[0] if name.endswith("query") else int(np.prod(shape[:-1]))
        assert (a.shape[0], b.shape[1]) == (inputs, np.prod(shape) // inputs)
        kernel = np.asarray(flat(base())[f"{name}/kernel"]).reshape(inputs, -1)
        expected = (kernel + SCALE * a @ b).reshape(shape)
        np.testing.assert_allclose(merged[f"{name}/kernel"], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(merged[f"{name}/bias"], flat(base())[f"{name}/bias"])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_start_is_the_base_to_the_bit(dtype):
    params = with_lora(jax.random.key(0), base(dtype), lora_config(targets="."))
    assert len(params["lora"]) == 3
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
    assert_same(merge(params, SCALE), base(dtype))


def test_without_factors_there_is_nothing_to_merge_or_to_add():
    params, config = base(), default_config()
    assert merge(params, 0.0) is params
    assert with_lora(jax.random.key(0), params, config) is params
    assert (lora_scale(config), lora_scale(lora_config())) == (0.0, SCALE)


def test_factors_of_another_config_are_not_dropped_silently():
    params = with_lora(jax.random.key(0), base(), lora_config())
    with pytest.raises(ValueError, match=r"lora\.rank 0"):
        merge(params, lora_scale(default_config()))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"targets": "atention"}, "lora.targets 'atention' matches no kernel; they are called encoder/"),
        ({"targets": "bias"}, "lora.targets 'bias' matches no kernel"),
        ({"targets": "("}, "lora.targets '(' is no regular expression"),
        ({"rank": 0}, "lora.alpha is set to 12.0, but lora.rank is 0: LoRA is off"),
        ({"rank": 0, "alpha": 16.0, "targets": "mlp"}, "lora.targets is set to 'mlp', but lora.rank is 0"),
    ],
)
def test_mistakes_are_one_line(keys, message):
    with pytest.raises(UserError) as error:
        with_lora(jax.random.key(0), base(), lora_config(**keys))
    assert message in str(error.value)
    assert len(str(error.value)) < 250


@pytest.mark.parametrize(("key", "value"), [("rank", -1), ("alpha", 0.0)])
def test_bounds(key, value):
    with pytest.raises(UserError, match=f"'lora.{key}' must be at least"):
        resolve(lora_config(**{key: value}))


@pytest.mark.parametrize("pattern", ["^(?!head/)", "lora", "encoder"])
def test_frozen_factors_are_refused(pattern):
    with pytest.raises(UserError, match="matches all of LoRA's factors"):
        experiment_of(lora__rank=2, optimizer__frozen=pattern)


# At this rate a few steps move the factors well away from zero.
KEYS = {"lora__rank": 2, "optimizer__lr": 0.05, "optimizer__weight_decay": 0.1}


@pytest.fixture(scope="module")
def lora() -> Experiment:
    return experiment_of(**KEYS)


@pytest.fixture(scope="module")
def bare() -> Experiment:
    """The same without LoRA."""
    return experiment_of()


@pytest.fixture(scope="module")
def trained(lora):
    """The first parameters, and the state after five steps."""
    return steps(lora, 5)[:2]


def batch_of(experiment: Experiment) -> dict[str, jax.Array]:
    return place(experiment.train_batches()(7).batch, batch_sharding(experiment.mesh))


def losses(experiment: Experiment, params: dict) -> np.ndarray:
    """Returns the loss of each example of a batch, from the logits of the experiment's evaluation."""
    variables = {"params": params, "batch_stats": {}}
    return np.asarray(experiment.eval_step(variables, batch_of(experiment))["loss"])


def test_the_model_starts_as_without_lora(lora, bare):
    adapted, plain = start(lora).params, start(bare).params
    assert_same({name: part for name, part in adapted.items() if name != "lora"}, plain)
    np.testing.assert_array_equal(losses(lora, adapted), losses(bare, plain))


def test_factors_and_head_are_trained_and_nothing_else(trained):
    before, state = trained
    before, after, average = flat(before), flat(state.params), flat(state.ema_params)
    for name, value in before.items():
        moved = not np.array_equal(value, after[name]), not np.array_equal(value, average[name])
        assert moved == (name.startswith(("lora/", "head/")),) * 2, name


def test_merged_parameters_are_what_was_trained(lora, bare, trained):
    """By evaluation, and by the loss of a further training step; the base alone is something else."""
    _, state = trained
    for params in (state.params, state.ema_params):
        merged = merge(params, lora_scale(lora.config))
        assert "lora" not in merged
        without = {name: part for name, part in params.items() if name != "lora"}
        live, exported, unadapted = losses(lora, params), losses(bare, merged), losses(bare, without)
        np.testing.assert_allclose(live, exported, atol=1e-6)
        assert np.abs(live - unadapted).max() > 1e-3
    merged = merge(state.params, lora_scale(lora.config))
    plain = bare.init().replace(params=merged, step=state.step, rng=state.rng)
    copies = jax.tree.map(jnp.copy, (state, plain))  # a step gives up its state
    further = [float(e.train_step(s, batch_of(e))[1]["loss"]) for e, s in zip((lora, bare), copies, strict=True)]
    np.testing.assert_allclose(*further, atol=1e-6)


def test_logits_of_the_merged_model(lora, trained):
    """Of the module itself, as an export applies it."""
    params, scale = trained[1].params, lora_scale(lora.config)
    images = lora.augment.normalisation(batch_of(lora)["image"])
    apply = jax.jit(lambda p, x: lora.model.apply({"params": p}, x))
    exported = apply(merge(params, scale), images)
    live = jax.jit(lambda p, x: lora.model.apply({"params": merge(p, scale)}, x))(params, images)
    np.testing.assert_allclose(exported, live, rtol=1e-6, atol=1e-6)
    bare = apply({name: part for name, part in params.items() if name != "lora"}, images)
    assert float(jnp.abs(exported - bare).max()) > 0.01


def test_optimizer_keeps_factors_and_head_alone(lora):
    state = lora.abstract_state()
    trained = sum(parameter_bytes(state.params[part]) for part in ("lora", "head"))
    assert 0 < parameter_bytes(state.opt_state) - 2 * trained <= 16
    table = {line.split()[0]: line.split()[-1] for line in parameter_table(state.params, lora.frozen)}
    assert table["trained"] == f"{trained // 4:,}"
    assert table["encoder/block_0/mlp/dense_0/kernel"] == "frozen"
    assert table["lora/encoder/block_0/mlp/dense_0/b"] != "frozen"


def test_an_explicit_pattern_says_what_is_frozen_instead():
    experiment = experiment_of(**KEYS, optimizer__frozen="^(?!lora/|encoder/block_1/norm)")
    before, state, _ = steps(experiment, 2)
    before, after = flat(before), flat(state.params)
    moved = {name.split("/")[0] for name in before if not np.array_equal(before[name], after[name])}
    assert moved == {"lora", "encoder"}
    assert np.array_equal(before["head/kernel"], after["head/kernel"])


@pytest.mark.slow
def test_sharded_and_in_micro_batches_it_learns_the_same(lora, monkeypatch):
    reference = [m["loss"] for m in steps(lora, 4)[2]]
    assert len({round(float(loss), 3) for loss in reference}) > 1
    monkeypatch.setattr("vit_jax.training.sharding.FSDP_MIN_SIZE", 32)
    keys = {**KEYS, "mesh__data": 1, "mesh__fsdp": 4, "mesh__tensor": 2, "train__accumulate": 2}
    _, state, metrics = steps(experiment_of(jax.devices(), **keys), 4)
    np.testing.assert_allclose([m["loss"] for m in metrics], reference, rtol=1e-5)
    path = ("encoder", "block_0", "mlp", "dense_0", "b")
    factor, moment = state.params["lora"], state.opt_state[0].mu["lora"]
    for part in path:
        factor, moment = factor[part], moment[part]
    assert factor.addressable_shards[0].data.size * 4 == factor.size
    assert factor.sharding == moment.sharding


@pytest.mark.slow
def test_a_continued_run_equals_the_unbroken_one_bit_for_bit(tmp_path, monkeypatch):
    """With everything of fine-tuning at once: LoRA, layer decay, an average, two of the classes."""
    config = small_config()
    config.lora.rank, config.optimizer.layer_decay, config.data.classes = 2, 0.75, "3, 5"
    whole, metrics = train(config, workdir=str(tmp_path / "whole"))
    save = Loop.save

    def save_and_stop(self, state, step):
        save(self, state, step)
        if step == 8:
            self.checkpoints.wait()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train(config, workdir=str(tmp_path / "broken"))
    state, again = train(config, workdir=str(tmp_path / "broken"))
    assert int(state.step) == 12
    assert state.params["head"]["bias"].shape == (2,)
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(one, other)
    assert again["eval/top1"] == metrics["eval/top1"]
    config.lora.rank = 4
    with pytest.raises(UserError, match=r"lora\.rank was 2, is 4"):
        train(config, workdir=str(tmp_path / "broken"))
