"""The house: each file imports only from floors below its own, and only two rooms name a Keras."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent


def floors():
    """File or folder -> floor, from the table in CONTRIBUTING.md; the package itself stands on top."""
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    found = {room: int(floor) for floor, names in rows for room in re.findall(r"`(\w+)", names)}
    return {**found, "__init__": max(found.values()) + 1}


FLOOR_OF = floors()
PACKAGE = ROOT / "tfap"
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imports(path):
    """`(module, name)` of every import anywhere in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)


def rooms_imported(path):
    for module, name in imports(path):
        if module == "tfap":
            yield name
        elif module.startswith("tfap."):
            yield module.split(".")[1]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_come_from_lower_floors(path):
    room = room_of(path)
    for other in rooms_imported(path):
        assert FLOOR_OF[other] < FLOOR_OF[room] or other == room, f"{room} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_two_rooms_name_a_keras(path):
    named = {module for module, _ in imports(path) if module.split(".")[0] in ("keras", "tf_keras")}
    allowed = {"keras"} if room_of(path) == "datasets" else set()
    assert named <= allowed or room_of(path) in ("keras_compat", "layers")


def test_every_room_has_a_floor():
    assert {room_of(path) for path in FILES} == set(FLOOR_OF)
