"""Frozen parameters: not moved, not differentiated, not kept by the optimizer, and in no norm."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from tests.training.examples import experiment_of, flat, steps
from vit_jax.errors import UserError
from vit_jax.measurement.flops import product_flops
from vit_jax.training.experiment import Experiment, parameter_bytes
from vit_jax.training.frozen import joined, split
from vit_jax.training.summary import parameter_table

PROBE = "^(?!head/)"


@pytest.fixture(scope="module")
def probe() -> Experiment:
    """A linear probe with weight decay and an average."""
    return experiment_of(optimizer__frozen=PROBE)


@pytest.fixture(scope="module")
def full() -> Experiment:
    return experiment_of()


def test_frozen_parameters_and_their_average_stay_to_the_bit(probe):
    before, state, _ = steps(probe, 5)
    before, after, average = flat(before), flat(state.params), flat(state.ema_params)
    assert before.keys() == after.keys() == average.keys()
    for name, value in before.items():
        moved = not np.array_equal(value, after[name]), not np.array_equal(value, average[name])
        assert moved == (name.startswith("head/"),) * 2, name


def test_optimizer_keeps_nothing_of_what_is_frozen(probe, full):
    sizes = [parameter_bytes(experiment.abstract_state().opt_state) for experiment in (probe, full)]
    params = probe.abstract_state().params
    head, whole = parameter_bytes(params["head"]), parameter_bytes(params)
    counters = sizes[0] - 2 * head
    assert 0 < counters <= 16
    assert sizes[1] == 2 * whole + counters


def flops(experiment: Experiment) -> float:
    return product_flops(experiment.train_step, experiment.abstract_state(), experiment.abstract_batch()).flops


def test_the_backward_pass_ends_at_the_first_layer_that_is_trained(probe, full):
    variables, batch = probe.abstract_state().evaluated, probe.abstract_batch()
    forward = product_flops(probe.eval_step, variables, batch).flops
    half = flops(experiment_of(optimizer__frozen="^(patch_embed|cls|position|encoder/block_0)"))
    assert 0.9 * forward < flops(probe) < 1.15 * forward
    assert 1.2 * flops(probe) < half < 0.85 * flops(full)


@pytest.mark.parametrize(("remat", "scan_layers"), [("full", False), ("none", True)])
def test_remat_and_scan_are_not_differentiated_either(remat, scan_layers):
    keys = {"model__remat": remat, "model__scan_layers": scan_layers}
    counts = [flops(experiment_of(optimizer__frozen=pattern, **keys)) for pattern in (PROBE, None)]
    assert counts[0] < 0.5 * counts[1]


SGD = {"optimizer__name": "sgd", "optimizer__lr": 1.0, "optimizer__momentum": 0.0, "optimizer__weight_decay": 0.0}
SGD |= {"schedule__name": "constant", "schedule__warmup": "0 steps"}


def norm(before: dict, after: dict, part: str = "") -> float:
    """Returns the norm of a difference, over the names that begin so."""
    pairs = [(before[name], after[name]) for name in before if name.startswith(part)]
    return float(np.sqrt(sum(((a - b).astype(np.float64) ** 2).sum() for a, b in pairs)))


def test_norms_and_clipping_leave_out_what_is_frozen():
    """SGD with rate 1 shows the gradients. The probe's norm is that of the head's part of the whole gradient."""
    before, state, metrics = steps(experiment_of(**SGD), 1)
    before, after = flat(before), flat(state.params)
    whole, head = norm(before, after), norm(before, after, "head/")
    np.testing.assert_allclose(metrics[0]["gradient_norm"], whole, rtol=1e-4)
    assert head < 0.95 * whole
    clip = 0.5 * (head + whole)  # clips the whole gradient, and would clip the head's if the rest counted
    _, state, metrics = steps(experiment_of(**SGD, optimizer__frozen=PROBE, train__clip_norm=clip), 1)
    np.testing.assert_allclose(metrics[0]["gradient_norm"], head, rtol=1e-4)
    np.testing.assert_allclose(norm(before, flat(state.params)), head, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", [PROBE, "block_0|head"])
def test_muon_trains_what_is_left(pattern):
    """A probe leaves none of the matrices that Muon is for."""
    before, state, _ = steps(experiment_of(optimizer__frozen=pattern, optimizer__name="muon"), 2)
    before, after = flat(before), flat(state.params)
    trained = flat(split(unflatten_dict(before, sep="/"), pattern)[0])
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved == trained.keys()


@pytest.mark.slow
def test_sharded_and_in_micro_batches_it_learns_the_same(monkeypatch):
    """The optimizer's state follows the parameters that are trained by name."""
    keys = {"optimizer__frozen": "mlp/dense_0|bias$", "optimizer__lr": 0.01, "schedule__warmup": "0 steps"}
    reference = [m["loss"] for m in steps(experiment_of(**keys), 3)[2]]
    monkeypatch.setattr("vit_jax.training.sharding.FSDP_MIN_SIZE", 64)
    sharded = experiment_of(jax.devices(), **keys, mesh__data=1, mesh__fsdp=8, train__accumulate=4)
    before, state, metrics = steps(sharded, 3)
    np.testing.assert_allclose([m["loss"] for m in metrics], reference, rtol=1e-5)
    mlp, moments = state.params["encoder"]["block_0"]["mlp"], state.opt_state[0].mu["encoder"]["block_0"]["mlp"]
    assert moments.keys() == {"dense_1"}
    for tree in (mlp, moments):
        kernel = tree["dense_1"]["kernel"]
        assert kernel.addressable_shards[0].data.size * 8 == kernel.size
    frozen = mlp["dense_0"]["kernel"]
    assert frozen.addressable_shards[0].data.size * 8 == frozen.size
    np.testing.assert_array_equal(frozen, before["encoder"]["block_0"]["mlp"]["dense_0"]["kernel"])


