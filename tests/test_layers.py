"""Imports go one way, from the launcher down to the values; a folder's modules import only what lies below it."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests import helpers

# From the bottom up. A module may import its own layer and those before it, without cycles.
LAYERS = (
    (
        "transforms.errors",
        "transforms.elements",
        "transforms.counters",
        "transforms.cpus",
        "transforms.native",
    ),
    ("transforms.storage",),
    ("transforms.fetching", "transforms.records"),
    (
        "transforms.commit",
        "transforms.imaging",
        "transforms.model",
        "transforms.coders",
        "transforms.metrics",
    ),
    ("transforms.sources", "transforms.feeding"),
    (
        "transforms.plan_file",
        "transforms.read",
        "transforms.decode",
        "transforms.infer",
        "transforms.write",
        "transforms.manifest",
    ),
    ("transforms.exporting",),
    ("transforms.similarity",),
    ("pipeline",),
)
MODULES = {
    ".".join(path.relative_to(helpers.REPO).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("pipeline", "transforms", "bit")
    for path in sorted((helpers.REPO / package).rglob("*.py"))
}


def layer_of(module: str) -> int | None:
    for index, names in enumerate(LAYERS):
        if any(module == name or module.startswith(f"{name}.") for name in names):
            return index
    return None


def imports(module: str) -> set[str]:
    """The project's modules that a module imports, wherever in it; what only type checkers read does not count."""
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                names.add(full if full in MODULES else node.module)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(MODULES[module].read_text()))
    return {name for name in names if name in MODULES}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_only_what_lies_below_it(module):
    layer = layer_of(module)
    if module.startswith("bit"):
        assert not {name for name in imports(module) if not name.startswith("bit")}
    elif module != "transforms":
        assert layer is not None, f"{module} is in no layer: say in LAYERS where it belongs"
        above = {name for name in imports(module) if (layer_of(name) or 0) > layer}
        assert not above, f"{module} imports {above}"


def test_there_is_no_cycle():
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"{' -> '.join((*path[path.index(module) :], module))}"
        if module not in done:
            for name in sorted(imports(module)):
                visit(name, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_a_wrong_import_would_be_seen():
    assert "transforms.storage.door" in imports("transforms.commit.receipts")
    assert (
        layer_of("transforms.storage.door")
        < layer_of("transforms.commit.receipts")
        < layer_of("pipeline.main")
    )


def test_one_module_imports_tensorflow():
    importing = {name for name, path in MODULES.items() if "import tensorflow" in path.read_text()}
    assert importing == {"bit.tensorflow"}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("transforms.elements", ("apache_beam", "tensorflow")),
        ("transforms.errors", ("apache_beam", "tensorflow", "numpy")),
        ("transforms.records.examples", ("apache_beam", "tensorflow")),
        ("transforms.records.tfrecord", ("apache_beam", "tensorflow")),
        ("transforms.imaging.preprocess", ("apache_beam", "tensorflow")),
        ("transforms.feeding.forker", ("apache_beam", "tensorflow", "requests")),
        ("transforms.sources.kinds", ("tensorflow",)),
        ("pipeline.main", ("tensorflow",)),
        ("pipeline.finetune.__main__", ("tensorflow",)),
        ("bit.hyperrule", ("tensorflow",)),
        ("bit.load", ("apache_beam", "keras")),
    ],
)
def test_what_a_module_brings_with_it(module, absent):
    program = f"import sys, {module}; print([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=helpers.REPO, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
