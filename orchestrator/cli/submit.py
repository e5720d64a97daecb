"""Send the project and a command line to a running cluster."""

import tempfile
from pathlib import Path
from typing import Any

from orchestrator.cli._jobs import follow_job, print_job_commands, print_line
from orchestrator.cli._submission import create_submission
from orchestrator.cluster.jobs import Cluster
from orchestrator.cluster.package import collect, format_bytes
from orchestrator.core import errors, project


def submit(
    group: Any,
    words: list[str],
    address: str | None,
    name: str | None,
    excludes: list[str],
    limit_mib: float,
    detach: bool,
) -> int:
    """Pack the project, submit it with a command line to a cluster, and follow the job to its end.

    Args:
        group: The whole command line interface, which parses `words`.
        words: The command line that the job runs.
        address: Address of the cluster.
        name: Name of the job; None for a default.
        excludes: Patterns of files to leave out, as in .gitignore.
        limit_mib: Largest total size of the files, in MiB, before compression.
        detach: Return after the submission.

    Returns:
        The exit code.

    Raises:
        ConfigurationError: The command line cannot run on a cluster, or the files exceed
            `limit_mib`.
    """
    job = create_submission(group, words, name, project.ROOT)
    package = collect(project.ROOT, excludes, job.extra_files, project.PACKAGES)
    package.require_at_most(limit_mib)
    cluster = Cluster(address)
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "project.zip"
        sent = package.write(archive)
        print_line(
            f"packed {len(package.files)} files, {format_bytes(package.bytes)} "
            f"({format_bytes(sent)} as sent)"
        )
        cluster.submit(job.name, job.entrypoint, archive, job.labels)
    print_line(f"submitted {job.name} to {cluster.address}: {job.entrypoint}")
    if detach:
        print_job_commands(cluster, job.name)
        return errors.OK
    return follow_job(cluster, job.name)
