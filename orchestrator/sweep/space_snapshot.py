"""Describe a sweep's search space and data as text, and list what has changed at a resume."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.config.changed_space import list_searched_keys
from orchestrator.config.conditional_space import SpaceBranch
from orchestrator.config.schema import Configuration, Network
from orchestrator.config.search_space import (
    list_initial_points,
    list_rate_branches,
    list_space_branches,
    searched_methods,
)
from orchestrator.config.trial import network_key
from orchestrator.core.paths import read_path
from orchestrator.data.dataset import read_summary
from orchestrator.extensions.record import CODE, describe_code
from orchestrator.models.build import identify
from search_spaces import SPACES

Described = dict[str, Any]
GONE = " and is no longer searched"


def describe_sweep(configuration: Configuration, kind: str, data: Path) -> Described:
    """Return the space (of a `sweep`), the data, the given weight files and code as plain JSON.

    The data are those prepared in the folder `data`.
    """
    described = described_space(configuration, kind) | described_data(configuration, data)
    if kind == "sweep":
        described |= _describe_searched_folders(configuration)
    code = describe_code(configuration)
    return described | ({CODE: code} if code else {})


def described_space(configuration: Configuration, kind: str) -> Described:
    """Return every parameter of every method, and the initial points.

    Parameters are listed by the choices on which they depend. A kind other than `sweep` has
    no space.
    """
    if kind != "sweep":
        return {}
    if configuration.search.configurations:
        return {"space": {}, "rates": {}, "points": list_initial_points(configuration)}
    spaces = {
        name: [
            {"when": _when(branch), "asks": _describe_parameters(branch)}
            for branch in list_space_branches(configuration, name)
        ]
        for name in searched_methods(configuration)
    }
    rates = {
        key: _describe_parameters(branch)[key]
        for key, branch in list_rate_branches(configuration).items()
    }
    described = {"space": spaces, "rates": rates, "points": list_initial_points(configuration)}
    given = {name: SPACES[name].identity for name in spaces if SPACES[name].identity}
    return described | ({"functions": given} if given else {})


def list_space_changes(configuration: Configuration) -> list[str]:
    """Return a short message for each parameter that `search.space` changes.

    Parameters that are no longer searched share the last message.
    """
    if not configuration.search.space:
        return []
    search = configuration.search.model_copy(update={"space": {}, "points": ()})
    unchanged = configuration.model_copy(update={"search": search})
    before, now = (
        described_space(each, "sweep") | {"points": []} for each in (unchanged, configuration)
    )
    changes = differences(before, now)
    gone = [text.partition(" was ")[0] for text in changes if text.endswith(GONE)]
    kept = [text for text in changes if not text.endswith(GONE)]
    return kept + ([f"no longer searched: {', '.join(gone)}"] if gone else [])


def described_data(configuration: Configuration, data: Path) -> Described:
    """Return the numbers of samples, and checksums of the data and the given weight files.

    The weight files are those of the teacher and of the students.
    """
    summary = read_summary(data)
    found: Described = {
        "data": {
            "where": str(configuration.data.path or summary.name),
            "sizes": asdict(summary.sizes),
        }
    }
    found["data"] |= {
        "sums": summary.sha256 | ({"files": summary.fingerprint} if summary.root else {})
    }
    found["data"] |= {"contents": summary.contents} if summary.contents else {}
    if configuration.teacher and (weights := _describe_weights(configuration.teacher.network)):
        found["weights"] = weights
    found |= {
        f"teachers.{number}.network.weights": weights
        for number, teacher in enumerate(configuration.teachers)
        if (weights := _describe_weights(teacher.network))
    }
    given = {
        network_key(letter): _describe_weights(student.network)
        for letter, student in configuration.students.items()
    }
    return found | {f"{key}.weights": weights for key, weights in given.items() if weights}


def _describe_weights(network: Network) -> Described | None:
    """Return the path of a weight file, or of a network in a folder, and a checksum of its bytes.

    A network in a folder with weights in another file has both checksums. Return None without such
    files.
    """
    name, weights = network.name, network.weights
    parts = []
    if (identity := identify(name, weights)) != name:
        parts.append((name, identity))
    if weights and (file := read_path(weights, "weights")).is_file():
        with file.open("rb") as stream:
            parts.append((weights, hashlib.file_digest(stream, "sha256").hexdigest()))
    if not parts:
        return None
    return {
        "where": " with ".join(where for where, _ in parts),
        "sum": " ".join(checksum for _, checksum in parts),
    }


def _describe_searched_folders(configuration: Configuration) -> Described:
    """Return the searched networks in folders, by key, with a checksum of each folder."""
    searched = list_searched_keys(configuration)
    for point in configuration.search.configurations:
        for key, value in point.items():
            searched[key] = (*searched.get(key, ()), value)
    described = {}
    for key, values in searched.items():
        if key.rpartition(".")[2] == "name":
            names = dict.fromkeys(value for value in values if isinstance(value, str))
            sums = {name: checksum for name in names if (checksum := identify(name, None)) != name}
            if sums:
                described[key] = {"where": ", ".join(sums), "sum": " ".join(sums.values())}
    return described


def is_same_data(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether two descriptions are of the same data.

    In the same folder the modification times count too, in another one the content alone. Earlier
    versions did not describe the `contents` of image files; such files in another folder count as
    different.
    """
    if before["sums"] == now["sums"] or before.get("where") == now.get("where"):
        return bool(before["sums"] == now["sums"])
    arrays, others = (
        {key: value for key, value in each["sums"].items() if key != "files"}
        for each in (before, now)
    )
    in_files = "files" in before["sums"] or "files" in now["sums"]
    alike = before.get("contents") == now.get("contents")
    return bool(arrays) and arrays == others and (not in_files or (alike and "contents" in before))


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a short message for each change.

    What only one of the two describes is not compared.
    """
    found: list[str] = []
    if "space" in before and "space" in now:
        several = len(before["space"]) > 1
        for method, ways in before["space"].items():
            found += _compare_method(
                f"{method}." if several else "", ways, now["space"].get(method, [])
            )
        found += _compare_parameters("", before["rates"], now["rates"])
        found += list(_compare_points(before["points"], now["points"]))
        functions = before.get("functions", {}), now.get("functions", {})
        found += [
            f"the function of the search space of {name} has changed"
            for name in sorted({*functions[0], *functions[1]})
            if functions[0].get(name) != functions[1].get(name)
        ]
    if "data" in before and "data" in now and not is_same_data(before["data"], now["data"]):
        samples, were = (sum(each["data"]["sizes"].values()) for each in (now, before))
        if samples != were:
            counted = f"{were:,} samples before, {samples:,} now"
        else:
            counted = "the same number of samples, but different ones"
        found.append(f"{now['data']['where']} has changed ({counted})")
    files = ("weights", "name")  # ends of the keys of described files
    for key in (key for key in before if key.rpartition(".")[2] in files and key in now):
        if before[key]["sum"] != now[key]["sum"]:
            found.append(
                f"{'teacher.network.weights' if key == 'weights' else key} = "
                f"{now[key]['where']} has changed"
            )
    return list(dict.fromkeys(found))


def _when(branch: SpaceBranch) -> dict[str, Any]:
    return dict(sorted(branch.chosen.items()))


def _describe_parameters(branch: SpaceBranch) -> dict[str, str]:
    """Return each parameter of the branch with its range or choices as text."""
    parameters = {}
    for name, value in branch.values.items():
        if name in branch.ranges:
            low, high, log = branch.ranges[name]
            parameters[name] = _range(low, high, log) + (
                "" if name in branch.continuous else ", whole numbers"
            )
            if name in branch.steps:
                parameters[name] += f", step {branch.steps[name]:g}"
        elif len(branch.choices.get(name, ())) > 1:
            parameters[name] = "one of " + ", ".join(str(choice) for choice in branch.choices[name])
        elif name not in branch.frozen:
            parameters[name] = f"always {value}"
    return parameters


def _range(low: float, high: float, log: bool) -> str:
    return f"{low:g} to {high:g}" + (", logarithmic" if log else "")


def _compare_method(prefix: str, before: list[Described], now: list[Described]) -> list[str]:
    found = _compare_parameters(prefix, _collect_parameters(before), _collect_parameters(now))
    if not found and before != now:
        ways = [str(way["when"]) for way in [*before, *now] if way not in before or way not in now]
        found.append(
            f"the search space of {prefix.rstrip('.') or 'the method'} has changed under "
            f"{', '.join(dict.fromkeys(ways))}"
        )
    return found


def _collect_parameters(ways: list[Described]) -> dict[str, str]:
    """Return every parameter as text, whatever it depends on."""
    found: dict[str, dict[str, None]] = {}
    for way in ways:
        for name, text in way["asks"].items():
            found.setdefault(name, {})[text] = None
    return {name: " or ".join(sorted(texts)) for name, texts in found.items()}


def _compare_parameters(
    prefix: str, before: Mapping[str, str], now: Mapping[str, str]
) -> list[str]:
    changed = [
        f"{_qualify(prefix, name)} was {text} and is now {now[name]}"
        for name, text in before.items()
        if now.get(name, text) != text
    ]
    gone = [f"{prefix}{name} was {text}{GONE}" for name, text in before.items() if name not in now]
    return (
        changed
        + gone
        + [
            f"{_qualify(prefix, name)} was not searched and is now {now[name]}"
            for name in now
            if name not in before
        ]
    )


def _qualify(prefix: str, name: str) -> str:
    """Return a parameter's name after the prefix of its method; a dotted key has no prefix."""
    return name if "." in name else f"{prefix}{name}"


def _compare_points(before: list[Described], now: list[Described]) -> Iterator[str]:
    for index in range(max(len(before), len(now))):
        was, is_ = (points[index] if index < len(points) else None for points in (before, now))
        if was != is_:
            yield (
                f"initial point {index + 1} was {_format_point(was)} and is now "
                f"{_format_point(is_)}"
            )


def _format_point(point: Described | None) -> str:
    return ", ".join(f"{name} = {value}" for name, value in point.items()) if point else "none"
