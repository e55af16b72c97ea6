"""The one exception for a person's mistakes, and the nearest known name."""

import pytest

from vit_jax.errors import LONGEST, UserError, named, nearest


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


def test_what_cannot_be_printed_is_escaped_and_what_is_long_shortened():
    message = str(UserError("the name \x1b[31mred\x07\ud800 " + "é" * 5000 + " is wrong"))
    assert message.isprintable()
    assert message.startswith(r"the name \x1b[31mred\x07\ud800 éé")
    assert message.endswith("éé is wrong")
    assert len(message) <= LONGEST + 3
    assert str(UserError("ä ö\n  ü")) == "ä ö ü"


def test_named_puts_a_place_before_a_message_that_lacks_it():
    for message, said in (("no heads", "x.npz: no heads"), ("x.npz has no heads", "x.npz has no heads")):
        with pytest.raises(UserError) as error, named("x.npz"):
            raise UserError(message)
        assert str(error.value) == said
