"""How a training step would scale over TPU chips that are not attached, from the programs compiled for them.

Memory and traffic are the compiled program's own. The times are a model: the step's products at a stated part of the
chip's peak, its traffic at the speed of its links (the two first terms of Williams et al. 2009, "Roofline").
"""

import dataclasses
import re
import time
from collections.abc import Callable, Sequence

from vit_jax.errors import UserError
from vit_jax.measurement.cases import Case
from vit_jax.measurement.collectives import Traffic, traffic
from vit_jax.measurement.memory import Memory, out_of_memory, program_memory
from vit_jax.measurement.programs import work_of
from vit_jax.measurement.text import aligned
from vit_jax.measurement.topology import chips_of


@dataclasses.dataclass(frozen=True)
class Chip:
    """What is known of a chip by its maker.

    Attributes:
      peak_tflops: of bfloat16 products.
      memory: bytes.
      link_gbps: of one of its links, in each of its two directions, Gbit/s.
      closes: an axis of a slice is closed to a ring where its length is a multiple of this; else it is a line.
      source: where the figures come from.
    """

    peak_tflops: float
    memory: int
    link_gbps: float
    closes: int
    source: str

    def links(self, topology: str) -> int:
        """Returns how many links every chip of a slice has at least: two along a ring, one along a line.

        Those at the ends of a line have fewer than those between, and everybody waits for them.
        """
        lengths = [int(length) for length in topology.partition(":")[2].split("x")]
        return sum(2 if length % self.closes == 0 else 1 for length in lengths if length > 1)


CHIPS = {
    "v5e": Chip(197, 16 * 10**9, 400, 16, "cloud.google.com/tpu/docs/v5e: 1,600 Gbit/s a chip over four links"),
    "v5p": Chip(459, 95 * 10**9, 800, 4, "cloud.google.com/tpu/docs/v5p: 4,800 Gbit/s a chip over six links"),
}
"""By the first part of a topology's name."""

RING_LINKS = 2
"""Links that a permutation keeps busy: XLA sends halves both ways around a ring of chips."""


@dataclasses.dataclass(frozen=True)
class Scaled:
    """A training step on one slice.

    Attributes:
      topology: such as `v5e:2x4`.
      chips: their number.
      batch_size: of all chips together.
      mesh: the axes' sizes.
      memory: of each chip, or None where the compiler found that it is too much.
      traffic: of each chip, or None likewise.
      compute_seconds: products of one step on one chip, at the part of the peak that is assumed.
      exchange_seconds: traffic of one step at the links' speed, or None likewise.
      limit: bytes of memory of a chip.
      links: see `Chip.links`.
      compile_seconds: that the compilation took.
    """

    case: Case
    topology: str
    chips: int
    batch_size: int
    mesh: dict[str, int]
    memory: Memory | None
    traffic: Traffic | None
    compute_seconds: float
    exchange_seconds: float | None
    limit: int
    links: int
    compile_seconds: float

    @property
    def fits(self) -> bool:
        """Whether a chip's memory is enough."""
        return self.memory is not None and self.memory.peak <= self.limit

    @property
    def efficiency(self) -> tuple[float, float] | None:
        """Images per second and chip against those of one chip alone: least and most, or None.

        The least is where computing waits for all traffic; the most, where they overlap and the longer one is seen.
        """
        if self.exchange_seconds is None:
            return None
        computing, exchanging = self.compute_seconds, self.exchange_seconds
        return computing / (computing + exchanging), computing / max(computing, exchanging)


def chip_named(topology: str, peak_tflops: float | None, link_gbps: float | None, memory: int | None) -> Chip:
    """Returns the chip of a topology, with what is given in place of its maker's figures.

    Raises:
      UserError: the chip is not known, and not all figures are given.
    """
    if re.fullmatch(r"\w+:\d+(x\d+)*", topology) is None:
        raise UserError(f"--topology={topology}: write such as v5e:2x4 or v5p:2x2x2")
    known = CHIPS.get(topology.partition(":")[0])
    given = {"peak_tflops": peak_tflops, "memory": memory, "link_gbps": link_gbps}
    given = {name: value for name, value in given.items() if value is not None}
    if known is None:
        missing = [f"--{name}" for name in ("peak_tflops", "memory", "link_gbps") if name not in given]
        if missing:
            known = " and ".join(CHIPS)
            raise UserError(f"--topology={topology}: only {known} are known by their speed; give {' '.join(missing)}")
        return Chip(closes=2**30, source="given; every axis taken for a line", **given)
    named = " ".join(f"--{name}" for name in given)
    return dataclasses.replace(known, **given, source=known.source + (f"; given: {named}" if named else ""))


