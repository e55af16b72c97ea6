"""A short version of `python -m tests.faults.kills`."""

import random

import pytest

from tests.faults.kills import compare, kill_until_done, run_whole, start_up_seconds


@pytest.mark.slow
def test_killed_runs_end_bit_identical(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    seconds = run_whole(whole, 40)
    start_up = start_up_seconds(whole)
    kill_until_done(broken, 40, 2, start_up / 2, (seconds - start_up) / 2, random.Random(0))
    assert compare(whole, broken) == []
