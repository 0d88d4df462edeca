"""The connection to a Ray cluster: a running one, or one that is made on this machine and ends with the command.

Ray itself is imported by the functions that need it: it is an extra, and most commands do without.
"""

import logging
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from engine.base.errors import UserError
from engine.base.files import PACKAGES, data_folder

LOCAL = "local"
ADDRESS_HELP = "local (a cluster of this machine alone, for this command), auto (the one that runs here), or HOST:PORT"
STORE_BYTES = 200_000_000  # of a local cluster's shared memory: only small messages pass through it
_KNOCKING = 5.0  # seconds
_MEANT = re.compile(r"local|auto|(\[[0-9a-fA-F:]+\]|[^\s:/]+):\d{1,5}")


def check_ray(address: str) -> None:
    """Raise UserError where Ray is not installed, or the address is none."""
    if not _MEANT.fullmatch(address):
        raise UserError(f"{address!r} is no address of a Ray cluster.", f"Give {ADDRESS_HELP}.")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray is imported: it reports its use, unless told not to
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise UserError("Ray is not installed.", 'Install it with: pip install "persona-studio[ray]"') from error


@contextmanager
def connected(address: str) -> Iterator[None]:
    """A connection to the cluster while the block runs. Raises UserError where there is none.

    What runs in the cluster finds this version of the engine and this data folder, at the same paths as here.
    """
    check_ray(address)
    import ray

    _knock(address)
    own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": STORE_BYTES} if address == LOCAL else {}
    try:
        ray.init(address, log_to_driver=False, configure_logging=False, logging_level=logging.ERROR, runtime_env=environment(),
                 **own)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, ray.exceptions.RayError) as error:
        if address == LOCAL:
            raise UserError(f"Ray cannot start on this machine: {_first_line(error)}.") from error
        raise UserError(f"There is no Ray cluster at {address}, or it refuses this machine.", "Start Ray here as well, with: ray "
                        "start --address HOST:PORT. The same version of Ray and its token are needed.") from error
    try:
        with redirect_stdout(sys.stderr):  # Ray prints there what befalls its machines; standard output is for our lines
            yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise UserError where nothing listens at HOST:PORT: Ray would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _KNOCKING).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"Nothing answers at {address}.",
                        "Is this the address of the first machine of a running cluster?") from error


def environment(**more: str) -> dict[str, Any]:
    """The runtime environment of what runs in the cluster: where the engine and the data are."""
    paths = dict.fromkeys([str(PACKAGES), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))])
    return {"env_vars": {"PYTHONPATH": os.pathsep.join(paths), "PERSONA_STUDIO_HOME": str(data_folder()),
                         "RAY_USAGE_STATS_ENABLED": "0", **more}}


def places(cpus: int, gpus: float = 0) -> int:
    """How many processes of `cpus` cores (and `gpus` GPUs) each fit into the cluster. Raises UserError where none does."""
    import ray

    nodes = [one["Resources"] for one in ray.nodes() if one["Alive"]]
    found = sum(min(int(one.get("CPU", 0) // cpus), int(one.get("GPU", 0) / gpus) if gpus else 1 << 30) for one in nodes)
    if not found:
        most = max((one.get("CPU", 0) for one in nodes), default=0)
        wanted = f"{cpus} cores" + (f" and {gpus:g} GPUs" if gpus else "")
        raise UserError(f"No machine of the cluster has {wanted} (the largest has {most:g} cores).", "Ask for fewer.")
    return found


def smallest_node() -> int:
    """The cores of the cluster's smallest machine that has any."""
    import ray

    return min((int(one["Resources"]["CPU"]) for one in ray.nodes() if one["Alive"] and one["Resources"].get("CPU", 0) >= 1),
               default=1)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")
