"""Durations: every unit in steps, rounded to the nearest, and nonsense refused with its key."""

import pytest

from vit_jax.duration import Clock, to_steps
from vit_jax.errors import UserError

CLOCK = Clock(examples_per_epoch=1000, batch_size=128, total_steps=400)


def steps(text: str, clock: Clock = CLOCK) -> int:
    return to_steps(text, clock, "train.duration")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("500 steps", 500),
        ("1 step", 1),
        ("0 steps", 0),
        ("1.28e6 examples", 10_000),
        ("128 example", 1),
        ("50 epochs", 391),  # 390.6
        ("1 epoch", 8),  # 7.8
        ("0.5 epochs", 4),  # 3.9
        (".5epochs", 4),
        ("5%", 20),
        ("0.1 %", 0),
        ("100%", 400),
        ("  12  steps ", 12),
        ("1e3 steps", 1000),
        ("1E+3 steps", 1000),
        ("5e-1 epochs", 4),
    ],
)
def test_every_unit(text, expected):
    result = steps(text)
    assert type(result) is int
    assert result == expected


@pytest.mark.parametrize(("text", "expected"), [("191 examples", 1), ("193 examples", 2), ("63 examples", 0)])
def test_rounds_to_the_nearest(text, expected):
    assert steps(text) == expected


@pytest.mark.parametrize("epochs", [1, 7, 90])
def test_units_agree(epochs):
    assert steps(f"{epochs} epochs") == steps(f"{epochs * 1000} examples")
    assert abs(steps(f"{epochs} epochs") - epochs * 1000 / 128) <= 0.5


NO_NUMBER = ["", "epochs", "fifty epochs", "None", "nan steps", "inf steps", "1e999 steps"]
NO_UNIT = ["50", "1e3", "50 minutes", "50 epoch s", "5%%"]
OTHERWISE_WRONG = ["-5 steps", "5 % of it", "50 epochs 5 steps", "1,000 steps", "0x10 steps"]


@pytest.mark.parametrize("text", NO_NUMBER + NO_UNIT + OTHERWISE_WRONG)
def test_nonsense_names_the_key_and_shows_how(text):
    with pytest.raises(UserError, match=r"train\.duration: .* is no duration; .*'50 epochs'") as error:
        steps(text)
    assert repr(text) in str(error.value)


def test_a_share_needs_a_whole():
    with pytest.raises(UserError, match=r"train\.duration: '5%' is a share of the training's length"):
        steps("5%", Clock(1000, 128))
    assert steps("5 epochs", Clock(1000, 128)) == 39
