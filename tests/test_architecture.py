"""Check imports, forbidden calls and file sizes in the source, by `ast`."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
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
HEAVY = ("torch", "ray", "mlflow", "optuna", "matplotlib", "jinja2")
BANDS = (  # a package imports only packages before it
    *("core", "models", "config", "store", "data", "teacher", "training"),
    *("extensions", "cluster", "reporting", "export", "tracking", "sweep", "cli", "api"),
)
LIGHT = (
    "orchestrator.config.loader",
    "orchestrator.config.plan",
    "orchestrator.config.schema",
    "orchestrator.config.trial",
    "orchestrator.core.errors",
    "orchestrator.store.store",
)
LONGEST_FILE = 500


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


@cache
def nodes_of(file: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree(file)))


def imported(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield dotted names; `from a.b import c` is a.b.c, because c may be a module."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports here are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def everywhere(file: Path) -> tuple[str, ...]:
    """Return a file's imports, including those within functions."""
    return tuple(imported(nodes_of(file)))


def at_the_top(file: Path) -> list[str]:
    """Return the imports that run when the file is imported."""
    return list(imported(tree(file).body))


def below(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def importers(package: str) -> dict[str, list[str]]:
    """Return the modules that import a package, with the imported names."""
    found = {
        module: [name for name in everywhere(file) if below(name, package)]
        for module, file in MODULES.items()
    }
    return {module: names for module, names in found.items() if names}


def foreign(package: str) -> set[str]:
    """Return a package's third-party top-level imports."""
    names = {
        name.split(".")[0]
        for module, file in MODULES.items()
        if below(module, package)
        for name in everywhere(file)
    }
    return names - set(sys.stdlib_module_names) - {package}


def dotted(node: ast.AST) -> str:
    """Return `a.b.c` for a chain of attributes."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def calls(name: str) -> Iterator[ast.Call]:
    return (node for node in nodes_of(ROOT / name) if isinstance(node, ast.Call))


def test_the_modules_are_found() -> None:
    assert {
        "methods.kd",
        "search_spaces.kd",
        "orchestrator.training._trainer",
        "orchestrator",
    } <= set(MODULES)
    assert "tests/test_architecture.py" in EVERY_FILE and "methods/kd.py" in EVERY_FILE


def test_methods_import_only_torch_numpy_and_pydantic() -> None:
    assert foreign("methods") <= {"torch", "numpy", "pydantic"}


def test_search_spaces_import_nothing() -> None:
    assert foreign("search_spaces") == set()


def test_lower_packages_do_not_import_the_orchestrator_or_the_command_line() -> None:
    assert all(below(module, "orchestrator") for module in importers("orchestrator"))
    assert not importers("run")


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("ray.train", ("orchestrator.cluster",)),
        ("ray.tune", ("orchestrator.sweep",)),
        ("mlflow", ("orchestrator.tracking",)),
        (
            "optuna",
            (
                "orchestrator.reporting",
                "orchestrator.store",
                "orchestrator.sweep",
                "orchestrator.tracking",
            ),
        ),
        ("faiss", ("orchestrator.teacher.faiss_index",)),
        ("matplotlib", ("orchestrator.reporting",)),
        ("jinja2", ("orchestrator.export._model_card", "orchestrator.reporting.html.page")),
    ],
)
def test_a_library_is_imported_in_its_package_only(library: str, homes: tuple[str, ...]) -> None:
    found = importers(library)
    assert found, f"no module imports {library}"
    strangers = {
        module: names
        for module, names in found.items()
        if not any(below(module, home) for home in homes)
    }
    assert not strangers


@pytest.mark.parametrize("package", ["core", "models", "data", "teacher", "training"])
def test_training_uses_neither_ray_nor_mlflow_nor_optuna(package: str) -> None:
    assert not foreign(f"orchestrator.{package}") & {"ray", "mlflow", "optuna"}


def test_fast_commands_load_no_heavy_library() -> None:
    code = f"""
import importlib, sys
for module in {LIGHT!r}:
    importlib.import_module(module)
    loaded = [name for name in {HEAVY!r} if name in sys.modules]
    if loaded:
        sys.exit(f"{{module}} loads {{loaded}}")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def graph(modules: Mapping[str, Path]) -> dict[str, set[str]]:
    """Return each module's import-time imports of other modules.

    Naming a package imports its `__init__`.
    """
    found: dict[str, set[str]] = {}
    for module, file in modules.items():
        needs = set()
        for name in at_the_top(file):
            parts = name.split(".")
            candidates = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
            needs |= {
                candidate
                for candidate in candidates[:2]
                if candidate in modules and not below(module, candidate)
            }
        found[module] = needs
    return found


def test_there_are_no_circular_imports() -> None:
    needed = graph(MODULES)
    order = list(TopologicalSorter(needed).static_order())  # CycleError names the cycle
    assert set(order) == set(MODULES)
    assert all(
        order.index(need) < order.index(module)
        for module, needs in needed.items()
        for need in needs
    )


def internal_imports(file: Path) -> Iterator[str]:
    """Yield the modules of `orchestrator` that a file imports, including within functions."""
    for name in everywhere(file):
        parts = name.split(".")
        if parts[0] == "orchestrator":
            yield next(
                ".".join(parts[:length])
                for length in range(len(parts), 0, -1)
                if ".".join(parts[:length]) in MODULES
            )


def test_orchestrator_has_these_packages_and_no_loose_module() -> None:
    entries = {
        path.name for path in (ROOT / "orchestrator").iterdir() if path.suffix in ("", ".py")
    }
    assert entries - {"__pycache__"} == {*BANDS, "__init__.py"}


def test_a_package_imports_only_packages_before_it() -> None:
    offenders = [
        f"{module} imports {other}"
        for module, file in MODULES.items()
        if below(module, "orchestrator") and module != "orchestrator"
        for other in internal_imports(file)
        if BANDS.index(other.split(".")[1]) > BANDS.index(module.split(".")[1])
    ]
    assert not offenders


def test_a_private_module_is_imported_only_in_its_package() -> None:
    offenders = [
        f"{module} imports {other}"
        for module, file in {**MODULES, "run": ROOT / "run.py"}.items()
        for other in internal_imports(file)
        if any(part.startswith("_") for part in other.split("."))
        and other.split(".")[1] != module.partition(".")[2].split(".")[0]
    ]
    assert not offenders


def test_a_package_lists_its_public_modules() -> None:
    offenders = []
    for module, file in MODULES.items():
        if (
            file.name != "__init__.py"
            or not below(module, "orchestrator")
            or module in ("orchestrator", "orchestrator.api")  # they list functions
        ):
            continue
        entries = {
            path.stem
            for path in file.parent.iterdir()
            if path.suffix == ".py" or (path / "__init__.py").exists()
        }
        public = sorted(name for name in entries if not name.startswith("_"))
        if importlib.import_module(module).__all__ != public:
            offenders.append(f"{module}: {public}")
    assert not offenders


@pytest.mark.parametrize(
    "back", ["from made import one", "from made.one import ONE", "import made.one"]
)
def test_a_circular_import_is_detected(tmp_path: Path, back: str) -> None:
    sources = {
        "made": "",
        "made.one": "from made.two import TWO",
        "made.two": "from made import three",
        "made.three": back,
    }
    modules = {name: tmp_path / f"{name}.py" for name in sources}
    for name, source in sources.items():
        modules[name].write_text(source)
    with pytest.raises(CycleError) as error:
        TopologicalSorter(graph(modules)).prepare()
    assert set(error.value.args[1]) == {"made.one", "made.two", "made.three"}


def test_a_method_imports_no_other_method() -> None:
    """The contract, the losses and shared parts may be imported; another method may not."""
    homes = {kind.__module__ for kind in METHODS.values()}
    for home in homes:
        others = {
            name
            for name in everywhere(MODULES[home])
            for other in homes - {home}
            if below(name, other)
        }
        assert not others, f"{home} imports {others}"


def test_every_method_has_a_search_space_module_and_only_the_list_names_it() -> None:
    for name, kind in METHODS.items():
        assert f"search_spaces.{name}" in MODULES
        users = set(importers(kind.__module__)) - {"methods"}
        assert not users, f"{users} know {kind.__module__} by name"


def test_a_file_has_a_docstring_and_is_not_too_long() -> None:
    offenders = [name for name in EVERY_FILE if not ast.get_docstring(tree(ROOT / name))]
    offenders += [
        name for name in EVERY_FILE if (ROOT / name).read_text().count("\n") > LONGEST_FILE
    ]
    assert not offenders


def runs_code(call: ast.Call) -> bool:
    """Return whether a call could run its input: unpickler, YAML objects, shell, compiler."""
    function = dotted(call.func)
    package, _, name = function.rpartition(".")
    given = {
        word.arg: word.value.value if isinstance(word.value, ast.Constant) else word.value
        for word in call.keywords
    }
    if given.get("shell", False) is not False or given.get("allow_pickle", False) is not False:
        return True
    if function == "torch.load" or name in ("get_state_dict", "load_state_dict_from_url"):
        return given.get("weights_only") is not True
    if package in ("pickle", "cloudpickle", "dill", "joblib", "marshal"):
        return name in ("load", "loads", "Unpickler")
    if package == "yaml":
        return (name.endswith("load") and name != "safe_load") or (
            name.endswith("load_all") and name != "safe_load_all"
        )
    return function in (
        "eval",
        "exec",
        "compile",
        "__import__",
        "os.system",
        "os.popen",
        "torch.hub.load",
    )


# it executes the files that a user names with --code; a configuration cannot name one
LOADER_OF_CODE = "orchestrator/extensions/loading.py"


def test_no_loader_can_execute_code() -> None:
    assert not [
        f"{name}:{call.lineno}"
        for name in EVERY_FILE
        if name != LOADER_OF_CODE
        for call in calls(name)
        if runs_code(call)
    ]


def test_user_code_is_executed_at_one_place() -> None:
    found = [dotted(call.func) for call in calls(LOADER_OF_CODE) if runs_code(call)]
    assert found == ["exec"]
    users = importers("orchestrator.extensions.loading")
    callers = {module for module, names in users.items() if any("load_" in name for name in names)}
    assert callers == {
        "orchestrator.cli._code",
        "orchestrator.cli._submission",
        "orchestrator.cli.check_code",
        "orchestrator.extensions.shipping",
    }


def test_images_are_opened_with_explicit_formats() -> None:
    """Pillow renders EPS by Ghostscript, whatever the file's name."""
    opened = [
        call
        for file in MODULES.values()
        for call in calls(str(file))
        if dotted(call.func) == "Image.open"
    ]
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
def test_a_call_that_executes_code_is_detected(source: str) -> None:
    (call,) = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    assert runs_code(call)


def set_values(file: Path) -> Iterator[tuple[str, ast.expr]]:
    """Yield names and values of dict keys, subscripts, keywords, and arguments after a name.

    The last kind is that of `setdefault`.
    """
    for node in nodes_of(file):
        pairs: list[tuple[ast.expr | None, ast.expr]] = []
        if isinstance(node, ast.Dict):
            pairs = list(zip(node.keys, node.values, strict=True))
        elif isinstance(node, ast.Assign):
            pairs = [
                (target.slice, node.value)
                for target in node.targets
                if isinstance(target, ast.Subscript)
            ]
        elif isinstance(node, ast.Call) and not dotted(node.func).endswith(".get"):
            pairs = list(zip(node.args, node.args[1:], strict=False))
            yield from ((word.arg, word.value) for word in node.keywords if word.arg)
        yield from (
            (key.value, value)
            for key, value in pairs
            if isinstance(key, ast.Constant) and isinstance(key.value, str)
        )


def test_no_protection_is_disabled() -> None:
    protection = {"RAY_AUTH_MODE": "token", "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "false"}
    offenders = [
        f"{name}:{value.lineno}"
        for name in EVERY_FILE
        if not name.startswith("tests/test_doctor")
        for key, value in set_values(ROOT / name)
        if key in protection
        and not (isinstance(value, ast.Constant) and value.value == protection[key])
    ]
    assert not offenders


def test_a_disabled_protection_is_detected(tmp_path: Path) -> None:
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


def test_every_handler_names_its_exception() -> None:
    handlers = [
        (name, node)
        for name in EVERY_FILE
        for node in nodes_of(ROOT / name)
        if isinstance(node, ast.ExceptHandler)
    ]
    assert not [f"{name}:{node.lineno}" for name, node in handlers if node.type is None]
