"""The one exception for mistakes that a person can make and mend."""


class UserError(Exception):
    """Says in one line what is wrong, where, and what to do.

    Commands print the message alone and exit with status 1; `--debug` shows the traceback.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


def nearest(name: str, known: list[str]) -> str:
    """Returns " (did you mean 'x'?)" for the known name closest to `name`, or "" where none is close."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
