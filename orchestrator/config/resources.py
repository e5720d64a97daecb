"""What there is to run on, before Ray is asked. Knows no trials."""

import contextlib
import os
import socket
import sys
from pathlib import Path

import torch

from orchestrator.config.schema import Resources
from orchestrator.core.errors import PreflightError

JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for a submitted job, which belongs to its cluster wherever it began
ANSWER_S = 5.0
LONGEST_SOCKET = 107 if sys.platform == "linux" else 103  # bytes of a path that a socket can be bound to
SOCKET = "ray/session_2030-12-31_23-59-59_999999_{pid}/sockets/plasma_store"  # Ray's longest, below its folder
CGROUP = Path("/sys/fs/cgroup/cpu.max")
CGROUP_MEMORY = Path("/sys/fs/cgroup/memory.max")


def local_resources() -> dict[str, float]:
    """CPUs that this process may use, and GPUs, under Ray's names."""
    return {"CPU": float(_cpus()), "GPU": float(torch.cuda.device_count())}


def local_memory() -> int:
    """Return the bytes of memory that this process may use: those of the machine, or the limit of the container; 0: not known."""
    found = []
    with contextlib.suppress(OSError, ValueError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(OSError, ValueError):  # cgroup v2: "max", or bytes
        found.append(int(CGROUP_MEMORY.read_text()))
    return min(found, default=0)


def _cpus() -> int:
    """The fewest of: CPUs of the machine, those we are bound to, the quota of the container."""
    counts = [os.cpu_count() or 1]
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        counts.append(len(os.sched_getaffinity(0)))
    with contextlib.suppress(OSError, ValueError):  # cgroup v2: "max 100000", or "200000 100000" for two CPUs
        quota, period = CGROUP.read_text().split()
        counts.append(max(1, int(quota) // int(period)))
    return min(counts)


def ray_folder() -> tuple[str, str]:
    """Return the environment variable that decides where Ray keeps its session, and the folder; an empty name for its default."""
    for name in ("RAY_TMPDIR", *(("TMPDIR",) if sys.platform == "linux" else ())):
        if name in os.environ:
            return name, os.environ[name]
    return "", "/tmp"


def require_short_sockets() -> None:
    """Raise PreflightError when Ray's session lies so deep that its sockets cannot be bound."""
    name, folder = ray_folder()
    longest = len(os.path.join(folder, SOCKET.format(pid=os.getpid())).encode())
    if longest > LONGEST_SOCKET:
        most = LONGEST_SOCKET - len(SOCKET.format(pid=2**22)) - 1
        raise PreflightError(
            f"{name} = {folder} is too long: Ray's sockets below it would have paths of {longest} bytes, and {LONGEST_SOCKET} are "
            f"allowed: set {name} to a path of at most {most} bytes, or set RAY_TMPDIR=/tmp for Ray alone",
            field=name,
            value=folder,
            allowed=f"at most {most} bytes",
        )


def cluster_address(resources: Resources) -> str | None:
    """The running cluster to use: the configured one, or RAY_ADDRESS, as `ray job submit` sets it; None: start one here."""
    known = os.environ.get("RAY_ADDRESS")
    return known if known and JOB in os.environ else resources.address or known


def resolve_address(address: str) -> str | None:
    """What `--address` says: None where it is `local`, Ray of this machine."""
    return None if address in ("", "local") else address


def find_cluster(address: str) -> str:
    """The host:port of a running cluster; for `auto` that of the one on this machine. PreflightError without one."""
    if address != "auto":
        return address
    from ray._private.services import canonicalize_bootstrap_address

    try:
        there: str | None = canonicalize_bootstrap_address("auto")
    except (ConnectionError, ValueError) as error:
        raise PreflightError(
            "resources.address = 'auto': no Ray cluster runs on this machine: start one with `ray start --head`, give the "
            "host:port of another one, or --address local to start Ray here",
            field="resources.address",
            value=address,
            allowed="a Ray cluster that runs on this machine",
        ) from error
    assert there is not None, "of `auto` Ray makes an address or an error"
    return there


def listens(address: str) -> bool:
    """Whether somebody accepts connections at `host:port`; after `ANSWER_S` nobody does. ValueError for what is none."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_S).close()
    except OSError:
        return False
    return True


def require_answer(address: str) -> None:
    """PreflightError when nobody listens at `host:port`, or where `auto` leads to; Ray itself would try for minutes."""
    if address.startswith("ray://"):
        raise PreflightError(
            f"resources.address = {address!r} is Ray Client's: give the host:port of the cluster itself, or use `ray job submit`",
            field="resources.address",
            value=address,
            allowed="host:port of the cluster itself",
        )
    there = find_cluster(address)
    host, _, port = there.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_S).close()
    except (OSError, ValueError) as error:
        last = f", where {there} was the last one" if there != address else ""
        raise PreflightError(
            f"resources.address = {address!r}: nobody answers there{last} ({error}): give the host:port of a running Ray cluster, "
            "or --address local to start Ray here",
            field="resources.address",
            value=address,
            allowed="host:port of a running Ray cluster, or local",
        ) from error
