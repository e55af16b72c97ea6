"""Several processes, one fate: where one is gone, the others say so and leave, before JAX aborts them.

Left alone, a process whose peer has died waits in a collective until JAX's own heartbeat, of a minute or more, ends it
from C++ with a stack trace, and no Python code hears of it.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Protocol

from vit_jax.errors import UserError

BEAT_SECONDS = 2.0
PATIENCE_SECONDS = 20.0
"""Silence after which a process counts as gone. Above the longest pause of Python's threads in tracing and loading, and
low enough that the others leave within 30 s."""

BEATS, GONE, HEARD = "vit_jax/beat/", "vit_jax/gone/", "vit_jax/heard/"
WHAT_TO_DO = "Everything up to the last checkpoint is kept: start all processes again with the same command"


class Store(Protocol):
    """The keys and values that JAX's coordination service shares between the processes."""

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None: ...

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]: ...


class Watchdog:
    """Tells the other processes that this one lives, and ends it where one of them does not.

    Process 0, which holds the store, watches the others; they watch whether it answers. What a process that fails has
    to say goes to all.

    Attributes:
      failing: this process fails by itself; what becomes of the others no longer matters to it.
    """

    def __init__(self, store: Store, index: int, count: int, patience: float = PATIENCE_SECONDS):
        self.store, self.index, self.count, self.patience = store, index, count, patience
        self.failing, self.stopped, self.leaving = False, threading.Event(), threading.Lock()
        self.answered = time.monotonic()
        self.heard = {other: ("", self.answered) for other in range(count) if other != index}

    def start(self) -> None:
        """Starts to beat and to watch."""
        for work in (self._beat, self._watch):
            threading.Thread(target=work, name=f"vit_jax{work.__name__}", daemon=True).start()

    def stop(self) -> None:
        """Ends both, once all processes have agreed to leave."""
        self.stopped.set()

    def _beat(self) -> None:
        number = 0
        while not self.stopped.is_set():
            number += 1
            # A store that fails is one that does not answer, which `_watch` sees.
            with contextlib.suppress(RuntimeError):
                self.store.key_value_set(f"{BEATS}{self.index}", str(number), allow_overwrite=True)
                if self.index == 0:
                    self._listen()
                self.answered = time.monotonic()
                self._read_verdict()
            self.stopped.wait(BEAT_SECONDS)

    def _listen(self) -> None:
        for other, beat in self._values(BEATS).items():
            if other != self.index and self.heard[other][0] != beat:
                self.heard[other] = beat, time.monotonic()

    def _read_verdict(self) -> None:
        for other, why in self._values(GONE).items():
            if other != self.index:
                self.leave(why)

    def _values(self, folder: str) -> dict[int, str]:
        return {int(key.rpartition("/")[2]): value for key, value in self.store.key_value_dir_get(folder)}

    def _watch(self) -> None:
        while not self.stopped.wait(BEAT_SECONDS / 2):
            now = time.monotonic()
            if now - self.answered > self.patience:
                self.leave(gone(0 if self.index else self.index, self.count, self.patience))
            for other, (_, since) in self.heard.items() if self.index == 0 else ():
                if now - since > self.patience:
                    why = gone(other, self.count, self.patience)
                    with contextlib.suppress(RuntimeError):
                        self.store.key_value_set(f"{GONE}{other}", why)
                    self.leave(why)

    def leave(self, why: str) -> None:
        """Prints why and ends this process with status 1, unless it is ending by itself."""
        with self.leaving:
            if self.failing:
                return
            print("\n" * sys.stderr.isatty() + f"vit_jax: {why}. {WHAT_TO_DO}", file=sys.stderr)  # below a progress bar
            self.end(1)

    def fail(self, error: BaseException) -> None:
        """Tells the others that this process ends with an error, unless that only follows from one of them being gone.

        A collective that breaks when a process dies raises here at once; the watchdog is given the time to find out.
        """
        if not isinstance(error, UserError | KeyboardInterrupt):
            self.stopped.wait(self.patience + 3 * BEAT_SECONDS)
        with self.leaving:
            self.failing = True
        said = str(error) if isinstance(error, UserError) else str(UserError(f"{type(error).__name__} {error}"))[:200]
        with contextlib.suppress(RuntimeError):
            self.store.key_value_set(f"{GONE}{self.index}", f"process {self.index} of {self.count} stopped: {said}")

    def end(self, status: int) -> None:
        """Ends this process at once: a collective that waits for one that is gone cannot be interrupted.

        Process 0 first gives the others time to hear why, as their connection ends with it.
        """
        with contextlib.suppress(RuntimeError):
            self.store.key_value_set(f"{HEARD}{self.index}", "", allow_overwrite=True)
            deadline = time.monotonic() + 3 * BEAT_SECONDS
            while self.index == 0 and self._waited_for() and time.monotonic() < deadline:
                time.sleep(0.1)
        if self.index == 0:
            time.sleep(0.5)
        end_process(status)

    def _waited_for(self) -> set[int]:
        now, heard = time.monotonic(), self._values(HEARD).keys() | self._values(GONE).keys()
        return {other for other, (_, since) in self.heard.items() if now - since < self.patience} - heard


def gone(index: int, count: int, seconds: float) -> str:
    """Returns what is said of a process that is silent."""
    return f"process {index} of {count} is gone or out of reach: nothing heard of it for {seconds:.0f} s"


def end_process(status: int) -> None:
    """Ends this process and those that load its data, without waiting for any other."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(status)


_watchdog: Watchdog | None = None


def watch(store: Store, index: int, count: int, address: str) -> Watchdog:
    """Starts the watchdog of this process.

    Args:
      address: HOST:PORT of process 0.
    """
    global _watchdog
    _watchdog = Watchdog(store, index, count)
    _watchdog.start()
    if index != 0:
        # When process 0 dies JAX aborts the others in the same moment.
        explain_abort(lambda: None if answers(address) else f"process 0 of {count} at {address} is gone. {WHAT_TO_DO}")
    return _watchdog


def ended(run: Callable[[], int]) -> int:
    """Runs a command to its exit status; where it fails as one of several processes, that is the end of the process."""
    try:
        status = run()
    except Exception:
        if _watchdog is None or not _watchdog.failing:
            raise
        traceback.print_exc()
        status = 1
    if _watchdog is not None and _watchdog.failing:
        _watchdog.end(status)
    return status


def answers(address: str) -> bool:
    """Returns whether anything listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=2):
            return True
    except OSError:
        return False


_handler = None


def explain_abort(explain: Callable[[], str | None], descriptor: int = 2) -> None:
    """Has the last line be said by `explain` where JAX's C++ code aborts; where that returns None it aborts as ever.

    Python's own signal handlers come too late for that: an aborting thread never returns to the interpreter.

    Args:
      descriptor: of the file that the line is written to.
    """
    global _handler
    library = ctypes.CDLL(None)
    library.signal.argtypes, library.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def handler(number):
        if (line := explain()) is not None:
            os.write(descriptor, f"vit_jax: {line}\n".encode())
            end_process(1)
        library.signal(number, None)

    _handler = handler  # C code keeps no Python object alive
    library.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
