"""Test the Dockerfile: its files exist and are sent, its user, and the documented arguments."""

import json
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile in order, each with its arguments in one line."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if line[:1] != "#"]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line]


def values(name: str) -> list[str]:
    return [arguments for instruction, arguments in instructions() if instruction == name]


def test_copied_files_exist_and_are_part_of_the_context() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    sent = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    copied = {
        source
        for arguments in values("COPY")
        if not arguments.startswith("--from")
        for source in arguments.split()[:-1]
    }
    assert "*" in ignore and copied == sent
    assert all((ROOT / name).exists() for name in copied)


def test_the_stages_and_instructions_are_known() -> None:
    assert {name for name, _ in instructions()} == {
        *("ARG", "FROM", "ENV", "RUN", "WORKDIR", "COPY"),
        *("USER", "VOLUME", "ENTRYPOINT", "CMD"),
    }
    built, final = values("FROM")
    assert built == f"{final} AS build" and final.endswith("-slim")
    (from_build,) = [arguments for arguments in values("COPY") if "--from" in arguments]
    assert from_build.split()[0] == "--from=build"


def test_the_program_runs_as_the_user_of_the_cluster_file() -> None:
    names = [name for name, _ in instructions()]
    assert (
        names.index("USER") < names.index("ENTRYPOINT")
        and "USER" not in names[: names.index("RUN")]
    )
    cluster = list(yaml.safe_load_all((ROOT / "configs/cluster/kuberay.yaml").read_text()))[-1]
    user = cluster["spec"]["headGroupSpec"]["template"]["spec"]["securityContext"]
    assert values("USER") == [f"{user['runAsUser']}:{user['runAsGroup']}"]
    assert json.loads(values("ENTRYPOINT")[0]) == ["distil"]
    assert values("VOLUME") == ["/store"] == values("WORKDIR")[-1:]


def test_build_arguments_are_documented_and_no_address_is_given() -> None:
    page = (ROOT / "docs/how-to/install.md").read_text()
    arguments = {argument.partition("=")[0] for argument in values("ARG")}
    assert arguments == set(re.findall(r"--build-arg (\w+)=", page))
    assert "://" not in (ROOT / "Dockerfile").read_text()
