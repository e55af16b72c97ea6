"""TPU chips to compile for where there are none."""

import importlib.util
import os

import jax

from vit_jax.errors import UserError

UNATTACHED = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""Environment under which libtpu does not look for the cloud's metadata server, and loads where another process has
loaded it already: nothing here uses a chip that it would have to have alone."""


def chips_of(topology: str) -> list[jax.Device]:
    """Returns the chips of a TPU topology such as `v5e:2x4`, for compilation alone.

    Raises:
      UserError: libtpu is not installed, or knows no such topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("--topology compiles with the libtpu package, which is not installed; pip install -e '.[tpu]'")
    from jax.experimental import topologies

    for variable, value in UNATTACHED.items():
        os.environ.setdefault(variable, value)
    try:
        return list(topologies.get_topology_desc(topology, "tpu").devices)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"--topology={topology}: {reason}; write such as v5e:2x2 or v4:2x2x1") from error
