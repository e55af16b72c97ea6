"""What chips send: in texts as XLA writes them for TPUs, and in programs for eight simulated devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vit_jax.measurement.collectives import traffic

ADD = """
%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %add = f32[]{:T(128)} add(%a, %b)
}
"""


def module(entry: str, others: str = "") -> str:
    """Returns a module for eight chips whose first computation has these lines and a parameter `%x`, f32[16,8]."""
    lines = "\n".join(f"  {line}" for line in entry.strip().splitlines())
    return f"""HloModule jit_step, is_scheduled=true, num_partitions=8
{ADD}{others}
ENTRY %main (x: f32[16,8]) -> f32[16,8] {{
  %x = f32[16,8]{{1,0:T(8,128)}} parameter(0)
{lines}
}}
"""


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("{{0,1,2,3},{4,5,6,7}}", 4),
        ("{{0,2}, {1,3}, {4,6}, {5,7}}", 2),
        ("{}", 8),
        ("[4,2]<=[8]", 2),
        ("[2,4]<=[4,2]T(1,0)", 4),
        ("mesh['a'=1,'b'=8] {'b'}", 8),
        ("mesh['a'=2,'b'=4] {'a','b'}", 8),
        ("mesh['a'=2,'b'=4] {'a'}", 2),
        ("mesh['a'=8] {'a':(2)4}", 4),
        ("mesh['a'=2,'b'=4], device_ids=([2,4]<=[8]) {'b':(1)2,'a'}", 4),
    ],
)
def test_groups_in_all_notations(groups, size):
    line = f"ROOT %r = f32[16,8]{{1,0}} all-reduce(%x), channel_id=1, replica_groups={groups}, to_apply=%sum"
    found = traffic(module(line))
    assert [each.group for each in found.collectives] == [size]
    assert found.sent == {"all-reduce": 2 * 512 * (size - 1) // size}


def test_groups_that_are_not_understood_are_not_guessed():
    with pytest.raises(ValueError, match="groups in a notation that is not known"):
        traffic(module("ROOT %r = f32[16,8] all-reduce(%x), replica_groups=<<8>>, to_apply=%sum"))


@pytest.mark.parametrize(
    ("line", "kind", "sent"),
    [
        ("f32[128,8]{1,0} all-gather(%x), replica_groups=[1,8]<=[8], dimensions={0}", "all-gather", 7 * 512),
        ("f32[2,8]{1,0} reduce-scatter(%x), replica_groups=[1,8]<=[8], to_apply=%sum", "reduce-scatter", 448),
        ("f32[16,8]{1,0} all-to-all(%x), replica_groups=[2,4]<=[8], dimensions={0}", "all-to-all", 384),
        ("f32[16,8]{1,0} collective-permute(%x), source_target_pairs={{0,1},{1,0}}", "collective-permute", 512),
        ("(f32[16,8], f32[16,8]) all-reduce(%x, %x), replica_groups=[1,8]<=[8], to_apply=%sum", "all-reduce", 1792),
    ],
)
def test_bytes_of_each_kind(line, kind, sent):
    assert traffic(module(f"ROOT %r = {line}")).sent == {kind: sent}


def test_starts_count_and_dones_do_not():
    lines = """
%start = (f32[16,8]{1,0}, f32[16,8]{1,0}, u32[]{:S(2)}, /*index=3*/u32[]{:S(2)}) collective-permute-start(%x)
%done = f32[16,8]{1,0} collective-permute-done(%start)
%gather-start = (f32[16,8]{1,0}, f32[128,8]{1,0}) all-gather-start(%done), replica_groups=[1,8]<=[8], dimensions={0}
ROOT %gather-done = f32[128,8]{1,0} all-gather-done(%gather-start)
"""
    found = traffic(module(lines))
    assert found.sent == {"all-gather": 7 * 512, "collective-permute": 512}
    assert found.notes == ()


@pytest.mark.parametrize(("kind", "size"), [("bf16", 2), ("pred", 1), ("f8e4m3fn", 1), ("s64", 8), ("s4", 0.5)])
def test_element_types(kind, size):
    lines = f"%y = {kind}[16,8]{{1,0}} convert(%x)\nROOT %r = {kind}[16,8] collective-permute(%y), channel_id=1"
    assert traffic(module(lines)).sent == {"collective-permute": 128 * size}


LOOP = """
%body (p: (f32[16,8], u32[], u32[])) -> (f32[16,8], u32[], u32[]) {
  %p = (f32[16,8]{1,0:T(8,128)}, u32[]{:T(128)}, u32[]{:T(128)}) parameter(0)
  %i = u32[]{:T(128)} get-tuple-element(%p), index=1
  %two = u32[]{:T(128)} constant(STEP)
  %next = u32[]{:T(128)} add(%i, %two)
  %end = u32[]{:T(128)} get-tuple-element(%p), index=2
  %y = f32[16,8]{1,0:T(8,128)} get-tuple-element(%p), index=0
  %start = (f32[16,8], f32[16,8]) collective-permute-start(%y), channel_id=3
  %done = f32[16,8]{1,0:T(8,128)} collective-permute-done(%start)
  ROOT %out = (f32[16,8]{1,0:T(8,128)}, u32[]{:T(128)}, u32[]{:T(128)}) tuple(%done, %next, %end)
}