TREE = {"encoder": {"block_0": {"kernel": 1, "bias": 2}}, "head": {"kernel": 3}, "cls": 4}


@pytest.mark.parametrize(
    ("pattern", "trained"),
    [
        (None, {"encoder/block_0/kernel", "encoder/block_0/bias", "head/kernel", "cls"}),
        (PROBE, {"head/kernel"}),
        ("kernel$", {"encoder/block_0/bias", "cls"}),
        ("block_0/k|^cls", {"encoder/block_0/bias", "head/kernel"}),
    ],
)
def test_split_and_joined(pattern, trained):
    parts = split(TREE, pattern)
    assert flatten_dict(parts[0], sep="/").keys() == trained
    assert joined(*parts) == TREE


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "optimizer.frozen '(' is no regular expression: missing ), unterminated subpattern at position 0"),
        ("blok_0", "optimizer.frozen 'blok_0' matches no parameter; they are called cls, encoder/block_1/"),
        ("", "optimizer.frozen '' matches every parameter: nothing would be trained"),
        ("encoder|norm|head|embed|cls", "matches every parameter"),
    ],
)
def test_a_pattern_that_cannot_be_meant_is_one_line(pattern, message):
    with pytest.raises(UserError) as error:
        experiment_of(optimizer__frozen=pattern)
    assert message in str(error.value)
    assert len(str(error.value)) < 250


def test_the_summary_counts_what_is_trained_and_what_is_not(probe):
    params = probe.abstract_state().params
    table = [line.split() for line in parameter_table(params, probe.frozen)]
    counts = {row[0]: int(row[1].replace(",", "")) for row in table[-3:]}
    assert list(counts) == ["total", "trained", "frozen"]
    assert counts["trained"] == sum(leaf.size for leaf in jax.tree.leaves(params["head"]))
    assert counts["total"] == counts["trained"] + counts["frozen"]
    marked = {row[0]: row[-1] == "frozen" for row in table[:-3]}
    assert [name for name, frozen in marked.items() if not frozen] == ["head/bias", "head/kernel"]
    assert parameter_table(params, "dense_1/kernel")[-4].endswith(f"{16 * 32:,} frozen")
    assert not any("frozen" in line or "trained" in line for line in parameter_table(params))
