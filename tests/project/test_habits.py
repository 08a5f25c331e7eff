"""What a newcomer and a machine rely on: workflows, citation, type information, in step with the project."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def _read(path):
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_workflow__tests_every_version_of_python_from_the_oldest_that_is_allowed():
    versions = _read(".github/workflows/tests.yml")["jobs"]["tests"]["strategy"]["matrix"]["python"]
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=")
    numbers = [int(version.removeprefix("3.")) for version in versions]
    assert versions[0] == oldest
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert numbers[-1] >= 13


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow__names_files_that_are_there_and_may_write_nothing(path):
    text = path.read_text(encoding="utf-8")
    assert _read(path)["permissions"] == {"contents": "read"}
    for name in re.findall(r"tests/[\w/]+(?:\.py)?|\.ci/\w+", text):
        assert (ROOT / name).exists(), name


def test_hooks__are_the_checks_of_the_code():
    (local,) = _read(".pre-commit-config.yaml")["repos"]
    assert {hook["id"] for hook in local["hooks"]} == {"ruff-check", "ruff-format", "mypy", "lint-imports"}


def test_citation__is_of_this_version():
    citation = _read("CITATION.cff")
    assert citation["version"] == PROJECT["project"]["version"]
    assert citation["license"] == PROJECT["project"]["license"]


def test_site__is_built_from_the_configuration_that_is_there():
    assert (ROOT / _read(".readthedocs.yaml")["sphinx"]["configuration"]).exists()


def test_package__carries_its_type_information():
    assert (ROOT / "opticam_dask" / "py.typed").exists()
    assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"]["opticam_dask"]