%condition (q: (f32[16,8], u32[], u32[])) -> pred[] {
  %q = (f32[16,8]{1,0:T(8,128)}, u32[]{:T(128)}, u32[]{:T(128)}) parameter(0)
  %j = u32[]{:T(128)} get-tuple-element(%q), index=1
  %limit = u32[]{:T(128)} LIMIT
  ROOT %less = pred[]{:T(512)} compare(%j, %limit), direction=LT
}
"""
CONSTANT, PASSED = "constant(6)", "get-tuple-element(%q), index=2"


@pytest.mark.parametrize("limit", [CONSTANT, PASSED])
@pytest.mark.parametrize(("step", "runs"), [(1, 6), (2, 3), (4, 2)])
def test_loops_are_counted_without_being_told(limit, step, runs):
    lines = """
%zero = u32[]{:T(128)} constant(0)
%six = u32[]{:T(128)} constant(6)
%first = (f32[16,8], u32[], u32[]) tuple(%x, %zero, %six)
ROOT %loop = (f32[16,8], u32[], u32[]) while(%first), condition=%condition, body=%body
"""
    found = traffic(module(lines, LOOP.replace("STEP", str(step)).replace("LIMIT", limit)))
    assert found.sent == {"collective-permute": runs * 512}
    assert found.notes == ()


def test_what_the_compiler_tells_of_a_loop_is_believed():
    known = 'config={"known_trip_count":{"n":"9"}}'
    lines = f"""
%first = (f32[16,8], u32[], u32[]) custom-call(%x)
ROOT %loop = (f32[16,8], u32[], u32[]) while(%first), condition=%condition, body=%body, {known}
"""
    assert traffic(module(lines, LOOP.replace("STEP", "1").replace("LIMIT", CONSTANT))).sent == {
        "collective-permute": 9 * 512
    }


def test_a_loop_of_unknown_length_is_said():
    lines = """
%first = (f32[16,8], u32[], u32[]) custom-call(%x)
ROOT %loop = (f32[16,8], u32[], u32[]) while(%first), condition=%condition, body=%body
"""
    found = traffic(module(lines, LOOP.replace("STEP", "1").replace("LIMIT", CONSTANT)))
    assert found.sent == {"collective-permute": 512}
    assert found.notes == ("how often loop loop runs is not known: what it sends is counted once",)


OUTER = """
%outer_body (o: (s32[], u32[], f32[16,8], u32[])) -> (s32[], u32[], f32[16,8], u32[]) {
  %o = (s32[], u32[], f32[16,8], u32[]) parameter(0)
  %n = s32[] get-tuple-element(%o), index=0
  %one = s32[] constant(1)
  %more = s32[] add(%one, %n)
  %hoisted = u32[] get-tuple-element(%o), index=1
  %z = f32[16,8] get-tuple-element(%o), index=2
  %length = u32[] get-tuple-element(%o), index=3
  %inner = (f32[16,8], u32[], u32[]) tuple(%z, %hoisted, %length)
  %while = (f32[16,8], u32[], u32[]) while(%inner), condition=%condition, body=%body
  %after = f32[16,8] get-tuple-element(%while), index=0
  ROOT %all = (s32[], u32[], f32[16,8], u32[]) tuple(%more, %hoisted, %after, %length)
}

