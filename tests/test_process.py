"""What is told of the processor."""

import pytest

from vit_jax import process


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        ("processor: 0\nflags\t\t: fpu avx512f avx512bw\n", True),
        ("flags: fpu avx512f amx_bf16 amx_tile\n", False),
        ("flags: fpu avx512_bf16\n", False),
        ("Features\t: fp asimd bf16 i8mm\n", False),
        ("Features\t: fp asimd\n", True),
        ("model name: of no known kind\n", False),
    ],
)
def test_bfloat16_units_are_told_by_the_flags(monkeypatch, tmp_path, text, lacks):
    monkeypatch.setattr(process, "CPU_INFO", tmp_path / "cpuinfo")
    assert not process.lacks_bfloat16_units()  # no such file: nothing is known
    (tmp_path / "cpuinfo").write_text(text)
    assert process.lacks_bfloat16_units() == lacks
