"""The one exception for mistakes that a person can make and mend."""

import contextlib
import difflib
import errno
from collections.abc import Iterator

LONGEST = 1000
"""Characters of a message; a path alone may have hundreds."""


class UserError(Exception):
    """Says in one line what is wrong, where, and what to do.

    Commands print the message alone and exit with status 1; `--debug` shows the traceback. Messages quote names and
    values out of files that may hold anything: what cannot be printed is escaped, and the middle of what is too long
    is left out.
    """

    def __init__(self, message: str):
        line = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in " ".join(message.split()))
        super().__init__(line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} … {line[-LONGEST // 2 :]}")


def nearest(name: str, known: list[str]) -> str:
    """Returns " (did you mean 'x'?)" for the known name closest to `name`, or "" where none is close."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


@contextlib.contextmanager
def named(where: str) -> Iterator[None]:
    """Puts a place before the message of a `UserError` that does not name it.

    Raises:
      UserError: that one.
    """
    try:
        yield
    except UserError as error:
        raise error if where in str(error) else UserError(f"{where}: {error}") from error


@contextlib.contextmanager
def explained_writes(what: str) -> Iterator[None]:
    """Turns a write that failed for want of room or permission into one line; other errors pass.

    The libraries below raise such errors in their own types, so the whole chain of causes is looked at.

    Raises:
      UserError: there is no room, or writing is not allowed.
    """
    try:
        yield
    except Exception as error:
        if reason := _why_not_written(error):
            raise UserError(
                f"cannot write {what}: {reason}; what was saved before is intact; mend that, and give the command again"
            ) from error
        raise


def _why_not_written(error: BaseException | None) -> str | None:
    while error is not None:
        number = getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error) or "ENOSPC" in str(error):
            return "no space left on the device"
        if number in (errno.EACCES, errno.EPERM, errno.EROFS):
            return "permission denied" if number != errno.EROFS else "the file system is read-only"
        error = error.__cause__ or error.__context__
    return None
