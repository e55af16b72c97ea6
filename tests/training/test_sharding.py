"""Layouts: the rules of every architecture, what a device holds, and what a compiled step moves between devices."""

import re
import types

import jax
import jax.numpy as jnp
import pytest

from tests.measurement.examples import small_cases
from vit_jax.errors import UserError
from vit_jax.measurement.cases import cases_of
from vit_jax.measurement.collectives import Traffic, traffic
from vit_jax.measurement.memory import program_memory
from vit_jax.models.registry import create_model
from vit_jax.training.experiment import Experiment, parameter_bytes
from vit_jax.training.optimizer import path_name
from vit_jax.training.sharding import AXES, device_bytes, partition, state_shardings
from vit_jax.training.summary import cost_lines, parameter_table

BATCH, TOKENS = 40, 5  # no other axis is of these lengths
"""No other axis of the small model has the length of the batch, or of the batch's tokens."""


def mesh(**sizes: int) -> types.SimpleNamespace:
    """Returns what the rules need of a mesh."""
    return types.SimpleNamespace(shape={axis: sizes.get(axis, 1) for axis in AXES})


def layouts(model: str, size: int = 224, **sizes: int) -> dict[str, tuple]:
    """Returns how every parameter of a model is split."""
    shape = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    params = jax.eval_shape(create_model(model).init, jax.random.key(0), shape)["params"]
    named = {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    return {name: tuple(partition(name, shape, mesh(**sizes))) for name, shape in named.items()}


def split_over_tensor(model: str, size: int = 224) -> dict[str, int]:
    """Returns the axis that is split over `tensor`, by the last parts of a name."""
    found = layouts(model, size, tensor=2)
    return {"/".join(name.split("/")[-3:]): spec.index("tensor") for name, spec in found.items() if "tensor" in spec}


ATTENTION = {f"attention/{part}/kernel": 1 for part in ("query", "key", "value")} | {"attention/out/kernel": 0}
ATTENTION |= {f"attention/{part}/bias": 0 for part in ("query", "key", "value")}
MLP = {"mlp/dense_0/kernel": 1, "mlp/dense_0/bias": 0, "mlp/dense_1/kernel": 0}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("vit_s16", ATTENTION | MLP),
        ("deit_s16", ATTENTION | MLP),
        ("convnextv2_tiny", MLP | {"mlp/grn/scale": 0, "mlp/grn/bias": 0}),
        ("mixer_s16", {f"{part}_mixing/{key[4:]}": axis for part in ("token", "channel") for key, axis in MLP.items()}),
        ("resnet50", {}),
    ],
)
def test_what_tensor_splits(model, expected):
    assert split_over_tensor(model) == expected


def test_swin_splits_where_the_heads_divide():
    """Its four stages have 3, 6, 12 and 24 heads."""
    found = layouts("swin_tiny", tensor=2)
    kernels = {name: spec for name, spec in found.items() if name.endswith("attention/query/kernel")}
    assert {name.split("/")[1] for name, spec in kernels.items() if "tensor" in spec} == {
        f"stage_{i}" for i in (1, 2, 3)
    }


