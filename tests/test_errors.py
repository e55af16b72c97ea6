"""The one exception for a person's mistakes, and the nearest known name."""

import pytest

from vit_jax.errors import UserError, nearest


def test_message_is_one_line():
    assert str(UserError("a\n  message \t of\nthree lines\n")) == "a message of three lines"


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("vit_b17", ["vit_b16", "vit_s16"], "vit_b16"),
        ("batchsize", ["size", "batch_size"], "batch_size"),
        ("same", ["other", "same"], "same"),
    ],
)
def test_nearest_names_the_closest(name, known, expected):
    assert nearest(name, known) == f" (did you mean {expected!r}?)"


@pytest.mark.parametrize("known", [[], ["something else entirely"]])
def test_nearest_is_silent_where_nothing_is_close(known):
    assert nearest("xyz", known) == ""
