"""The arrows between the packages: nothing below imports what is above, and heavy readers stay inside functions."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("data", "models", "preprocessing", "pipeline", "graft")
ALLOWED = {
    "data": {"data"},
    "models": {"models", "data.errors", "data.options", "data.random_streams"},
    "preprocessing": {"preprocessing", "data", "models.networks"},
    "pipeline": {"pipeline", "preprocessing", "models", "data"},
    "graft": {"graft", "pipeline", "preprocessing", "models", "data"},
}
FLOORS = (
    "storage", "execution", "metrics", "prediction", "training", "arms", "evaluation", "priors", "packs", "config",
    "report", "deployment", "stages", "packing", "planning", "adaptation", "commands", "cli",
)  # fmt: skip
"""The rooms of `pipeline`, each of which imports rooms that stand before it alone.

The report lies below what is deployed: the card of a model says in its sentences what was done, and the picture of a
predicted scan is one of its figures. The configuration lies above all whose options it is made of, and
below the report, which reads it: the options of the report are therefore its own.
"""
LATE = {"SimpleITK", "nilearn"}
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imported_modules(tree: ast.AST) -> set[str]:
    """Modules that any import statement below this node names."""
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from data import errors` names the module data.errors.
            modules |= (
                {node.module} if "." in node.module else {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
            )
    return modules


def violations(package: str, tree: ast.AST) -> set[str]:
    """Imports of our packages that the arrows forbid."""
    ours = {m for m in imported_modules(tree) if m.split(".")[0] in PACKAGES}
    allowed = ALLOWED[package]
    return {m for m in ours if m not in PACKAGES and not any(m == a or m.startswith(f"{a}.") for a in allowed)} | {
        m for m in ours if m in PACKAGES and m not in allowed and not any(a.startswith(f"{m}.") for a in allowed)
    }


def imported_at_once(tree: ast.Module) -> set[str]:
    """Top-level packages that importing the module imports: everything outside functions and TYPE_CHECKING."""
    found = set()
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {module.split(".")[0] for module in imported_modules(node)}
        waiting += list(ast.iter_child_nodes(node))
    return found


def test_there_is_something_to_look_at():
    assert len(FILES) > 40


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_arrows(path):
    tree = ast.parse(path.read_text())
    assert not violations(path.relative_to(ROOT).parts[0], tree)
    assert not imported_at_once(tree) & LATE


def rooms_above(room: str, tree: ast.AST) -> set[str]:
    """Rooms of `pipeline` that a module imports and that are not below its own."""
    imported = {m.split(".")[1] for m in imported_modules(tree) if m.startswith("pipeline.")}
    return imported - {room} - set(FLOORS[: FLOORS.index(room)])


PIPELINE = [path for path in FILES if ROOT / "pipeline" in path.parents and path.name != "__init__.py"]


@pytest.mark.parametrize("path", PIPELINE, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_none_above_it(path):
    assert not rooms_above(
        path.relative_to(ROOT / "pipeline").parts[0].removesuffix(".py"), ast.parse(path.read_text())
    )


def test_a_room_above_is_seen():
    assert rooms_above("arms", ast.parse("from pipeline.deployment.model_folder import read_model")) == {"deployment"}
    assert not rooms_above("arms", ast.parse("from pipeline.storage.tensors import load_tensors"))


def models_imports(package: str) -> dict[str, set[str]]:
    """Module → modules of the same package that it imports when it is loaded or later."""
    found = {}
    for path in (ROOT / package).rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name] = {m for m in imported_modules(ast.parse(path.read_text())) if m.startswith(f"{package}.")} - {name}
    return found


@pytest.mark.parametrize("package", ["models", "preprocessing", "data", "pipeline"])
def test_no_two_modules_import_each_other(package):
    imports = models_imports(package)
    assert not {(a, b) for a, others in imports.items() for b in others if a in imports.get(b, ())}


@pytest.mark.parametrize(
    ("package", "line"),
    [
        ("data", "from models.filters import x"),
        ("data", "import preprocessing"),
        ("models", "from data.volume import Volume"),
        ("preprocessing", "from models.priors.prior import FilterPrior"),
        ("preprocessing", "import pipeline.cli"),
        ("pipeline", "import graft"),
        ("pipeline", "from graft.model import load_model"),
    ],
)
def test_a_forbidden_import_is_seen(package, line):
    assert violations(package, ast.parse(line))


@pytest.mark.slow
def test_training_imports_where_the_readers_of_raw_scans_are_missing():
    code = (
        "import sys\n"
        "for name in ('SimpleITK', 'nilearn'): sys.modules[name] = None\n"
        "import pipeline.stages.train_source, pipeline.stages.collect_filters, pipeline.stages.fit_priors\n"
        "import pipeline.stages.infer, pipeline.stages.evaluate, pipeline.stages.report\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
