"""Several processes as one run: joining them by JAX's own means, and leaving together."""

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax._src import distributed as jax_distributed  # the client is not public; Orbax reaches it the same way
from jax._src.clusters import ClusterEnv  # nor is asking whether there is a cluster without joining it
from jax.experimental import multihost_utils

from vit_jax import watchdog
from vit_jax.errors import UserError

JOIN_SECONDS = 120.0
JAX_LATER_SECONDS = 60
"""How much longer JAX itself would wait, before it aborts in C++."""

HEARTBEAT_SECONDS = 60
"""JAX's own heartbeat, for a process whose watchdog hangs too."""

LEAVE_SECONDS = 24 * 3600
"""Of waiting for the others at the end; the watchdog sees to those that never come."""

SHARED_SECONDS = 10.0
"""Within which a network file system shows one host what another has written."""

OWN_KEYS = ("data.dir", "data.workers", "data.in_memory")
"""Config keys that may differ between the processes of one run."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes of one run.

    Attributes:
      address: HOST:PORT at which process 0 listens.
      count: how many processes there are.
      index: which of them this one is.
    """

    address: str
    count: int
    index: int

    def __post_init__(self):
        host, colon, port = self.address.rpartition(":")
        if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
            raise UserError(f"--coordinator_address must be HOST:PORT, such as 10.0.0.1:8476, not {self.address!r}")
        if not 0 <= self.index < self.count:
            raise UserError(
                f"--process_index {self.index} does not fit --process_count {self.count}: "
                "it counts from 0 to one less than that"
            )


def located(address: str | None, count: int | None, index: int | None, wait: float = JOIN_SECONDS) -> Cluster | None:
    """Returns the cluster that flags describe, what they leave open taken from a TPU pod's, SLURM's or Open MPI's
    environment; None where this process is alone.

    Raises:
      UserError: they are incomplete and there is no such environment, or contradict each other.
    """
    if count == 1 and address is None and index in (None, 0):
        return None
    found = (address, count, index)
    if None in found:
        try:
            found = ClusterEnv.auto_detect_unset_distributed_params(
                *found,
                local_device_ids=None,
                cluster_detection_method=None,
                initialization_timeout=round(wait),
            )[:3]
        except Exception as error:  # of variables, a metadata server, Kubernetes: whatever is behind it
            doubt = f"cannot tell whether this is one of several processes ({type(error).__name__}: {error})"
            flags = "--coordinator_address, --process_count and --process_index"
            if (address, count, index) != (None, None, None):
                raise UserError(f"{doubt}; give all of {flags}") from error
            print(f"{doubt}: taken to be alone; if it is not, give {flags}", file=sys.stderr, flush=True)
            return None
    if None in found:
        if (address, count, index) == (None, None, None):
            return None
        flags = ("--coordinator_address=HOST:PORT", "--process_count=N", "--process_index=I")
        missing = [flag for flag, value in zip(flags, found, strict=True) if value is None]
        raise UserError(f"several processes need {' and '.join(missing)} too (no TPU pod, SLURM or Open MPI found)")
    return None if found[1] == 1 and index in (None, 0) else Cluster(*found)


@contextlib.contextmanager
def joined(cluster: Cluster | None, wait: float = JOIN_SECONDS, keeps_sigterm: bool = False) -> Iterator[None]:
    """Makes this process one of a cluster, and leaves it with the others; alone it does nothing.

    Only process 0 prints to stdout. Must come before JAX first looks for devices.

    Args:
      wait: seconds within which all processes must come.
      keeps_sigterm: SIGTERM is left to JAX, with which a training agrees on its last step; else it ends the process.

    Raises:
      UserError: the coordinator is not reached, or is not the only one at its address.
    """
    if cluster is None:
        yield
        return
    join(cluster, wait)
    if not keeps_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    client = jax_distributed.global_state.client
    watching = watchdog.watch(client, cluster.index, cluster.count, cluster.address)
    try:
        require_same({"--process_count": cluster.count})
        with open(os.devnull, "w") as nowhere, contextlib.ExitStack() as muted:
            if cluster.index != 0:
                muted.enter_context(contextlib.redirect_stdout(nowhere))
            print(f"{cluster.count} processes with {jax.device_count()} devices", flush=True)
            yield
        client.wait_at_barrier("vit_jax/leave", LEAVE_SECONDS * 1000)
    except BaseException as error:
        watching.fail(error)
        raise
    watching.stop()
    jax.distributed.shutdown()


