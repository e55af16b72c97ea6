"""What all commands share: their parser, `--config.KEY=VALUE`, and how a person's mistake ends."""

import argparse
import ast
import sys
from collections.abc import Callable

from vit_jax.errors import UserError


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are those of the other mistakes: one line, status 1.

    `--image-size` and `--image_size` are the same flag.
    """

    def parse_known_args(self, args=None, namespace=None):
        """Parses with every flag spelt as it was declared."""
        declared = {name.replace("-", "_"): name for name in self._option_string_actions}
        words = list(sys.argv[1:] if args is None else args)
        flags = words.index("--") if "--" in words else len(words)  # what comes after it are files
        return super().parse_known_args([_spelt(word, declared) for word in words[:flags]] + words[flags:], namespace)

    def error(self, message: str):
        raise UserError(f"{message}; see --help")


def _spelt(word: str, declared: dict[str, str]) -> str:
    name, equals, value = word.partition("=")
    return declared.get(name.replace("-", "_"), name) + equals + value if name.startswith("--") else word


def size_of(text: str) -> tuple[int, int]:
    """Returns the height and width that `224` or `224x320` stands for.

    Raises:
      ArgumentTypeError: it is neither.
    """
    height, _, width = text.partition("x")
    if not (height.isdecimal() and (width or height).isdecimal() and int(height) and int(width or height)):
        raise argparse.ArgumentTypeError(f"must be a size such as 224 or 224x320, not {text!r}")
    return int(height), int(width or height)


def split_overrides(arguments: list[str], prefix: str = "--config.") -> tuple[list[str], list[tuple[str, str]]]:
    """Returns the words of a command line without the `--config.KEY=VALUE`, and those as pairs.

    Raises:
      UserError: one lacks its value.
    """
    overrides, rest = [], []
    words = iter(arguments)
    for word in words:
        if not word.startswith(prefix):
            rest.append(word)
            continue
        key, equals, value = word.removeprefix(prefix).partition("=")
        if not equals:
            value = next(words, None)
            if value is None:
                raise UserError(f"{word} lacks its value; write {word}=VALUE")
        overrides.append((key, value))
    return rest, overrides


def model_fields(overrides: list[tuple[str, str]]) -> dict[str, object]:
    """Returns the fields that `--model.FIELD=VALUE` set: numbers, bools, None, or the text itself."""
    return {key: _value_of(text) for key, text in overrides}


def _value_of(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def configured(file: str, overrides: list[tuple[str, str]]):
    """Returns the config of a file with the overrides set.

    Raises:
      UserError: there is no such file or key, or a value does not fit.
    """
    from vit_jax import config as configs

    config = configs.load_config(file)
    for key, value in overrides:
        configs.set_key(config, key, value)
    return config


def exit_status(run: Callable[[list[str]], int | None], arguments: list[str], interrupted: str) -> int:
    """Runs a command and returns its exit status: what `run` returns, 1 after a mistake, 130 after Ctrl-C.

    A mistake is printed in one line; with `--debug` among the arguments its traceback is shown.

    Args:
      interrupted: what Ctrl-C leaves behind, said then.
    """
    try:
        return run(arguments) or 0
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    except UserError as error:
        if "--debug" in arguments:
            raise
        print(f"vit_jax: {error}", file=sys.stderr)
        return 1
