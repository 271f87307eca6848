"""The house: rooms import one way, in the order of the list in docs/architecture.md, and modules stay small."""

import ast
import re
from pathlib import Path

from tests.ranks import REPOSITORY

PACKAGE = REPOSITORY / "home_dist"
MOST_LINES = 400


def rooms() -> dict[str, int]:
    """By room: its row in the list of docs/architecture.md."""
    table = (REPOSITORY / "docs" / "architecture.md").read_text().partition("| room | what is in it |")[2].partition("\n\n")[0]
    cells = [row.split("|")[1] for row in table.splitlines()[2:]]
    return {name.rstrip("/"): row for row, cell in enumerate(cells) for name in re.findall(r"`([a-z_]+/?)`", cell)}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Rooms that a module imports from, also within functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{a.name}" for a in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("home_dist.")}
    return {name for name in found if name != "__version__"}


def test_the_page_has_every_room_and_no_other():
    there = {room_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert rooms().keys() == there


def test_each_room_imports_from_those_above_it_alone():
    order, wrong = rooms(), []
    for path in PACKAGE.rglob("*.py"):
        own = room_of(path)
        if own != "__init__":
            wrong += [f"{path.relative_to(PACKAGE)} imports {other}" for other in imported(path) if order[other] > order[own]]
    assert wrong == []


def test_modules_are_small():
    lines = {str(p.relative_to(REPOSITORY)): len(p.read_text().splitlines()) for p in PACKAGE.rglob("*.py")}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def test_no_two_classes_have_one_name():
    places: dict[str, list[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(str(path.relative_to(PACKAGE)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
