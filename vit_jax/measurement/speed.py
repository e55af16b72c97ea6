"""Modes "train" and "infer" of the benchmark: the programs of all cases, timed side by side."""

import dataclasses
import re
import sys
from collections.abc import Sequence

import jax

from vit_jax.errors import UserError, explained_writes, nearest
from vit_jax.measurement.cases import Case
from vit_jax.measurement.linen import linen_program
from vit_jax.measurement.peers import PEERS, peer_cases
from vit_jax.measurement.programs import Program, own_program
from vit_jax.measurement.rate import matmul_rate
from vit_jax.measurement.timm_peer import timm_program
from vit_jax.measurement.turns import Measured, side_by_side


@dataclasses.dataclass
class Speeds:
    """What one run of the benchmark found.

    Attributes:
      mode: train or infer.
      devices: those that the programs ran on.
      rates: floating-point operations a second of large products on all of them together, by dtype.
      measured: the programs, in the order of the table.
      notes: what the figures do not tell by themselves.
    """

    mode: str
    devices: Sequence[jax.Device]
    repeats: int
    rates: dict[str, float]
    measured: list[Measured]
    notes: list[str]


def programs_of(cases: Sequence[Case], mode: str, against: Sequence[str]) -> list[Program]:
    """Returns this package's program of every case, then the peers' of those that are others to them.

    Raises:
      UserError: there is no such peer, it is not installed, or a case does not fit.
    """
    for peer in against:
        if peer not in PEERS:
            raise UserError(f"--against must be of {', '.join(PEERS)}, not {peer!r}{nearest(peer, list(PEERS))}")
    programs: list[Program] = [own_program(case, mode, f"vit_jax {case.name}".strip()) for case in cases]
    for peer in dict.fromkeys(against):
        for case in peer_cases(list(cases)):
            programs.append(peer_program(peer, case, mode))
    return programs


def peer_program(peer: str, case: Case, mode: str) -> Program:
    """Returns a peer's program of one case."""
    label = f"{peer} {case.name}".strip()
    if peer == "linen":
        return linen_program(case, mode, label)
    return timm_program(case, mode, label, compiled=peer == "timm_compiled")


def measure_speeds(
    programs: Sequence[Program],
    mode: str,
    devices: Sequence[jax.Device],
    repeats: int,
    seconds: float,
    quiet: bool = False,
) -> Speeds:
    """Measures the rate of large products, then all programs in turn.

    Args:
      devices: those that the programs run on.
      seconds: how long each turn takes at least.
      quiet: say nothing of what is being done.
    """
    say = (lambda line: None) if quiet or not sys.stderr.isatty() else _say
    say("large products")
    rates = {dtype: matmul_rate(dtype, devices) for dtype in dict.fromkeys(program.case.dtype for program in programs)}
    measured = side_by_side(programs, repeats, seconds, mode == "infer", say)
    say("")
    return Speeds(mode, devices, repeats, rates, measured, notes_of(measured))


def _say(line: str) -> None:
    print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def notes_of(measured: Sequence[Measured]) -> list[str]:
    """Returns what a reader must know beside the figures."""
    notes = {}
    for one in measured:
        work, hardware = one.program.work, one.facts.hardware if one.facts else None
        counted = [note for products in (work.products, hardware) if products for note in products.notes]
        notes |= dict.fromkeys((*counted, *work.notes))
        if one.facts is not None and not one.facts.on_device:
            label = one.program.label
            notes[f"{label} does not run where the large products did; shares of their rate are left out"] = None
    if folder := jax.config.jax_compilation_cache_dir:
        notes[f"compile times may be those of reading the compilation cache {folder}"] = None
    return list(notes)


def write_profiles(measured: Sequence[Measured], folder: str) -> list[str]:
    """Traces one call of each program into a folder of its own, and returns a line for each.

    Raises:
      UserError: the folder cannot be written.
    """
    lines = []
    for one in measured:
        path = f"{folder}/" + re.sub(r"[^\w.=-]+", "-", one.program.label)
        if one.failure is not None:
            lines.append(f"not traced: {one.program.label}, which ran out of memory")
            continue
        with explained_writes(path):
            traced = one.program.trace(path)
        lines.append(f"trace: {path}" if traced else f"not traced: {one.program.label} is not JAX's")
    return lines
