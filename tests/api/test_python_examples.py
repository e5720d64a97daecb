"""Run the examples in the docstrings of all public functions of the package."""

import doctest
import importlib
from pathlib import Path
from typing import Any

import pytest

import orchestrator
from orchestrator import api
from tests.user_code import unload_all

PUBLIC = {
    name: getattr(api, name, None) or getattr(orchestrator, name)
    for name in orchestrator.__all__
    if name.islower()  # types are shown by the functions that return them
}


def test_all_names_of_the_interface_are_public() -> None:
    assert set(api.__all__) <= set(orchestrator.__all__)
    assert all(getattr(api, name).__doc__ for name in api.__all__)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module: Any = importlib.import_module(PUBLIC[name].__module__)
    (test,) = doctest.DocTestFinder(recurse=False).find(PUBLIC[name], name, module, {})
    assert test.examples, f"{name} has no example"
    try:
        results = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test)
    finally:
        unload_all()
    assert results.failed == 0
