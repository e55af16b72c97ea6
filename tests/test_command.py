"""What all commands share."""

import pytest

from vit_jax.command import Parser, model_fields
from vit_jax.errors import UserError


@pytest.fixture
def parser():
    parser = Parser(prog="x", allow_abbrev=False)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--image_size", type=int)
    parser.add_argument("--with-preprocessing", action="store_true")
    return parser


@pytest.mark.parametrize("words", [["--image_size=8"], ["--image-size=8"], ["--image-size", "8"]])
def test_a_flag_may_be_spelt_either_way(parser, words):
    assert parser.parse_args(words).image_size == 8


def test_values_and_files_keep_their_spelling(parser):
    flags = parser.parse_intermixed_args(["a-b_c", "--with_preprocessing", "-", "--", "--image-size"])
    assert flags.with_preprocessing
    assert flags.files == ["a-b_c", "-", "--image-size"]


def test_an_unknown_flag_is_named_as_it_was_given(parser):
    with pytest.raises(UserError, match="unrecognized arguments: --picture-size=8; see --help"):
        parser.parse_args(["--picture-size=8"])


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("0.5", 0.5), ("None", None), ("True", True), ("tanh", "tanh"), ("(4, 2)", (4, 2)), ("a b", "a b")],
)
def test_model_fields_are_python_values_or_text(text, value):
    assert model_fields([("field", text), ("pool", "(")]) == {"field": value, "pool": "("}
