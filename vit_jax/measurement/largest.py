"""The largest batch whose training step fits in memory, by the compiled program's own account."""

import dataclasses
import re
from collections.abc import Callable, Sequence

import jax

from vit_jax.errors import UserError
from vit_jax.measurement.cases import Case
from vit_jax.measurement.memory import out_of_memory, program_memory
from vit_jax.measurement.text import aligned

UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "kB": 10**3, "MB": 10**6, "GB": 10**9}

PROBES = (8, 32)
"""Batch sizes from which the line of memory by batch is drawn."""

GRAIN = 8
"""Above this, batch sizes are multiples of it: tiles of every accelerator's matrix unit."""

MOST = 2**17
"""No batch larger than this is tried."""


@dataclasses.dataclass(frozen=True)
class Largest:
    """The answer for one case.

    Attributes:
      batch_size: the largest that fits; 0 where not even one image does.
      peak_bytes: what it needs, or None for 0.
      next_size: the next size up, which was compiled too and does not fit; None where none was tried.
      next_bytes: what that would need, or None where its compilation ran out of memory.
      tried: memory by batch size of all that were compiled.
    """

    batch_size: int
    peak_bytes: int | None
    next_size: int | None
    next_bytes: int | None
    tried: dict[int, int | None]


def bytes_of(text: str) -> int:
    """Returns the bytes that `16GiB` or `512 MB` stands for.

    Raises:
      UserError: it is no such thing.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kKMG]i?B)", text.strip())
    if match is None or match[2] not in UNITS or float(match[1]) <= 0:
        raise UserError(f"--memory must be a size such as 16GiB or 24GB ({', '.join(UNITS)}), not {text!r}")
    return int(float(match[1]) * UNITS[match[2]])


def largest_batch(needed: Callable[[int], int | None], limit: int) -> Largest:
    """Returns the largest batch size whose program fits, compiled itself and with the next size up compiled too.

    Memory is close to linear in the batch: two compilations give the line, and a few more bring the answer.

    Args:
      needed: the memory of a batch size in bytes, or None where it is too much to be compiled.
      limit: bytes that there are.
    """
    tried: dict[int, int | None] = {}

    def fits(size: int) -> bool:
        if size not in tried:
            tried[size] = needed(size)
        return tried[size] is not None and tried[size] <= limit

    low, high = 0, None
    for size in PROBES:
        if fits(size):
            low = size
        else:
            high = size
            break
    while low < MOST and (high is None or up(low) < high):
        guess = _guess(tried, low, high, limit)
        if fits(guess):
            low = guess
        else:
            high = guess
    return Largest(low, tried.get(low), high, tried.get(high), dict(sorted(tried.items())))


def _guess(tried: dict[int, int | None], low: int, high: int | None, limit: int) -> int:
    """Returns the next size to try, between `low` and `high`: by the line through the two sizes next to the limit."""
    known = sorted((abs(used - limit), size, used) for size, used in tried.items() if used is not None)
    guess = 4 * max(low, 1) if high is None else (low + high) // 2
    if len(known) >= 2 and len(tried) < 8 and list(tried.values()).count(None) < 3:  # then by halves: it is no line
        (_, first, one), (_, second, other) = known[:2]
        slope = (other - one) / (second - first)
        if slope > 0:
            guess = int(first + (limit - one) / slope)
    guess = down(max(guess, 1))
    if high is not None:
        guess = min(guess, down(high - 1))
    return min(max(guess, up(low)), MOST)


def up(size: int) -> int:
    """Returns the next batch size."""
    return size + 1 if size < GRAIN else (size // GRAIN + 1) * GRAIN


def down(size: int) -> int:
    """Returns the largest batch size that is not above `size`."""
    return size if size <= GRAIN else size // GRAIN * GRAIN


def step_bytes(case: Case, size: int, device: jax.Device) -> int | None:
    """Returns the memory that a case's training step needs on one device, or None where it cannot be compiled for it.

    Raises:
      UserError: parts of the config do not fit together, or the backend does not tell.
    """
    config = case.config.copy_and_resolve_references()
    with config.unlocked():
        config.train.batch_size = config.eval.batch_size = size
    experiment = dataclasses.replace(case, config=config).experiment([device])
    try:
        compiled = experiment.train_step.lower(experiment.abstract_state(), experiment.abstract_batch()).compile()
    except Exception as error:
        if out_of_memory(error):
            return None
        raise
    memory = program_memory(compiled)
    if memory is None:
        raise UserError(f"{device.device_kind} does not tell how much memory a program needs")
    return memory.peak


def measure_largest(
    cases: Sequence[Case], limit: int, device: jax.Device, say: Callable[[str], None]
) -> list[tuple[Case, Largest]]:
    """Returns the answer for every case.

    Args:
      say: is told what is being compiled, as that may take minutes.
    """
    found = []
    for case in cases:

        def needed(size: int, case: Case = case) -> int | None:
            say(f"compiling {case.name or case.config.model.name} at batch size {size}")
            return step_bytes(case, size, device)

        found.append((case, largest_batch(needed, limit)))
    return found


def largest_lines(found: Sequence[tuple[Case, Largest]], limit: int, device: jax.Device) -> list[str]:
    """Returns the answers as the lines of a table."""
    cells = [["", "batch size", "GiB", "next", "GiB"]]
    for case, answer in found:
        sizes = (answer.batch_size, answer.next_size)
        needs = (answer.peak_bytes, answer.next_bytes)
        written = ["-" if used is None else f"{used / 2**30:.2f}" for used in needs]
        if answer.next_size is not None and answer.next_bytes is None:
            written[1] = "does not compile"
        (size, after), (used, more) = map(str, sizes), written
        cells.append([case.name or case.config.model.name, size, used, after, more])
    title = f"largest batch whose training step takes at most {limit / 2**30:.4g} GiB on one {device.device_kind}"
    return [title, *aligned(cells)]


def largest_json(found: Sequence[tuple[Case, Largest]], limit: int, device: jax.Device) -> dict[str, object]:
    """Returns the answers as JSON takes them."""
    rows = [{"name": case.name, "settings": case.settings, **dataclasses.asdict(answer)} for case, answer in found]
    return {"mode": "memory", "device": device.device_kind, "limit_bytes": limit, "cases": rows}
