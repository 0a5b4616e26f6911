"""The layout: packages import from their own folder and from rows below, and only two name a Keras."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "tfap"
# From top to bottom. A package imports from its own folder and from the rows below it.
ROWS = (
    ("__init__", "__main__", "command_line"),
    ("comparison", "shrinking"),
    ("compaction", "iterative", "low_rank", "regularization"),
    ("loading", "pruning", "training"),
    ("budgets",),
    ("layers",),
    ("compensation",),
    ("activations", "criteria", "masks", "reporting"),
    ("graph", "schedules", "exporting"),
    ("keras_compat", "utils", "datasets", "moved", "version"),
)
ROW_OF = {package: row for row, packages in enumerate(reversed(ROWS)) for package in packages}
FILES = sorted(PACKAGE.rglob("*.py"))


def package_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path):
    """`(module, name)` of every import anywhere in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)


def packages_imported(path):
    for module, name in imports(path):
        if module == "tfap":
            yield name
        elif module.startswith("tfap."):
            yield module.split(".")[1]


def modules_imported(path):
    """Files of tfap that a file imports."""
    for module, name in imports(path):
        if module.split(".")[0] != "tfap":
            continue
        for dotted in (f"{module}.{name}", module):
            parts = dotted.split(".")[1:]
            found = PACKAGE.joinpath(*parts).with_suffix(".py") if parts else None
            if found is not None and found.exists():
                yield found
                break


def row_of(name):
    return ROW_OF[name]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_come_from_rows_below(path):
    package = package_of(path)
    for other in packages_imported(path):
        assert row_of(other) < row_of(package) or other == package, f"{package} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_two_packages_name_a_keras(path):
    named = {module for module, _ in imports(path) if module.split(".")[0] in ("keras", "tf_keras")}
    allowed = {"keras"} if package_of(path) == "datasets" else set()
    assert named <= allowed or package_of(path) in ("keras_compat", "layers")


def test_no_two_files_import_each_other():
    imported = {path: set(modules_imported(path)) - {path} for path in FILES}
    left = set(imported)
    while left:
        ready = {path for path in left if not imported[path] & left}
        assert ready, f"these import each other: {sorted(str(path.relative_to(PACKAGE)) for path in left)}"
        left -= ready


def test_every_package_has_a_row():
    assert {package_of(path) for path in FILES} == set(ROW_OF)
    assert len(ROWS) <= 10
