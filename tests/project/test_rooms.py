"""The house: rooms that stay small, in one order, described as they are."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "opticam_dask"

#: A newcomer sees at one glance what a folder holds.
MOST_ROOMS, MOST_VOCABULARY, MOST_MODULES = 12, 9, 14


def _modules(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("__"))


def _folders() -> list[Path]:
    return sorted(path.parent for path in PACKAGE.rglob("__init__.py"))


def test_top__has_few_rooms_and_a_small_vocabulary():
    rooms = [path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()]
    assert len(rooms) <= MOST_ROOMS, sorted(rooms)
    assert len(_modules(PACKAGE)) <= MOST_VOCABULARY, _modules(PACKAGE)


@pytest.mark.parametrize("folder", _folders(), ids=lambda folder: str(folder.relative_to(ROOT)))
def test_folder__has_few_modules_and_says_what_it_is_for(folder):
    assert len(_modules(folder)) <= MOST_MODULES
    assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))


def test_folder__of_python_files_is_a_package():
    assert {path.parent for path in PACKAGE.rglob("*.py")} == set(_folders())


def test_tests__lie_in_folders_of_the_rooms_they_test():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders == rooms | {"nights", "project"}
    assert not list((ROOT / "tests").glob("test_*.py"))


def test_contract__names_every_room_and_every_module_of_the_vocabulary():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (layers,) = (entry["layers"] for entry in contracts if entry["type"] == "layers")
    named = {name.strip() for row in layers for name in row.split(":")}
    rooms = {f"opticam_dask.{path.parent.name}" for path in PACKAGE.glob("*/__init__.py")}
    assert named == rooms | {f"opticam_dask.{name}" for name in _modules(PACKAGE)}


def test_contributing__has_a_line_for_every_room_and_names_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == set(re.findall(r"^\| `(\w+)/` \|", text, flags=re.MULTILINE))
    (vocabulary,) = re.findall(r"^\| vocabulary \|(.*)\|$", text, flags=re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", vocabulary)) == _modules(PACKAGE)
    files = set(re.findall(r"\b(?:\w+/)+\w+\.py\b", text))
    assert len(files) > 20, "the walk of one frame through the rooms"
    for file in sorted(files):
        assert (PACKAGE / file).exists() or (ROOT / file).exists(), file


def test_docs__name_files_of_the_package_that_exist():
    for page in [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]:
        for file in re.findall(r"`((?:\w+/)+\w+\.py)`", page.read_text(encoding="utf-8")):
            assert (PACKAGE / file).exists() or (ROOT / file).exists(), f"{page.name}: {file}"


def test_imports__make_no_circle():
    files = {_name(path): path for path in PACKAGE.rglob("*.py")}
    uses = {name: set(_imported(path)) & files.keys() - {name} for name, path in files.items()}
    done: set[str] = set()
    under_way: list[str] = []

    def visit(name: str) -> None:
        assert name not in under_way, " -> ".join([*under_way[under_way.index(name) :], name])
        if name not in done:
            under_way.append(name)
            for other in sorted(uses[name]):
                visit(other)
            under_way.pop()
            done.add(name)

    for name in sorted(files):
        visit(name)


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _imported(path: Path) -> Iterator[str]:
    """Names of modules that a file imports anywhere, and of what it imports from them, which may be modules."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            named = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from named
            if not all(_is_module(name) for name in named):
                yield str(node.module)


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


#: Names of the groups of a store, which its room alone puts into paths.
_GROUP_IN_PATH = re.compile(r"(^|/)(frames|sources|background|photometry|quality|psf|stack|catalog|reference)(/|$)")
#: What opens arrays and groups by their paths.
_BY_PATH = {"Group", "BlockGroup", "open_array", "open_group", "open_zarr_array", "all_arrays"}


def test_paths_in_the_store__are_spelled_by_its_room_alone():
    spelled = []
    for path in (path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "store"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            pieces = node.values if isinstance(node, ast.JoinedStr) else []
            texts = [piece.value for piece in pieces if isinstance(piece, ast.Constant)]
            called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            if called in _BY_PATH or any(_GROUP_IN_PATH.search(text) for text in texts):
                spelled.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert spelled == []


#: A module is read from top to bottom in one sitting.
MOST_LINES = 500


def test_modules__are_short():
    lengths = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_classes__have_names_of_their_own():
    homes: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, set()).add(str(path.relative_to(PACKAGE)))
    assert {name: sorted(paths) for name, paths in homes.items() if len(paths) > 1} == {}
