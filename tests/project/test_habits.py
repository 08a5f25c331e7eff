"""What a newcomer and a machine rely on: workflows, citation, type information, in step with the project."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
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
    workflow = _read(path)
    assert workflow["permissions"] == {"contents": "read"}
    # a release is published by a token of its own, without write access to the repository
    assert {job.get("permissions", {}).get("id-token") for job in workflow["jobs"].values()} <= {None, "write"}
    assert all("contents" not in job.get("permissions", {}) for job in workflow["jobs"].values())
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
    # every public name has a page, and the browser is imported for it
    extras = PROJECT["project"]["optional-dependencies"]
    assert set(extras["explore"]) <= set(extras["docs"])


def test_package__carries_its_type_information():
    assert (ROOT / "opticam_dask" / "py.typed").exists()
    assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"]["opticam_dask"]


#: Packages that conda-forge has under another name.
_CONDA_NAMES = {
    "astropy": ("astropy-base",),
    "dask": ("dask-core", "distributed"),
    "isal": ("python-isal",),
    "matplotlib": ("matplotlib-base",),
    "opencv-python-headless": ("py-opencv",),
}


def test_conda_recipe__has_the_version_and_the_requirements_of_the_project():
    recipe = _read("conda/recipe.yaml")
    assert recipe["context"]["version"] == PROJECT["project"]["version"]
    expected = {"python"}
    for requirement in PROJECT["project"]["dependencies"]:
        name, bound = re.fullmatch(r"([\w-]+)(?:\[[\w,]+\])?(>=[\d.]+)", requirement).groups()
        expected |= {f"{conda} {bound}" for conda in _CONDA_NAMES.get(name, (name,))}
    assert set(recipe["requirements"]["run"]) == expected
    setuptools = PROJECT["build-system"]["requires"][0]
    assert setuptools.replace(">=", " >=") in recipe["requirements"]["host"]
    (script,) = recipe["build"]["python"]["entry_points"]
    assert script == f"opticam-dask = {PROJECT['project']['scripts']['opticam-dask']}"


@pytest.mark.skipif(shutil.which("awk") is None, reason="no awk")
@pytest.mark.parametrize("heading", ["## 1.2.3 - 2027-01-31", "## [1.2.3] - 2027-01-31"])
def test_release__shows_the_section_of_its_version(heading):
    [step] = [one for one in _read(".github/workflows/release.yml")["jobs"]["sdist"]["steps"] if "awk" in str(one)]
    [line] = [line for line in step["run"].splitlines() if line.startswith("awk")]
    [program] = [word for word in shlex.split(line) if "next" in word]
    changelog = f"# Changelog\n\n## Unreleased\n\n{heading}\n\n- Mended.\n\n## 1.2.30 - 2026-01-01\n\n- Older.\n"
    command = ["awk", "-v", "version=1.2.3", program]
    shown = subprocess.run(command, input=changelog, capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["-", "Mended."]


def test_release__builds_one_wheel_for_all_versions_and_tries_what_it_publishes():
    jobs = _read(".github/workflows/release.yml")["jobs"]
    assert set(jobs["publish"]["needs"]) == set(jobs) - {"publish"}
    (build,) = [step for step in jobs["wheels"]["steps"] if "cibuildwheel" in step.get("uses", "")]
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=3.")
    # the first builds, the others try what it built
    tested = _read(".github/workflows/tests.yml")["jobs"]["tests"]["strategy"]["matrix"]["python"]
    assert build["env"]["CIBW_BUILD"].split() == [f"cp{version.replace('.', '')}-*" for version in tested]
    assert tested[0] == f"3.{oldest}"
    for job in ("sdist", "wheels"):
        assert "opticam-dask demo" in str(jobs[job]["steps"])


def _clusters_of(source):
    """Every cluster that the source of a test starts, with the keywords that it is given."""
    for node in ast.walk(ast.parse(source)):
        keywords = {entry.arg: ast.unparse(entry.value) for entry in getattr(node, "keywords", ())}
        name = ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else None
        if name in ("Client", "LocalCluster") and "n_workers" in keywords:
            yield node.lineno, keywords


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=lambda path: path.stem)
def test_tests__start_no_cluster_on_a_port_that_another_one_has(path):
    """Without pages the scheduler still serves its state, on port 8787; when that is taken Dask warns, and so fails."""
    for line, keywords in _clusters_of(path.read_text(encoding="utf-8")):
        assert keywords.get("dashboard_address") == "':0'", f"{path.name}:{line}"
