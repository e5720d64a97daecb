"""Who may import whom, what is never called, and how large a file may be: read from the source, by `ast`."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from methods import METHODS

ROOT = Path(__file__).parents[1]
PACKAGES = ("methods", "search_spaces", "orchestrator")
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for package in PACKAGES
    for file in sorted((ROOT / package).rglob("*.py"))
}
EVERY_FILE = [
    file.relative_to(ROOT).as_posix()
    for folder in (*PACKAGES, "tests", "benchmarks", "scripts")
    for file in sorted((ROOT / folder).rglob("*.py"))
] + [file.name for file in sorted(ROOT.glob("*.py"))]
HEAVY = ("torch", "ray", "mlflow", "optuna")
LIGHT = (
    "orchestrator.config.schema",
    "orchestrator.core.errors",
    "orchestrator.config.plan",
    "orchestrator.config.loader",
    "orchestrator.store.store",
    "orchestrator.config.trial",
)
LONGEST_FILE = 400


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def imported(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Dotted names: `from a.b import c` is a.b.c, because c may be a module."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports here are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def everywhere(file: Path) -> list[str]:
    """What a file imports, within functions too."""
    return list(imported(ast.walk(tree(file))))


def at_the_top(file: Path) -> list[str]:
    """What a file imports when it is imported."""
    return list(imported(iter(tree(file).body)))


def below(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def importers(package: str) -> dict[str, list[str]]:
    """The modules that import a package, with what they import of it."""
    found = {module: [name for name in everywhere(file) if below(name, package)] for module, file in MODULES.items()}
    return {module: names for module, names in found.items() if names}


def foreign(package: str) -> set[str]:
    """The top-level names that a package imports beyond the standard library and itself."""
    names = {name.split(".")[0] for module, file in MODULES.items() if below(module, package) for name in everywhere(file)}
    return names - set(sys.stdlib_module_names) - {package}


def dotted(node: ast.AST) -> str:
    """`a.b.c` of a chain of attributes."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def calls(name: str) -> Iterator[ast.Call]:
    path = ROOT / name
    return (node for node in ast.walk(tree(path)) if isinstance(node, ast.Call))


def test_the_modules_are_found() -> None:
    assert {"methods.kd", "search_spaces.kd", "orchestrator.training._trainer", "orchestrator"} <= set(MODULES)
    assert "tests/test_architecture.py" in EVERY_FILE and "methods/kd.py" in EVERY_FILE


def test_methods_import_torch_and_numpy_alone() -> None:
    assert foreign("methods") <= {"torch", "numpy"}


def test_search_spaces_import_nothing() -> None:
    assert foreign("search_spaces") == set()


def test_nobody_below_imports_the_orchestrator_and_nobody_imports_the_command_line() -> None:
    assert all(below(module, "orchestrator") for module in importers("orchestrator"))
    assert not importers("run")


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("ray.train", ("orchestrator.actors",)),
        ("ray.tune", ("orchestrator.sweep",)),
        ("mlflow", ("orchestrator.tracking",)),
        ("optuna", ("orchestrator.sweep", "orchestrator.tracking")),
        ("faiss", ("orchestrator.teacher.faiss_index",)),
    ],
)
def test_a_library_has_its_home(library: str, homes: tuple[str, ...]) -> None:
    found = importers(library)
    assert found, f"nobody imports {library}"
    strangers = {module: names for module, names in found.items() if not any(below(module, home) for home in homes)}
    assert not strangers


@pytest.mark.parametrize("package", ["training", "teacher", "models", "data"])
def test_what_trains_knows_neither_ray_nor_mlflow_nor_optuna(package: str) -> None:
    assert not foreign(f"orchestrator.{package}") & {"ray", "mlflow", "optuna"}


@pytest.mark.parametrize("module", LIGHT)
def test_what_has_to_be_instant_loads_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def graph(modules: Mapping[str, Path]) -> dict[str, set[str]]:
    """What each module imports of the others when it is imported; naming a package imports its `__init__`."""
    found: dict[str, set[str]] = {}
    for module, file in modules.items():
        needs = set()
        for name in at_the_top(file):
            parts = name.split(".")
            candidates = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
            needs |= {candidate for candidate in candidates[:2] if candidate in modules and not below(module, candidate)}
        found[module] = needs
    return found


def test_no_module_imports_itself_in_a_circle() -> None:
    needed = graph(MODULES)
    order = list(TopologicalSorter(needed).static_order())  # CycleError names the circle
    assert set(order) == set(MODULES)
    assert all(order.index(need) < order.index(module) for module, needs in needed.items() for need in needs)


def package(module: str) -> str:
    """The part of the house that a module stands in: `orchestrator.sweep`, `orchestrator.store.store`, `methods`."""
    return ".".join(module.split(".")[: 2 if module.startswith("orchestrator.") else 1])


def test_no_package_imports_itself_in_a_circle() -> None:
    """Imports within functions count here too: what two packages say to each other belongs below both."""
    needed: dict[str, set[str]] = {}
    for module, file in MODULES.items():
        others = {package(name) for name in everywhere(file) if name.split(".")[0] in ("methods", "orchestrator", "search_spaces")}
        needed.setdefault(package(module), set()).update(others - {package(module), "orchestrator"})
    order = list(TopologicalSorter(needed).static_order())  # CycleError names the circle
    assert order.index("methods") < order.index("orchestrator.training") < order.index("orchestrator.sweep")


