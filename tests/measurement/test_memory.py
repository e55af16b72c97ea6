"""Memory of a known program, and the search for the largest batch."""

import jax
import jax.numpy as jnp
import pytest

from tests.measurement.examples import small_cases
from vit_jax.errors import UserError
from vit_jax.measurement.largest import bytes_of, down, largest_batch, measure_largest, step_bytes, up
from vit_jax.measurement.memory import out_of_memory, program_memory
from vit_jax.measurement.topology import chips_of


def test_a_known_program():
    """One megabyte in, one out; donated, the one takes the other's place."""
    array = jax.ShapeDtypeStruct((512, 512), jnp.float32)
    plain = program_memory(jax.jit(lambda x: x + 1).lower(array).compile())
    assert (plain.arguments, plain.outputs, plain.aliased) == (2**20, 2**20, 0)
    assert plain.peak == 2 * 2**20 + plain.temporaries
    donated = program_memory(jax.jit(lambda x: x + 1, donate_argnums=0).lower(array).compile())
    assert donated.aliased == 2**20
    assert donated.peak == 2**20 + donated.temporaries


def test_temporaries_count():
    array = jax.ShapeDtypeStruct((8, 64), jnp.float32)
    product = program_memory(jax.jit(lambda x: jnp.sort((x.T @ x).ravel())[:3]).lower(array).compile())
    assert product.temporaries >= 64 * 64 * 4


def test_errors_that_are_about_memory():
    assert out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm"))
    assert out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert out_of_memory(MemoryError())
    assert not out_of_memory(ValueError("shapes (3,) and (4,)"))


@pytest.mark.parametrize(("text", "count"), [("16GiB", 2**34), ("1.5 GB", 1.5e9), ("512MiB", 2**29), ("8kB", 8000)])
def test_sizes(text, count):
    assert bytes_of(text) == count


@pytest.mark.parametrize("text", ["16", "16G", "GiB", "-1GiB", "0GiB", "16 gib", ""])
def test_what_is_no_size(text):
    with pytest.raises(UserError, match="--memory must be a size such as 16GiB"):
        bytes_of(text)


def test_batch_sizes():
    assert [up(size) for size in (0, 1, 7, 8, 16, 17)] == [1, 2, 8, 16, 24, 24]
    assert [down(size) for size in (1, 7, 8, 9, 15, 16, 31)] == [1, 7, 8, 8, 8, 16, 24]


@pytest.mark.parametrize("limit", [99, 110, 149, 150, 179, 180, 259, 260, 1000, 123456])
@pytest.mark.parametrize("compiles_up_to", [float("inf"), 500])
def test_the_answer_and_the_next_are_both_compiled(limit, compiles_up_to):
    """Whatever the line; where what is too large is not compiled at all, likewise."""
    tried = []

    def needed(size: int) -> int | None:
        tried.append(size)
        used = 100 + 10 * size
        return used if used <= compiles_up_to else None

    found = largest_batch(needed, limit)
    true = (min(limit, compiles_up_to) - 100) // 10
    assert found.batch_size == (down(int(true)) if true > 0 else 0)
    assert found.next_size == up(found.batch_size)
    assert {found.batch_size, found.next_size} <= {0, *tried}
    assert len(tried) == len(set(tried)) <= 16
    if compiles_up_to == float("inf"):
        assert len(tried) <= 5


def test_memory_that_is_not_linear():
    found = largest_batch(lambda size: 100 + size**2 + (400 if size > 40 else 0), 3000)
    assert (found.batch_size, found.next_size) == (48, 56)


def test_more_memory_is_a_larger_batch():
    """Of the real step, on this device; both answers hold what they promise."""
    (case,) = small_cases()
    device = jax.devices()[0]
    eight, sixteen = step_bytes(case, 8, device), step_bytes(case, 16, device)
    assert eight < sixteen
    ((_, found),) = measure_largest([case], sixteen, device, lambda line: None)
    assert found.batch_size >= 16
    assert found.peak_bytes <= sixteen
    assert found.next_bytes is None or found.next_bytes > sixteen


def test_no_libtpu_is_one_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="--topology compiles with the libtpu package, which is not installed"):
        chips_of("v5e:2x2")
