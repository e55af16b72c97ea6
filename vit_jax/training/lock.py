"""One run at a time in a workdir."""

import contextlib
import fcntl
import os
import pathlib
import socket
from collections.abc import Iterator
from typing import TextIO

import jax

from vit_jax.errors import UserError, explained_writes
from vit_jax.training.agreement import anywhere

LOCK_FILE = ".lock"


@contextlib.contextmanager
def locked(workdir: str) -> Iterator[None]:
    """Keeps other runs out of a workdir. The lock belongs to the open file: it ends with the process, however it ends.

    Of several hosts the first one holds it, and all hear whether it could.

    Raises:
      UserError: another run holds it; its process and host are named.
    """
    file, holder = _acquire(pathlib.Path(workdir) / LOCK_FILE) if jax.process_index() == 0 else (None, None)
    with file or contextlib.nullcontext():
        if anywhere(holder is not None):
            raise UserError(
                f"workdir {workdir!r} is in use by another run ({holder or 'as the first host says'}); "
                "wait for it, stop it, or take another --workdir"
            )
        yield


def _acquire(path: pathlib.Path) -> tuple[TextIO | None, str | None]:
    """Returns the locked file, or None and who holds it."""
    with explained_writes(str(path)):
        file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with file:
            file.seek(0)
            return None, file.read().strip() or "one that has just begun"
    except OSError as error:
        print(f"{path} cannot be locked ({error.strerror}): see to it that no other run uses this workdir", flush=True)
        return file, None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file, None