def scaled_case(case: Case, topology: str, chip: Chip, batch_per_chip: int, mfu: float) -> Scaled:
    """Compiles a case's training step for a slice.

    Args:
      batch_per_chip: images of each chip.
      mfu: part of the peak at which the products run.

    Raises:
      UserError: parts of the config do not fit together or to the slice, or there is no such slice.
    """
    devices = chips_of(topology)
    config = case.config.copy_and_resolve_references()
    with config.unlocked():
        config.train.batch_size = config.eval.batch_size = batch_per_chip * len(devices)
    experiment = dataclasses.replace(case, config=config).experiment(devices)
    begun, memory, sent = time.perf_counter(), None, None
    try:
        compiled = experiment.train_step.lower(experiment.abstract_state(), experiment.abstract_batch()).compile()
        memory, sent = program_memory(compiled), traffic(compiled.as_text())
    except Exception as error:
        if not out_of_memory(error):
            raise
    flops, links = work_of(experiment, "train").products.flops, chip.links(topology)
    return Scaled(
        case=case,
        topology=topology,
        chips=len(devices),
        batch_size=config.train.batch_size,
        mesh=dict(experiment.mesh.shape),
        memory=memory,
        traffic=sent,
        compute_seconds=flops / len(devices) / (mfu * chip.peak_tflops * 1e12),
        exchange_seconds=None if sent is None else exchange_seconds(sent.sent, links, chip.link_gbps),
        limit=chip.memory,
        links=links,
        compile_seconds=time.perf_counter() - begun,
    )


def exchange_seconds(sent: dict[str, int], links: int, link_gbps: float) -> float:
    """Returns how long the links take for bytes by kind of collective: all of them, for permutations two."""
    permuted = sent.get("collective-permute", 0)
    others = sum(sent.values()) - permuted
    return 8 * (others / max(links, 1) + permuted / min(RING_LINKS, max(links, 1))) / (link_gbps * 1e9)


def measure_scaling(
    cases: Sequence[Case],
    chips: dict[str, Chip],
    batch_per_chip: int,
    mfu: float,
    say: Callable[[str], None],
) -> list[Scaled]:
    """Returns every case on every slice.

    Args:
      chips: by topology.
      say: is told what is being compiled, as that may take minutes.
    """
    found = []
    for case in cases:
        for topology, chip in chips.items():
            say(f"compiling {case.name or case.config.model.name} for {topology}")
            found.append(scaled_case(case, topology, chip, batch_per_chip, mfu))
    return found


def scaling_lines(found: Sequence[Scaled], chips: dict[str, Chip], mfu: float) -> list[str]:
    """Returns the predictions as the lines of a table, after what they assume."""
    heads = ["", "chips", "mesh", "batch", "GB a chip", "fits", "GB sent", "compute ms", "exchange ms", "efficiency %"]
    cells = [heads]
    for each in found:
        mesh = " ".join(f"{axis}={size}" for axis, size in each.mesh.items() if size > 1) or "-"
        name = f"{each.case.name or each.case.config.model.name} {each.topology}"
        row = [name, str(each.chips), mesh, f"{each.batch_size:,}"]
        if each.memory is None or each.traffic is None:
            cells.append([*row, "too much", "no", "-", f"{each.compute_seconds * 1e3:.1f}", "-", "-"])
            continue
        least, most = each.efficiency
        row += [f"{each.memory.peak / 1e9:.2f}", "yes" if each.fits else "no", f"{sent_bytes(each) / 1e9:.3f}"]
        row += [f"{each.compute_seconds * 1e3:.1f}", f"{each.exchange_seconds * 1e3:.1f}"]
        cells.append([*row, f"{100 * least:.1f} to {100 * most:.1f}"])
    notes = sorted({note for each in found if each.traffic for note in each.traffic.notes})
    return [*assumption_lines(found, chips, mfu), *aligned(cells), *(f"note: {note}" for note in notes)]


def assumption_lines(found: Sequence[Scaled], chips: dict[str, Chip], mfu: float) -> list[str]:
    """Returns what the predictions rest on."""
    lines = [
        "memory and bytes sent are the compiled program's; the times are predictions, nothing has run",
        f"products at {100 * mfu:.4g} % of the peak, a step being three forward passes; efficiency against one chip,",
        "from computing that waits for all traffic to full overlap; permutations use two links, the rest all of them",
    ]
    for topology, chip in chips.items():
        figures = f"{chip.peak_tflops:g} TFLOP/s bfloat16, {chip.memory / 1e9:g} GB"
        links = f"{chip.links(topology)} links of {chip.link_gbps:g} Gbit/s each way"
        lines.append(f"{topology}: {figures}, {links} ({chip.source})")
    return lines


def sent_bytes(each: Scaled) -> int:
    """Returns the bytes that a chip sends in one step."""
    return sum(each.traffic.sent.values())


def scaling_json(found: Sequence[Scaled], chips: dict[str, Chip], mfu: float) -> dict[str, object]:
    """Returns the predictions as JSON takes them."""
    rows = []
    for each in found:
        row = {field.name: getattr(each, field.name) for field in dataclasses.fields(each)}
        row |= {"name": each.case.name, "settings": each.case.settings, "fits": each.fits}
        row |= {"efficiency": each.efficiency, "memory": None, "sent_bytes": None, "notes": []}
        if each.memory is not None:
            row["memory"] = dataclasses.asdict(each.memory) | {"peak": each.memory.peak}
        if each.traffic is not None:
            row |= {"sent_bytes": each.traffic.sent, "notes": list(each.traffic.notes)}
        del row["case"], row["traffic"]
        rows.append(row)
    described = {topology: dataclasses.asdict(chip) for topology, chip in chips.items()}
    return {"mode": "scale", "mfu": mfu, "chips": described, "cases": rows}