@pytest.mark.parametrize("back", ["from made import one", "from made.one import ONE", "import made.one"])
def test_a_circle_would_be_found(tmp_path: Path, back: str) -> None:
    sources = {"made": "", "made.one": "from made.two import TWO", "made.two": "from made import three", "made.three": back}
    modules = {name: tmp_path / f"{name}.py" for name in sources}
    for name, source in sources.items():
        modules[name].write_text(source)
    with pytest.raises(CycleError) as told:
        TopologicalSorter(graph(modules)).prepare()
    assert set(told.value.args[1]) == {"made.one", "made.two", "made.three"}


def test_a_method_knows_no_other_method() -> None:
    """The contract, the losses and shared parts may be imported; another method of the list may not."""
    homes = {kind.__module__ for kind in METHODS.values()}
    for home in homes:
        others = {name for name in everywhere(MODULES[home]) for other in homes - {home} if below(name, other)}
        assert not others, f"{home} imports {others}"


def test_every_method_has_a_search_space_module_and_only_the_list_names_it() -> None:
    for name, kind in METHODS.items():
        assert f"search_spaces.{name}" in MODULES
        users = set(importers(kind.__module__)) - {"methods"}
        assert not users, f"{users} know {kind.__module__} by name"


@pytest.mark.parametrize("name", EVERY_FILE)
def test_a_file_says_what_it_is_and_is_not_too_long(name: str) -> None:
    text = (ROOT / name).read_text()
    assert ast.get_docstring(tree(ROOT / name)), "the first statement is a docstring"
    assert text.count("\n") <= LONGEST_FILE


def runs_code(call: ast.Call) -> bool:
    """Whether a call could run what it reads: an unpickler, YAML with objects, a shell, a compiler."""
    function = dotted(call.func)
    package, _, name = function.rpartition(".")
    given = {word.arg: word.value.value if isinstance(word.value, ast.Constant) else word.value for word in call.keywords}
    if given.get("shell", False) is not False or given.get("allow_pickle", False) is not False:
        return True
    if function == "torch.load" or name in ("get_state_dict", "load_state_dict_from_url"):
        return given.get("weights_only") is not True
    if package in ("pickle", "cloudpickle", "dill", "joblib", "marshal"):
        return name in ("load", "loads", "Unpickler")
    if package == "yaml":
        return (name.endswith("load") and name != "safe_load") or (name.endswith("load_all") and name != "safe_load_all")
    return function in ("eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.hub.load")


@pytest.mark.parametrize("name", EVERY_FILE)
def test_nothing_that_is_read_can_run_code(name: str) -> None:
    assert not [call.lineno for call in calls(name) if runs_code(call)]


def test_images_are_of_formats_that_are_named() -> None:
    """One of Pillow's many, EPS, is drawn by Ghostscript, whatever the file is called."""
    opened = [call for file in MODULES.values() for call in calls(str(file)) if dotted(call.func) == "Image.open"]
    assert opened and all("formats" in {word.arg for word in call.keywords} for call in opened)


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "np.load(file, allow_pickle=True)",
        "np.load(file, allow_pickle=chosen)",
        "member.get_state_dict(check_hash=True)",
        "pickle.loads(text)",
        "pickle.Unpickler(file)",
        "joblib.load(file)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "eval(text)",
        "exec(text)",
        "os.system(text)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_a_call_that_runs_code_would_be_found(source: str) -> None:
    (call,) = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    assert runs_code(call)


def set_values(file: Path) -> Iterator[tuple[str, ast.expr]]:
    """Names and values of what is set: keys of dicts, subscripts, keywords, and arguments that follow a name (`setdefault`)."""
    for node in ast.walk(tree(file)):
        pairs: list[tuple[ast.expr | None, ast.expr]] = []
        if isinstance(node, ast.Dict):
            pairs = list(zip(node.keys, node.values, strict=True))
        elif isinstance(node, ast.Assign):
            pairs = [(target.slice, node.value) for target in node.targets if isinstance(target, ast.Subscript)]
        elif isinstance(node, ast.Call) and not dotted(node.func).endswith(".get"):
            pairs = list(zip(node.args, node.args[1:], strict=False))
            yield from ((word.arg, word.value) for word in node.keywords if word.arg)
        yield from ((key.value, value) for key, value in pairs if isinstance(key, ast.Constant) and isinstance(key.value, str))


@pytest.mark.parametrize("name", [name for name in EVERY_FILE if not name.startswith("tests/test_doctor")])
def test_what_protects_is_nowhere_turned_off(name: str) -> None:
    protection = {"RAY_AUTH_MODE": "token", "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "false"}
    for key, value in set_values(ROOT / name):
        if key in protection:
            assert isinstance(value, ast.Constant) and value.value == protection[key], f"line {value.lineno}"


def test_what_is_turned_off_would_be_found(tmp_path: Path) -> None:
    sources = (
        "{'RAY_AUTH_MODE': 'disabled'}",
        "env['RAY_AUTH_MODE'] = 'x'",
        "dict(RAY_AUTH_MODE='x')",
        "set('RAY_AUTH_MODE', 'x')",
    )
    for number, source in enumerate(sources):
        file = tmp_path / f"{number}.py"
        file.write_text(source)
        assert [key for key, _ in set_values(file)] == ["RAY_AUTH_MODE"], source


@pytest.mark.parametrize("name", EVERY_FILE)
def test_no_exception_is_swallowed_unnamed(name: str) -> None:
    assert not [node.lineno for node in ast.walk(tree(ROOT / name)) if isinstance(node, ast.ExceptHandler) and node.type is None]
