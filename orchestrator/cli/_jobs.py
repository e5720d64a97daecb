"""Show, list and follow jobs of a running cluster."""

import json
import shlex
from dataclasses import asdict
from typing import Any

from rich.console import Console

from orchestrator.cluster.jobs import Cluster, Job
from orchestrator.core import errors
from orchestrator.core.privacy import sanitize
from orchestrator.core.program import program_name
from orchestrator.core.redact import redact

LAST_LINES = 20  # of a job's log, as `show_job` prints it
OWN_EXIT_CODES = (errors.OK, errors.NO_USABLE_TRIAL, errors.BAD_CONFIGURATION)
PROGRAM_NOT_FOUND = 127  # exit code of a shell that does not find the program
console = Console()


def list_jobs(cluster: Cluster, as_json: bool) -> None:
    """Print all jobs of a cluster, as a table or as JSON."""
    jobs = cluster.jobs()
    if as_json:
        print(json.dumps([_to_json(job) for job in jobs], indent=1))
        return
    rows = [
        ("job", "state", "started", "command"),
        *((job.name, job.state, _format_start(job), redact(job.entrypoint)) for job in jobs),
    ]
    widths = [max(len(row[column]) for row in rows) + 2 for column in range(3)]
    for *fields, command in rows:
        print_line(
            "".join(f"{text:{width}}" for text, width in zip(fields, widths, strict=True)) + command
        )
    if not jobs:
        print_line(f"no jobs were submitted to {cluster.address} yet")


def show_job(cluster: Cluster, job: Job, as_json: bool) -> None:
    """Print the state of a job and the end of its log, or its state as JSON."""
    if as_json:
        print(json.dumps(_to_json(job), indent=1))
        return
    ended = f", ended {job.ended:%Y-%m-%d %H:%M:%S}" if job.ended else ""
    print_line(
        f"{job.name}: {job.state}, started {_format_start(job)}{ended}: {redact(job.entrypoint)}"
    )
    for line in cluster.log(job.name).splitlines()[-LAST_LINES:]:
        print_line(sanitize(f"  {line}"))


def follow_job(cluster: Cluster, name: str) -> int:
    """Print the log of a job until it ends; return its exit code."""
    try:
        job = cluster.follow(name, lambda text: print(sanitize(text), end="", flush=True))
    except KeyboardInterrupt:
        print_line(f"\nstopped following the log; {name} continues")
        print_job_commands(cluster, name)
        return errors.INTERRUPTED
    print_line(f"{name}: {job.state}" + (f" with exit code {job.returned}" if job.returned else ""))
    if job.returned == PROGRAM_NOT_FOUND:
        print_line(
            "the head node found no `python`: start Ray there with the environment's bin folder "
            "on the PATH"
        )
    elif job.state == "failed" and job.returned is None:
        print_line(redact(job.message))
    print_resume_command(cluster, job)
    return job.exit_code


def print_job_commands(cluster: Cluster, name: str) -> None:
    """Print the commands that follow and stop a job."""
    print_line(f"  follow: {program_name()} status {name} --address {cluster.address} --follow")
    print_line(f"  stop:   {program_name()} stop {name} --address {cluster.address}")


def print_resume_command(cluster: Cluster, ended: Job) -> None:
    """Print the command that resumes a run whose job was stopped or killed."""
    run, store = ended.labels.get("run"), ended.labels.get("store")
    if run and store and ended.returned not in OWN_EXIT_CODES and ended.state != "succeeded":
        command = "compare" if ended.labels.get("command") == "compare" else "sweep"
        print_line(
            f"  resume: {program_name()} submit --address {cluster.address} -- {command} --resume "
            f"{run} --store {shlex.quote(store)}"
        )


def _format_start(job: Job) -> str:
    return f"{job.started:%Y-%m-%d %H:%M:%S}" if job.started else "not yet"


def _to_json(job: Job) -> dict[str, Any]:
    times = {
        key: moment.isoformat() if moment else None
        for key, moment in (("started", job.started), ("ended", job.ended))
    }
    hidden = {"entrypoint": redact(job.entrypoint), "message": redact(job.message)}
    return asdict(job) | times | hidden


def print_line(text: str) -> None:
    """Print a line without markup."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
