"""A short version of `python -m tests.faults.kill_runs`."""

import random

import pytest

from tests.faults.kill_runs import compare, kill_until_done, longest_life


@pytest.mark.parametrize(("kills", "steps"), [(2, 60), pytest.param(10, 240, marks=pytest.mark.slow)])
def test_killed_runs_end_bit_identical(kills, steps, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    seconds = kill_until_done(whole, steps, 0, 0, random.Random())
    kill_until_done(broken, steps, kills, longest_life(whole, seconds, kills), random.Random(0))
    assert compare(whole, broken) == []
