"""What the documentation makes from the code is whole, and its links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

import opticam_dask
from opticam_dask import schema
from opticam_dask.cli.parser import build_parser

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.fixture(scope="module")
def generate():
    specification = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_store_page__has_every_variable_with_its_sentence(generate):
    page = generate.store_variables()
    for kind, entries in schema.GROUPS.items():
        assert kind in generate._PLACES, f"say in docs/generate.py where groups of the kind {kind!r} are"
        for entry in entries:
            assert f"| `{entry.name}` | {', '.join(entry.dims)} | {entry.dtype} | `{entry.units}` |" in page
            assert entry.long_name in page


def test_command_line_page__has_every_command_and_option(generate):
    page = generate.command_pages()
    parsers = generate.commands(build_parser())
    assert "reduce" in parsers
    for name, parser in parsers.items():
        section = page.split(f"## {name}\n")[1].split("\n## ")[0]
        for action in parser._actions:
            for option in action.option_strings:
                if option not in ("-h", "--help"):
                    assert f"`{option}" in section, f"{name} {option}"


def test_parameter_page__has_a_row_for_every_parameter(generate):
    page = generate.parameter_tables()
    for _, entries in generate._TABLES:
        for name, entry in entries.items():
            assert re.search(rf"\| `{name}` \|.*{re.escape(entry.sentence)}", page), name
    assert "| `threshold` | 5 | units of the background RMS | greater than 0 |" in page


def test_api_page__has_every_public_name(generate):
    page = generate.api_page()
    for accessor in ("OpticamAccessor", "OpticamArrayAccessor", "OpticamTreeAccessor"):
        assert f"   opticam_dask.lightcurves.selection.{accessor}\n" in page
    for name in opticam_dask._HOME:
        assert f"   opticam_dask.{name}\n" in page


def test_public_names__have_a_docstring():
    for name in opticam_dask._HOME:
        assert (getattr(opticam_dask, name).__doc__ or "").strip(), name


def _drawn_as(module: str, drawn: str) -> str:
    room, *folders = module.split(".")[:-1] or [module]
    outer = [".".join([room, *folders[:deep]]) for deep in range(1, len(folders) + 1)]
    return next((name for name in outer if f'data-name="{name}"' in drawn), module)


def test_module_map__has_every_module_with_its_charter(generate):
    drawn = generate.module_map()
    package = ROOT / "opticam_dask"
    modules = {
        ".".join(path.relative_to(package).with_suffix("").parts)
        for path in package.rglob("*.py")
        if not path.stem.startswith("__")
    }
    # a subpackage may be drawn as one
    for module in {_drawn_as(module, drawn) for module in modules}:
        assert f'data-name="{module}"' in drawn
        assert generate.charter(module)


def test_module_map__knows_what_is_imported(generate):
    assert "schema" in generate.imports("store.camera")
    assert {"pipeline.driver", "cluster.executors"} <= generate.imports("api.reducer")
    assert generate.imports("text") == set()


def test_flag_page__has_every_bit(generate):
    page = generate.flag_tables()
    for name in ("not_aligned", "not_detected", "no_transparency"):
        assert f"`{name}`" in page


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CHANGELOG.md"], ids=lambda path: path.name)
def test_links__lead_to_files_that_are_there(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    made = ("generated/", "api/", "tutorials/", "../benchmarks/results.md")  # by the build, and by the benchmarks
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not re.match(r"[a-z]+:", target) and not target.startswith(made):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
        if target.startswith("tutorials/"):
            assert (ROOT / "notebooks" / target.removeprefix("tutorials/")).exists(), target


def test_extra__has_what_the_site_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = " ".join(project["optional-dependencies"]["docs"])
    for package in ("sphinx", "myst-nb", "pydata-sphinx-theme", "numpydoc", "latex2mathml"):
        assert package in needed
