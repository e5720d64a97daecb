"""Write the HTML page of a sweep to a file, and log it to the sweep's run in MLflow."""

import os
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.errors import ConfigurationError, PreflightError
from orchestrator.core.paths import read_path
from orchestrator.extensions.record import CODE, require_code
from orchestrator.reporting.html.page import GENERATOR
from orchestrator.reporting.html.report import report as build_report
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store, replacing
from orchestrator.tracking.artifacts import log_to_sweep

HEAD_BYTES = 500  # leading bytes of a page that contain its generator


@dataclass(frozen=True)
class WrittenReport:
    """Page of a sweep on disk.

    Attributes:
        file: The page.
        summary: The main results as sentences.
        not_logged: The reason why MLflow does not have the page; empty if it does.
    """

    file: Path
    summary: list[str]
    not_logged: str


def write_report(store: Store, name: str, to: Path | None) -> WrittenReport:
    """Write the page of a sweep, and log it to the sweep's run.

    Args:
        store: The store of the sweep.
        name: Name of the sweep.
        to: Target file; None for `reports/NAME.html` in the store.

    Raises:
        ConfigurationError: There is no such sweep, or the target cannot hold the page.
        PreflightError: The target cannot be read or written.
    """
    given_path = read_path(to, "--to") if to is not None else None
    sweep = Sweep.open(store, name)
    require_code(sweep.described.get(CODE, {}), f"the report of {name!r}")
    target = given_path or store.reports / f"{name}.html"
    _check_target(target, requires_folder=to is not None)
    built = build_report(store, sweep)
    _write_page(target, built.html)
    reason = log_to_sweep(store, sweep, {}, 0, "report", {f"{name}.html": built.html})
    return WrittenReport(target, built.summary, reason)


def _check_target(target: Path, requires_folder: bool) -> None:
    """Check that `target` can hold the page, and that only an earlier report is replaced.

    Raises:
        ConfigurationError: The folder does not exist, `target` is a folder, or another file exists
            there.
        PreflightError: The file cannot be read.
    """
    if requires_folder and not os.path.isdir(target.parent):
        raise ConfigurationError(
            f"--to {target}: the folder {target.parent} does not exist: create it, or give a "
            f"file in another folder"
        ).with_details("--to", str(target), "a file in a folder that exists")
    if os.path.isdir(target):
        raise ConfigurationError(
            f"--to {target} is a folder: give the name of a file, such as {target / 'report.html'}"
        ).with_details("--to", str(target), "the name of a file")
    try:
        if target.exists() and GENERATOR.encode() not in target.read_bytes()[:HEAD_BYTES]:
            raise ConfigurationError(
                f"--to {target} exists and is not an earlier report, so it is not replaced: "
                f"give another name"
            ).with_details("--to", str(target), "a new file, or an earlier report")
    except OSError as error:
        raise PreflightError(
            f"--to {target} cannot be read ({error.strerror}): give another file"
        ).with_details("--to", str(target), "a file that can be read") from error


def _write_page(target: Path, html: str) -> None:
    try:
        with replacing(target) as partial_file:
            partial_file.write_text(html, encoding="utf-8")
    except OSError as error:
        raise PreflightError(
            f"--to {target} cannot be written ({error.strerror or error}): give another file"
        ).with_details("--to", str(target), "a file that can be written") from error