%outer_condition (c: (s32[], u32[], f32[16,8], u32[])) -> pred[] {
  %c = (s32[], u32[], f32[16,8], u32[]) parameter(0)
  %m = s32[] get-tuple-element(%c), index=0
  %twelve = s32[] constant(12)
  ROOT %lt = pred[] compare(%m, %twelve), direction=LT
}
"""


def test_loops_in_loops_whose_constants_were_hoisted():
    """As of a scan over blocks whose products are windowed: the inner loop's start is an element of the outer one."""
    lines = """
%zero = s32[] constant(0)
%begin = u32[] constant(2)
%four = u32[] constant(4)
%first = (s32[], u32[], f32[16,8], u32[]) tuple(%zero, %begin, %x, %four)
ROOT %loop = (s32[], u32[], f32[16,8], u32[]) while(%first), condition=%outer_condition, body=%outer_body
"""
    others = LOOP.replace("STEP", "1").replace("LIMIT", PASSED) + OUTER
    assert traffic(module(lines, others)).sent == {"collective-permute": 12 * 2 * 512}


CALLED = """
%scattered (y: f32[16,8]) -> f32[2,8] {
  %y = f32[16,8] parameter(0)
  %r = f32[16,8] all-reduce(%y), replica_groups=[1,8]<=[8], to_apply=%sum
  %i = s32[] constant(0)
  ROOT %part = f32[2,8] dynamic-slice(%r, %i, %i), dynamic_slice_sizes={2,8}
}

%quiet (y: f32[16,8]) -> f32[16,8] {
  ROOT %y = f32[16,8] parameter(0)
}

%loud (y: f32[16,8]) -> f32[16,8] {
  %y = f32[16,8] parameter(0)
  ROOT %r = f32[16,8] collective-permute(%y), channel_id=5
}
"""


def test_a_fused_reduce_and_slice_is_a_reduce_scatter():
    line = "ROOT %f = f32[2,8] fusion(%x), kind=kCustom, calls=%scattered"
    assert traffic(module(line, CALLED)).sent == {"reduce-scatter": 448}


@pytest.mark.parametrize(
    "branches",
    [
        "branch_computations={%quiet, %loud, %quiet}",
        "true_computation=%quiet, false_computation=%loud",
        "true_computation=%loud, false_computation=%quiet",
    ],
)
def test_the_branch_that_sends_most(branches):
    line = f"ROOT %c = f32[16,8] conditional(%x, %x, %x), {branches}"
    assert traffic(module(line, CALLED)).sent == {"collective-permute": 512}


def test_what_is_not_counted_is_said():
    line = "ROOT %s = (f32[16,8], u32[], token[]) send(%x), channel_id=1"
    assert traffic(module(line)).notes == ("send is not counted",)


def test_other_text_is_refused():
    with pytest.raises(ValueError, match="no HLO module"):
        traffic("not a program")


MESH = ("rows", "columns")


def compiled(function, out=None) -> dict[str, int]:
    """Returns what eight devices send to run a function of each device's two rows of an array."""
    mesh, spec = Mesh(np.array(jax.devices()).reshape(2, 4), MESH), PartitionSpec(MESH)
    mapped = jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec if out is None else out, check_vma=False)
    array = jax.ShapeDtypeStruct((16, 8), jnp.float32, sharding=NamedSharding(mesh, spec))
    return traffic(jax.jit(mapped).lower(array).compile().as_text()).sent


def test_programs_of_known_traffic():
    """Each device holds 2 rows of 8 numbers, 64 bytes."""
    whole = PartitionSpec()
    assert compiled(lambda x: jax.lax.psum(x, MESH), out=whole) == {"all-reduce": 2 * 64 * 7 // 8}
    assert compiled(lambda x: jax.lax.psum(x, "columns"), out=PartitionSpec("rows")) == {"all-reduce": 2 * 64 * 3 // 4}
    gather = functools.partial(jax.lax.all_gather, axis_name=MESH, tiled=True)
    assert compiled(gather, out=whole) == {"all-gather": 7 * 64}
    scatter = functools.partial(jax.lax.psum_scatter, axis_name="rows", tiled=True)
    assert compiled(scatter) == {"reduce-scatter": 32}
    ring = [(i, (i + 1) % 4) for i in range(4)]
    assert compiled(lambda x: jax.lax.ppermute(x, "columns", ring)) == {"collective-permute": 64}


def test_a_scan_sends_as_often_as_it_runs():
    ring = [(i, (i + 1) % 4) for i in range(4)]

    def steps(x):
        return jax.lax.scan(lambda y, _: (jnp.sin(jax.lax.ppermute(y, "columns", ring)), None), x, length=5)[0]

    assert compiled(steps) == {"collective-permute": 5 * 64}


def test_one_device_sends_nothing(one_device):
    text = jax.jit(lambda x: x @ x.T).lower(jax.ShapeDtypeStruct((8, 8), jnp.float32)).compile().as_text()
    assert traffic(text).sent == {}
