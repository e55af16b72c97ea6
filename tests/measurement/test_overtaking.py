"""From how many tokens on a kind of attention takes less than full attention."""

import pytest

from vit_jax.measurement.overtaking import overtakings
from vit_jax.measurement.plot import crossings


def rows(attention: str, milliseconds: dict[int, float | None], gflop=None, **settings) -> list[dict]:
    """Returns what a report has of one kind, by tokens; the memory is the time."""
    return [
        {
            "name": f"vit_jax attention={attention} image_size={tokens}",
            "by": "vit_jax",
            "tokens": tokens,
            "settings": {"attention": attention, "image_size": str(tokens), **settings},
            "milliseconds": taken,
            "peak_mebibytes": taken,
            "model_gflop_per_image": tokens * 3.0 + (gflop(tokens) if gflop else 0),
            "model_attention_gflop_per_image": gflop(tokens) if gflop else None,
        }
        for tokens, taken in milliseconds.items()
    ]


FULL = rows("full", {100: 1.0, 400: 4.0, 1600: 64.0})


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ({100: 0.9, 400: 3.0, 1600: 9.0}, "faster from 100 tokens on"),
        ({100: 1.1, 400: 5.0, 1600: 9.0}, "faster from 1,600 tokens on"),
        ({100: 0.9, 400: 5.0, 1600: 9.0}, "faster from 1,600 tokens on"),
        ({100: 0.9, 400: 3.0, 1600: 65.0}, "not faster at 1,600 tokens"),
        ({100: 2.0, 400: 3.0, 1600: None}, "faster from 400 tokens on"),
        ({100: None, 400: None, 1600: None}, "faster: not known"),
    ],
)
def test_the_first_size_from_which_on_it_stays_below(times, said):
    (line,) = overtakings([*FULL, *rows("local", times)])
    assert line.startswith(f"vit_jax attention=local against full: {said}, ")


def test_nothing_is_said_without_full_attention_or_with_a_single_size():
    local = rows("local", {100: 0.9, 400: 3.0})
    assert overtakings(local) == overtakings([*FULL[:1], *local[:1]]) == overtakings(FULL) == []


def test_other_settings_are_compared_with_their_own():
    deep = rows("full", {100: 9.0, 400: 9.0}, depth="9")
    (line,) = overtakings([*FULL, *deep, *rows("local", {100: 2.0, 400: 3.0}, depth="9")])
    assert "faster from 100 tokens on" in line


def test_the_mark_of_a_picture_is_of_attention_that_grows_with_the_square():
    times = {100: 1.0, 400: 1.0}
    full, local = rows("full", times, lambda n: n * n / 100), rows("local", times, lambda n: n / 2.0)
    assert crossings([*local, *full]) == [300]
    assert crossings(local) == []
