"""The figures of timed programs: as a table, and as one JSON object."""

import statistics

import jax

from vit_jax.measurement.flops import Products
from vit_jax.measurement.overtaking import overtakings
from vit_jax.measurement.samples import percentile, spread
from vit_jax.measurement.speed import Speeds
from vit_jax.measurement.text import aligned
from vit_jax.measurement.turns import Measured

COLUMNS = {
    "images_per_second": ("images/s", "{:,.1f}"),
    "images_per_second_spread": ("±", "{:.1%}"),
    "ratio": ("ratio", "{:.2f}"),
    "milliseconds": ("ms", "{:,.2f}"),
    "milliseconds_p50": ("p50 ms", "{:,.2f}"),
    "milliseconds_p95": ("p95 ms", "{:,.2f}"),
    "load_seconds": ("load s", "{:.2f}"),
    "file_megabytes": ("file MB", "{:,.1f}"),
    "compile_seconds": ("compile s", "{:.1f}"),
    "model_gflop_per_image": ("GFLOP/image", "{:,.3g}"),
    "hardware_gflop_per_image": ("hardware", "{:,.3g}"),
    "model_tflops": ("TFLOP/s", "{:,.3g}"),
    "mfu": ("MFU", "{:.1%}"),
    "hardware_utilisation": ("hardware util.", "{:.1%}"),
    "mfu_of_peak": ("MFU of peak", "{:.1%}"),
    "peak_mebibytes": ("memory MiB", "{:,.1f}"),
}
"""Columns of the table: the key in the JSON, the heading, and how a number is written."""


def figures(one: Measured, first: Measured, speeds: Speeds, peak_tflops: float | None = None) -> dict[str, object]:
    """Returns the figures of one program by name; None where one is not known, or it ran out of memory.

    Ratios are of images a second, taken within each repeat, of which the median is given. Rates and utilisations follow
    from the median time of a call.

    Args:
      first: what the ratio is to.
      peak_tflops: of one device, as its maker gives it.
    """
    program, facts, work = one.program, one.facts, one.program.work
    dtype = program.case.dtype
    row: dict[str, object] = {
        "name": program.label,
        "by": program.by,
        "dtype": dtype,
        "settings": program.case.settings,
        "tokens": work.tokens,
    }
    row |= dict.fromkeys((*COLUMNS, "model_attention_gflop_per_image"))
    row["failure"], row["samples_milliseconds"] = one.failure, [1e3 * sample for sample in one.seconds]
    row["model_gflop_per_image"] = per_image(work.products, work.images)
    if work.products is not None:
        row["model_attention_gflop_per_image"] = work.products.batched / work.images / 1e9
    if facts is not None:
        row["load_seconds"] = facts.load_seconds
        row["file_megabytes"] = None if facts.file_bytes is None else facts.file_bytes / 1e6
        row["compile_seconds"] = facts.compile_seconds
        row["peak_mebibytes"] = None if facts.peak_bytes is None else facts.peak_bytes / 2**20
        row["hardware_gflop_per_image"] = per_image(facts.hardware, work.images)
    if one.failure is not None or not one.seconds:
        return row
    speed = [work.images / seconds for seconds in one.seconds]
    row["images_per_second"], row["images_per_second_spread"] = statistics.median(speed), spread(speed)
    if first.failure is None:
        pairs = zip(speed, first.seconds, strict=True)
        row["ratio"] = statistics.median(mine * seconds / first.program.work.images for mine, seconds in pairs)
    seconds = statistics.median(one.seconds)
    row["milliseconds"] = 1e3 * seconds
    if one.latencies:
        row["milliseconds_p50"] = 1e3 * percentile(one.latencies, 0.5)
        row["milliseconds_p95"] = 1e3 * percentile(one.latencies, 0.95)
    return row | rates(one, seconds, speeds, peak_tflops)


def rates(one: Measured, seconds: float, speeds: Speeds, peak_tflops: float | None) -> dict[str, float]:
    """Returns operations a second and the shares of the device's rate that they are, as far as they are known.

    Args:
      seconds: of a call.
    """
    found, products, hardware = {}, one.program.work.products, one.facts.hardware
    rate = speeds.rates[one.program.case.dtype] if one.facts.on_device else None
    if products is not None:
        found["model_tflops"] = products.flops / seconds / 1e12
        if rate is not None:
            found["mfu"] = products.flops / seconds / rate
        if rate is not None and peak_tflops is not None:
            found["mfu_of_peak"] = found["model_tflops"] / (peak_tflops * len(speeds.devices))
    if hardware is not None and rate is not None:
        found["hardware_utilisation"] = hardware.flops / seconds / rate
    return found


def per_image(products: Products | None, images: int) -> float | None:
    """Returns 1e9 floating-point operations an image."""
    return None if products is None else products.flops / images / 1e9


def as_json(speeds: Speeds, peak_tflops: float | None = None) -> dict[str, object]:
    """Returns everything that was found, as JSON takes it."""
    first = speeds.measured[0]
    rows = [figures(one, first, speeds, peak_tflops) for one in speeds.measured]
    return {
        "mode": speeds.mode,
        "device": speeds.devices[0].device_kind,
        "devices": len(speeds.devices),
        "jax": jax.__version__,
        "repeats": speeds.repeats,
        "peak_tflops": peak_tflops,
        "matmul_tflops": {dtype: rate / 1e12 for dtype, rate in speeds.rates.items()},
        "cases": rows,
        "overtakings": overtakings(rows),
        "notes": speeds.notes,
    }


def table(found: dict[str, object]) -> list[str]:
    """Returns the lines of a table of what `as_json` returned; columns that are empty throughout are left out."""
    rows = found["cases"]
    keys = [key for key in COLUMNS if any(row[key] is not None for row in rows)]
    if found["mode"] == "infer":
        keys = [key for key in keys if key != "milliseconds"]
    cells = [["", *(COLUMNS[key][0] for key in keys)]]
    for row in rows:
        written = ["-" if row[key] is None else COLUMNS[key][1].format(row[key]) for key in keys]
        cells.append([row["name"], *written])
    rates = ", ".join(f"{dtype} {rate:,.3g}" for dtype, rate in found["matmul_tflops"].items())
    return [
        f"{found['mode']} on {found['devices']} x {found['device']}, jax {found['jax']}: medians of {found['repeats']} "
        "repeats, in which the cases take turns",
        f"large products (all devices): {rates} TFLOP/s",
        *aligned(cells),
        *(f"{row['name']}: {row['failure']}" for row in rows if row["failure"]),
        *found["overtakings"],
        *(f"note: {note}" for note in found["notes"]),
    ]
