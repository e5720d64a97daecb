"""What the commands for a running cluster do: submit, follow, list, stop. Returns the exit code."""

import json
import shlex
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestrator import errors
from orchestrator.cluster.jobs import Cluster, Job
from orchestrator.cluster.package import collect, in_words
from orchestrator.errors import ConfigurationError
from orchestrator.private import said
from orchestrator.redact import redacted
from orchestrator.submission import submission

ROOT = Path(__file__).resolve().parents[1]  # of the project
LAST_LINES = 20  # of a job's log, where it is shown
BY_ITSELF = (errors.OK, errors.NO_USABLE_TRIAL, errors.BAD_CONFIGURATION)
NOT_FOUND = 127  # of a shell that knows no such program
console = Console()


def submit(
    group: Any,
    words: list[str],
    address: str | None,
    name: str | None,
    excludes: list[str],
    limit_mib: float,
    detach: bool,
) -> int:
    """Pack the project, send it with a command line to a cluster, and follow that to its end.

    `group` is the whole command line interface, which reads the `words` of that command line.
    """
    wanted = submission(group, words, name, ROOT)
    package = collect(ROOT, excludes, wanted.beside)
    package.require_at_most(limit_mib)
    cluster = Cluster(address)
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "project.zip"
        sent = package.write(archive)
        _say(f"packed {len(package.files)} files, {in_words(package.bytes)} ({in_words(sent)} as sent)")
        cluster.submit(wanted.name, wanted.entrypoint, archive, wanted.labels)
    _say(f"submitted {wanted.name} to {cluster.address}: {wanted.entrypoint}")
    if detach:
        _ways(cluster, wanted.name)
        return errors.OK
    return _follow(cluster, wanted.name)


def status(name: str | None, address: str | None, as_json: bool, follow: bool) -> int:
    """What a cluster knows: of a job its state and the end of its log, or the log until it ends; without a name all jobs."""
    if follow and name is None:
        raise ConfigurationError("--follow needs the name of a job: `python run.py status --address HOST:PORT` lists them")
    cluster = Cluster(address)
    if name is None:
        _list(cluster, as_json)
        return errors.OK
    if follow:
        return _follow(cluster, name)
    _show(cluster, cluster.job(name), as_json)
    return errors.OK


def stop(name: str, address: str | None) -> int:
    """End a job, wait until it has ended, and say how its run goes on."""
    cluster = Cluster(address)
    found, was_running = cluster.stop(name)
    _say(f"{name}: {found.state}" + ("" if was_running else ", before it was told to stop"))
    _resume(cluster, found)
    return errors.OK


def _list(cluster: Cluster, as_json: bool) -> None:
    found = cluster.jobs()
    if as_json:
        print(json.dumps([_plain(job) for job in found], indent=1))
        return
    rows = [("job", "state", "started", "command"), *((job.name, job.state, _when(job), redacted(job.entrypoint)) for job in found)]
    widths = [max(len(row[column]) for row in rows) + 2 for column in range(3)]
    for *fields, command in rows:
        _say("".join(f"{text:{width}}" for text, width in zip(fields, widths, strict=True)) + command)
    if not found:
        _say(f"nothing was submitted to {cluster.address} yet")


def _show(cluster: Cluster, job: Job, as_json: bool) -> None:
    if as_json:
        print(json.dumps(_plain(job), indent=1))
        return
    ended = f", ended {job.ended:%Y-%m-%d %H:%M:%S}" if job.ended else ""
    _say(f"{job.name}: {job.state}, started {_when(job)}{ended}: {redacted(job.entrypoint)}")
    for line in cluster.log(job.name).splitlines()[-LAST_LINES:]:
        _say(said(f"  {line}"))


def _follow(cluster: Cluster, name: str) -> int:
    try:
        found = cluster.follow(name, lambda text: print(said(text), end="", flush=True))
    except KeyboardInterrupt:
        _say(f"\n{name} goes on without you")
        _ways(cluster, name)
        return errors.INTERRUPTED
    _say(f"{name}: {found.state}" + (f" with exit code {found.returned}" if found.returned else ""))
    if found.returned == NOT_FOUND:
        _say("the head found no `python`: start Ray there with the environment's bin folder on the PATH")
    elif found.state == "failed" and found.returned is None:
        _say(redacted(found.message))
    _resume(cluster, found)
    return found.exit_code


def _ways(cluster: Cluster, name: str) -> None:
    _say(f"  follow: python run.py status {name} --address {cluster.address} --follow")
    _say(f"  stop:   python run.py stop {name} --address {cluster.address}")


def _resume(cluster: Cluster, ended: Job) -> None:
    """How a run goes on that did not end by itself: it was stopped, or killed."""
    run, store = ended.labels.get("run"), ended.labels.get("store")
    if run and store and ended.returned not in BY_ITSELF and ended.state != "succeeded":
        _say(f"  resume: python run.py submit --address {cluster.address} -- sweep --resume {run} --store {shlex.quote(store)}")


def _when(job: Job) -> str:
    return f"{job.started:%Y-%m-%d %H:%M:%S}" if job.started else "not yet"


def _plain(job: Job) -> dict[str, Any]:
    times = {key: moment.isoformat() if moment else None for key, moment in (("started", job.started), ("ended", job.ended))}
    hidden = {"entrypoint": redacted(job.entrypoint), "message": redacted(job.message)}
    return asdict(job) | times | hidden


def _say(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
