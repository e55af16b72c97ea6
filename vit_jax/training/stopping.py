"""Stopping a run from outside: it saves, then leaves; of several processes all do so after the same step."""

import os
import signal

import jax
from jax.experimental import multihost_utils


class Interrupted(Exception):
    """A signal asked the run to stop, and it has saved."""

    def __init__(self, number: int, step: int):
        super().__init__(f"{signal.Signals(number).name} received: saved step {step}; run the same command to continue")
        self.status = 128 + number


class StopSignal:
    """Remembers the first SIGTERM or SIGINT, so that the loop can save before it leaves. A second one stops at once.

    Of several processes any may be signalled. JAX's preemption service, which holds SIGTERM there, agrees on a step
    that none has passed; SIGINT is handed to it. Only a second SIGINT stops at once there.

    Attributes:
      received: the signal, once it was.
    """

    def __init__(self):
        self.received: int | None = None
        self.several = jax.process_count() > 1
        self.asked = 0

    def __enter__(self):
        self.previous = {}
        for number in (signal.SIGINT,) if self.several else (signal.SIGTERM, signal.SIGINT):
            try:
                self.previous[number] = signal.signal(number, self.remember)
            except ValueError:  # not in the main thread, where Python takes no handlers: the caller's job
                break
        return self

    def remember(self, number, frame):
        self.received = number
        signal.signal(number, self.previous[number] or signal.SIG_DFL)
        if self.several:
            os.kill(os.getpid(), signal.SIGTERM)

    def reached(self) -> bool:
        """Returns whether to save and leave now; all processes ask after every step, and hear the same.

        Costs no communication until there was a signal.
        """
        if not self.several:
            return self.received is not None
        # Calls, not steps: the service counts on from 1, wherever the run continues or goes back to.
        self.asked += 1
        if not multihost_utils.reached_preemption_sync_point(self.asked):
            return False
        self.received = self.received or signal.SIGTERM
        return True

    def __exit__(self, *error):
        for number, handler in self.previous.items():
            signal.signal(number, handler)