@pytest.mark.parametrize("model", ["vit_b16", "mixer_b16", "resnet50", "convnext_tiny"])
def test_fsdp_splits_the_largest_axis_that_it_divides(model):
    shape = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    params = jax.eval_shape(create_model(model).init, jax.random.key(0), shape)["params"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        spec = tuple(partition(path_name(path), leaf.shape, mesh(fsdp=8)))
        divisible = [length for length in leaf.shape if length % 8 == 0]
        if leaf.size < 2**14 or not divisible:
            assert set(spec) <= {None}, path_name(path)
        else:
            assert leaf.shape[spec.index("fsdp")] == max(divisible), path_name(path)


def test_both_axes_split_one_array_twice():
    assert tuple(partition("mlp/dense_0/kernel", (768, 3072), mesh(fsdp=4, tensor=2))) == ("fsdp", "tensor")
    assert tuple(partition("mlp/dense_1/kernel", (3072, 768), mesh(fsdp=4, tensor=2))) == ("tensor", "fsdp")


def experiment(model: dict[str, str] | None = None, **sizes: int) -> Experiment:
    """Returns a small experiment over eight devices, compiled as large ones are: as a scan, rematerialised."""
    over = [(f"mesh.{axis}", str(sizes.get(axis, 1))) for axis in AXES] + [("train.ema_decay", "0.9")]
    axes = {"batch_size": str(BATCH), "scan_layers": "True", "remat": "dots", "dtype": "bfloat16"} | (model or {})
    return small_cases(over, **axes)[0].experiment()


def moved(built: Experiment) -> Traffic:
    """Returns what the compiled step moves."""
    compiled = built.train_step.lower(built.abstract_state(), built.abstract_batch()).compile()
    return traffic(compiled.as_text())


def whole_batches(found: Traffic) -> list[tuple[str, tuple[int, ...]]]:
    """Returns the arrays with an axis for all images, or all tokens of them."""
    lengths = {BATCH, BATCH * TOKENS}
    return [(each.kind, shape) for each in found.collectives for shape in each.shapes if lengths & set(shape)]


@pytest.fixture
def split_small_arrays(monkeypatch):
    """Small models are laid out as large ones."""
    monkeypatch.setattr("vit_jax.training.sharding.FSDP_MIN_SIZE", 64)


@pytest.mark.parametrize("model", [{}, {"remat": "none", "scan_layers": "False", "dtype": "float32"}])
def test_fsdp_moves_parameters_and_no_activations(split_small_arrays, model):
    built = experiment(model, fsdp=8)
    found = moved(built)
    assert whole_batches(found) == []
    gathered = {each.shapes[-1] for each in found.collectives if each.kind == "all-gather"}
    assert {(16, 24), (24, 16)} <= gathered  # both kernels of the MLP, where they are used


def test_data_moves_gradients_alone():
    """Every parameter's gradient once, in float32, and a few numbers for the metrics."""
    built = experiment(data=8)
    found = moved(built)
    assert set(found.sent) == {"all-reduce"}
    assert whole_batches(found) == []
    once = 2 * 7 / 8 * parameter_bytes(built.abstract_state().params)
    assert once <= found.sent["all-reduce"] < 1.01 * once + 100


def test_tensor_moves_only_each_devices_own_rows():
    """Sums over `tensor` are of the rows that the devices of one such group share: a fourth of the batch."""
    found = moved(experiment(fsdp=4, tensor=2))
    assert whole_batches(found) == []
    rows = BATCH // 4 * (TOKENS - 1)
    sums = [each for each in found.collectives if each.kind == "all-reduce" and each.group == 2]
    assert any((rows, 16) in each.shapes or (rows + BATCH // 4, 16) in each.shapes for each in sums)


@pytest.mark.parametrize("sizes", [{"fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}, {"data": 8}])
def test_the_programs_own_account_agrees_with_the_layout(split_small_arrays, sizes):
    built = experiment(**sizes)
    state, batch = built.abstract_state(), built.abstract_batch()
    memory = program_memory(built.train_step.lower(state, batch).compile())
    assert memory.arguments == pytest.approx(device_bytes(state) + device_bytes(batch), rel=0.02)


def test_moments_and_averages_lie_as_their_parameters(split_small_arrays):
    state = experiment(fsdp=8).abstract_state()
    name = ("encoder", "block_0", "mlp", "dense_0", "kernel")
    trees = (state.params, state.ema_params, state.opt_state[0].mu, state.opt_state[0].nu)
    found = [tree[name[0]][name[1]][name[2]][name[3]][name[4]].sharding.spec for tree in trees]
    assert {tuple(spec) for spec in found} == {(None, "fsdp")}


def of_vit_b16(**axes: str) -> Experiment:
    """Returns ViT-B/16 with AdamW, its whole state over eight devices."""
    over = [("mesh.data", "1"), ("mesh.fsdp", "8")]
    case = {"model": "vit_b16", "batch_size": "8", "image_size": "224", "scan_layers": "True"} | axes
    return cases_of(case, None, over)[0].experiment()


def test_an_eighth_of_vit_b16():
    """Of parameters and moments; what is too small to be split is little."""
    state = of_vit_b16().abstract_state()
    assert device_bytes(state) == pytest.approx(parameter_bytes(state) / 8, rel=0.02)


@pytest.mark.slow
def test_an_eighth_of_vit_b16_by_the_compiled_program():
    built = of_vit_b16()
    state, batch = built.abstract_state(), built.abstract_batch()
    memory = program_memory(built.train_step.lower(state, batch).compile())
    assert memory.arguments - device_bytes(batch) == pytest.approx(parameter_bytes(state) / 8, rel=0.15)


def test_tensor_without_anything_to_split_is_refused():
    with pytest.raises(
        UserError, match=r"mesh.tensor=2 splits no parameter of this model .*use mesh.data or mesh.fsdp"
    ):
        state_shardings(jax.make_mesh((4, 1, 2), AXES), {"stem": {"kernel": jnp.zeros((8, 8))}})


def test_the_table_tells_every_layout(split_small_arrays):
    built = experiment({"model": "vit"}, data=2, fsdp=2, tensor=2)
    lines = {line.split()[0]: line for line in parameter_table(built.abstract_state().params)}
    assert re.search(r"384 +axis 0 over fsdp, axis 1 over tensor$", lines["encoder/block_0/mlp/dense_0/kernel"])
    assert lines["norm/scale"].endswith("  whole")
    assert lines["encoder/block_0/attention/query/bias"].endswith("axis 0 over tensor")


def test_heads_that_cannot_be_split_are_said():
    over = [("mesh.data", "2"), ("mesh.tensor", "4")]
    state = small_cases(over, batch_size="8")[0].experiment().abstract_state()
    lines = {line.split()[0]: line for line in parameter_table(state.params)}
    assert lines["encoder/block_0/attention/out/kernel"].endswith("not over tensor: 2 heads, no multiple of 4")
    assert lines["encoder/block_0/mlp/dense_1/kernel"].endswith("axis 0 over tensor")


def test_blocks_that_differ_are_told_each():
    shape = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    params = jax.eval_shape(create_model("resnet18").init, jax.random.key(0), shape)["params"]
    lines = [line.split() for line in parameter_table(params)]
    assert ["encoder/stage_0/block_1", "as", "block_0", "73,984"] in lines
    assert {line[0].split("/")[2] for line in lines if line[0].startswith("encoder/stage_1/")} == {"block_0", "block_1"}
    assert lines[-1] == ["total", "11,689,512"]


def test_one_device_has_no_layouts(one_device):
    state = small_cases([("mesh.data", "1")])[0].experiment(one_device).abstract_state()
    assert not any("over" in line or "whole" in line for line in parameter_table(state.params))


def test_what_each_device_holds_is_printed(split_small_arrays):
    built = experiment(data=2, fsdp=4)
    state = built.abstract_state()
    lines = cost_lines(built, state)
    (held,) = [line for line in lines if line.startswith("each device holds: ")]
    assert re.findall(r"[\d.]+ MB (\w+)", held) == ["parameters", "optimizer", "batch", "EMA"]
    assert f"{device_bytes(state.opt_state) / 1e6:,.1f} MB optimizer" in held
    assert any("(data=2, fsdp=4, tensor=1)" in line for line in lines)
