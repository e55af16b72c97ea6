"""What is timed: the real step, the forward pass, and the plain Flax model beside them."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.measurement.examples import small_cases
from vit_jax.errors import UserError
from vit_jax.measurement.flops import products_of
from vit_jax.measurement.linen import LinenViT, linen_program
from vit_jax.measurement.peers import peer_cases, peer_sizes
from vit_jax.measurement.programs import own_program
from vit_jax.measurement.rate import matmul_rate
from vit_jax.measurement.speed import programs_of


def parameters(tree) -> int:
    """Returns the number of scalars in a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def products(program) -> float:
    """Returns the floating-point operations of one call, traced only."""
    arguments = jax.eval_shape(program.start), jax.eval_shape(program.inputs)
    return products_of(program.function.trace(*arguments).jaxpr).flops


@pytest.mark.parametrize("make", [own_program, linen_program])
def test_training_goes_on_from_step_to_step(make):
    """State is donated: a call that did not take the last one's result would fail."""
    program = make(small_cases()[0], "train", "x")
    facts = program.prepare()
    assert facts.compile_seconds > 0
    assert facts.hardware.flops == products(program)
    assert facts.peak_bytes > 4 * parameters(jax.eval_shape(program.start))
    with program.running() as (call, wait):
        for _ in range(3):
            call()
        wait()
    assert program.work.images == 8
    assert program.work.tokens == 5


def test_own_step_is_that_of_a_run():
    (case,) = small_cases(dtype="bfloat16", remat="full")
    program = own_program(case, "train", "x")
    experiment = case.experiment()
    state = program.start()
    assert jax.tree.structure(state) == jax.tree.structure(experiment.abstract_state())
    new, metrics = program.function(state, program.inputs())
    assert int(new.step) == 1
    assert np.isfinite(float(metrics["loss"]))


def test_inference_gives_logits():
    program = own_program(small_cases()[0], "infer", "x")
    logits = program.function(program.start(), program.inputs())
    assert logits.shape == (8, 5)
    assert program.inputs().dtype == jnp.float32
    assert products(program) == program.work.products.flops


def test_hardware_products_of_a_step_follow_the_remat():
    none, dots, full = (products(own_program(case, "train", "x")) for case in small_cases(remat="none,dots,full"))
    assert none < dots < full


def test_linen_is_the_same_model():
    """Parameters and products; what is computed differs by initial values alone."""
    (case,) = small_cases()
    ours, theirs = case.experiment(), linen_program(case, "infer", "x")
    assert parameters(jax.eval_shape(theirs.start)) == parameters(ours.abstract_state().params)
    own = own_program(case, "infer", "x")
    assert theirs.work == own.work
    assert products(theirs) == products(own)
    assert theirs.function(theirs.start(), theirs.inputs()).shape == (8, 5)


def test_linen_step_has_the_same_products():
    (case,) = small_cases()
    ours, theirs = (products(make(case, "train", "x")) for make in (own_program, linen_program))
    assert theirs == ours


def test_linen_computes_in_the_type_of_the_case():
    (case,) = small_cases(dtype="bfloat16")
    model = LinenViT(peer_sizes(case, "infer"), jnp.bfloat16)
    images = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    jaxpr = str(jax.make_jaxpr(lambda: model.init_with_output(jax.random.key(0), jnp.zeros(images.shape)))())
    assert "bf16[1,5,16]" in jaxpr


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([("model.pool", "gap")], "model.pool is 'gap', not 'cls'"),
        ([("model.registers", "2")], "model.registers is 2, not 0"),
        ([("train.accumulate", "2")], "train.accumulate is 2"),
        ([("augment.preset", "light1")], "plain training steps; augment."),
        ([("optimizer.name", "muon")], "adamw or sgd, not muon"),
        ([("optimizer.frozen", "^patch")], "optimizer.frozen is '^patch'"),
    ],
)
def test_peers_are_plain(keys, message):
    (case,) = small_cases(keys, batch_size="16")
    with pytest.raises(UserError) as raised:
        programs_of([case], "train", ["linen"])
    assert message in str(raised.value)


def test_a_forward_pass_does_not_mind_the_step():
    (case,) = small_cases([("train.accumulate", "2"), ("optimizer.name", "muon")])
    assert peer_sizes(case, "infer").width == 16


def test_other_architectures_have_no_peer():
    from vit_jax.measurement.cases import cases_of

    cases = cases_of({"model": "mixer_s16", "depth": "1", "image_size": "32", "batch_size": "8"})
    with pytest.raises(UserError, match="mixer_s16 is another architecture"):
        programs_of(cases, "train", ["linen"])


def test_a_peer_is_measured_once_for_what_it_does_not_know():
    cases = small_cases(remat="none,full", dtype="float32,bfloat16")
    assert [case.dtype for case in peer_cases(cases)] == ["float32", "bfloat16"]
    labels = [program.label for program in programs_of(cases, "train", ["linen"])]
    assert labels[4:] == ["linen float32", "linen bfloat16"]


def test_peers_that_are_not_there(monkeypatch):
    (case,) = small_cases()
    with pytest.raises(UserError, match="did you mean 'timm'"):
        programs_of([case], "train", ["tim"])
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="--against=timm needs PyTorch and timm"):
        programs_of([case], "train", ["timm"])


def test_rate_of_products_counts_all_devices():
    assert matmul_rate("bfloat16", jax.devices()[:2], sizes=(32,)) > 0