def join(cluster: Cluster, wait: float) -> None:
    """Calls `jax.distributed.initialize`, with every way in which that ends in C++ turned into one line.

    Raises:
      UserError: the coordinator is not reached, or is not the only one at its address.
    """
    until = time.monotonic() + wait
    if cluster.index == 0 and watchdog.answers(f"localhost:{cluster.address.rpartition(':')[2]}"):
        raise UserError(
            f"something listens at the port of --coordinator_address {cluster.address} already: "
            "wait for the run before this one to end, or take another port"
        )
    print(f"process {cluster.index} of {cluster.count}: joining at {cluster.address}", file=sys.stderr, flush=True)
    if cluster.index != 0:
        await_coordinator(cluster, until, wait)
    incomplete = (
        f"waited {wait:.0f} s for {cluster.count} processes at {cluster.address}, but not all came; start each with "
        f"the same --coordinator_address and --process_count, and its own --process_index, 0 to {cluster.count - 1}"
    )
    refused = (
        f"the coordinator at {cluster.address} refuses process {cluster.index} of {cluster.count}: is another one "
        f"--process_index={cluster.index} too, or has another --process_count? Give all the same --process_count, and "
        "each its own --process_index"
    )
    with stderr_aside() as stderr:

        def give_up():
            os.write(stderr, f"vit_jax: {incomplete}\n".encode())
            os._exit(1)

        watchdog.explain_abort(lambda: refused, stderr)
        timer = threading.Timer(until - time.monotonic(), give_up)
        timer.daemon = True
        timer.start()
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        try:
            jax.distributed.initialize(
                cluster.address,
                cluster.count,
                cluster.index,
                initialization_timeout=round(wait) + JAX_LATER_SECONDS,
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            )
        except (RuntimeError, ValueError) as error:
            raise UserError(f"cannot join the processes at {cluster.address}: {error}") from error
        finally:
            timer.cancel()
    watchdog.explain_abort(lambda: None)


def await_coordinator(cluster: Cluster, until: float, wait: float) -> None:
    """Returns once process 0 listens.

    Raises:
      UserError: it did not in time; with the last reason.
    """
    host, _, port = cluster.address.rpartition(":")
    while True:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=5):
                return
        except OSError as error:
            if time.monotonic() > until:
                raise UserError(
                    f"process 0 is not reached at --coordinator_address {cluster.address} within {wait:.0f} s "
                    f"({error.strerror or error}); start it there, or mend the address"
                ) from error
        time.sleep(0.5)


@contextlib.contextmanager
def stderr_aside() -> Iterator[int]:
    """Keeps what C++ code writes to stderr until the block has ended, and yields the descriptor of the real one."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as aside:
        stderr = os.dup(2)
        os.dup2(aside.fileno(), 2)
        try:
            yield stderr
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            aside.seek(0)
            os.write(2, aside.read())


def require_same(asked: dict[str, object]) -> None:
    """Checks that all processes were asked for the same, and names what differs; a process alone passes.

    Args:
      asked: config keys and flags by name; each process calls this for the same ones.

    Raises:
      UserError: this process differs from process 0.
    """
    state = jax_distributed.global_state
    if state.client is None:
        return
    mine = {name: json.dumps(value, default=str) for name, value in asked.items() if name not in OWN_KEYS}
    key = f"vit_jax/asked/{min(mine)}"
    if state.process_id == 0:
        state.client.key_value_set(key, json.dumps(mine))
    first = json.loads(state.client.blocking_key_value_get(key, LEAVE_SECONDS * 1000))
    differing = [
        f"{name} is {mine.get(name)} here, {first.get(name)} there"
        for name in sorted(mine.keys() | first.keys())
        if mine.get(name) != first.get(name)
    ]
    if differing:
        raise UserError(
            f"process {state.process_id} was asked for something else than process 0: {'; '.join(differing)}"
        )
    state.client.wait_at_barrier(f"{key}/same", LEAVE_SECONDS * 1000)


_meetings = itertools.count()


def together(program: jax.stages.Wrapped) -> Callable:
    """Returns a jitted program that no process starts for the first time before all have compiled it.

    gloo, the CPU's collectives, allows 30 s for all processes to come when devices first speak to each other, and one
    process may compile that much longer than another. No setting reaches that limit in a program that jax has loaded
    from its cache.
    """
    if jax.process_count() == 1:
        return program
    compiled = False

    def run(*arguments):
        nonlocal compiled
        if not compiled:
            program.lower(*arguments).compile()  # kept: the call below compiles no more
            name = f"vit_jax/compiled/{next(_meetings)}"
            jax_distributed.global_state.client.wait_at_barrier(name, LEAVE_SECONDS * 1000)
            compiled = True
        return program(*arguments)

    return run


def require_shared(folder: str) -> None:
    """Checks that a folder is the same one for all processes.

    Raises:
      UserError: a process does not see there what process 0 has put there.
    """
    if jax.process_count() == 1:
        return
    number = multihost_utils.broadcast_one_to_all(np.int32(secrets.randbits(31)))
    path = pathlib.Path(folder) / f".shared-{int(number)}"
    if jax.process_index() == 0:
        path.touch()
    multihost_utils.sync_global_devices("vit_jax/shared/written")
    until = time.monotonic() + SHARED_SECONDS
    while not (seen := path.exists()) and time.monotonic() < until:
        time.sleep(0.2)
    blind = [index for index, sees in enumerate(multihost_utils.process_allgather(np.asarray(seen))) if not sees]
    if jax.process_index() == 0:
        path.unlink()
    if blind:
        raise UserError(
            f"{folder!r} on process {blind[0]} is not the folder of process 0: all processes need one that they share"
        )
