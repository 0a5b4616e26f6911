"""The house: each file imports only from floors below its own, and only two rooms name a Keras."""

import ast
import pathlib

import pytest

FLOORS = [
    {"keras_compat", "activations", "datasets", "latency", "samples", "tables", "version"},
    {"serialization", "kernels", "reports", "certificates"},
    {"schedules", "criteria", "masks", "neurons", "graph", "runtimes"},
    {"settings", "affine", "channels", "exporting", "flops"},
    {"layers", "artifacts", "constants", "ties"},
    {"wrapped", "planning", "reporting", "liveness", "measuring"},
    {"updater", "compaction"},
    {"pruning", "callbacks", "compaction_reports"},
    {"shrinking"},
    {"__init__"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
PACKAGE = pathlib.Path(__file__).parent.parent / "tfap"
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
        assert FLOOR_OF[other] < FLOOR_OF[room] or other == room == "layers", f"{room} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_two_rooms_name_a_keras(path):
    named = {module for module, _ in imports(path) if module.split(".")[0] in ("keras", "tf_keras")}
    allowed = {"keras"} if room_of(path) == "datasets" else set()
    assert named <= allowed or room_of(path) in ("keras_compat", "layers")


def test_every_room_has_a_floor():
    assert {room_of(path) for path in FILES} == set(FLOOR_OF)
