"""Every notebook runs from top to bottom without an error, and is stored without what it prints and draws.

Executed copies are left in ``build/notebooks``: the documentation shows them, so no notebook is executed twice.
"""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXECUTED = ROOT / "build" / "notebooks"

#: Least number of figures of each notebook; 1 for those that are not listed.
N_FIGURES = {
    "backgrounds": 5, "big_run": 2, "corrections": 3, "finders": 3, "hat_p_32": 2, "reduction": 9, "timing_methods": 8,
}  # fmt: skip


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request) -> Path:
    return request.param


def test_notebook__is_clean_of_output(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code), "clear all outputs before you save"
    assert len({cell["id"] for cell in cells}) == len(cells)


def test_notebook__begins_with_a_title_and_explains_each_step(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    first = "".join(cells[0]["source"])
    assert re.match(r"# [^\n]+\n\n\S", first), "the first cell is a title and a paragraph"
    kinds = [cell["cell_type"] for cell in cells]
    assert "code code code code" not in " ".join(kinds), "a sentence before a step says why"


@pytest.mark.timeout(900)
def test_notebook__runs(notebook, tmp_path, monkeypatch, request):
    text = notebook.read_text(encoding="utf-8")
    if "OPTICAM_DASK_REAL_DATA" in text:
        monkeypatch.setenv("OPTICAM_DASK_REAL_DATA", str(request.getfixturevalue("real_data").resolve()))
    for path in notebook.parent.glob("*.json"):
        shutil.copy(path, tmp_path)
    outputs = _execute(notebook, tmp_path)
    figures = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert len(figures) >= N_FIGURES.get(notebook.stem, 1)
    assert all(len(base64.b64decode(figure)) > 5000 for figure in figures), "a figure is empty"
    told = "".join(output["text"] for output in outputs if output.get("name") == "stderr")
    assert "Warning:" not in told, told
    printed = "".join(output.get("text", "") for output in outputs)
    assert not re.search(r"(^ *\S\n){3}", printed, re.MULTILINE), "a sentence is printed letter by letter"
    if check := CHECKS.get(notebook.stem):
        check(printed)


def _execute(path: Path, directory: Path) -> list[dict]:
    """Outputs of all cells; the executed copy is kept for the documentation."""
    document = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(directory)}}
    # what a cell prints may come late on a busy machine: without it a figure is lost
    waits = {"timeout": 850, "startup_timeout": 300, "iopub_timeout": 120, "raise_on_iopub_timeout": True}
    NotebookClient(document, kernel_name="python3", resources=where, **waits).execute()
    for cell in document.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_bar(output)]
    document.metadata.pop("widgets", None)
    EXECUTED.mkdir(parents=True, exist_ok=True)
    nbformat.write(document, EXECUTED / path.name)
    return [output for cell in document.cells for output in cell.get("outputs", [])]


def _is_bar(output: dict) -> bool:
    """Whether an output is a progress bar, which is nothing on paper."""
    data = output.get("data", {})
    return "application/vnd.jupyter.widget-view+json" in data or not data.get("text/plain", "-").strip()


def _check_hat_p_32(printed: str) -> None:
    """The transit of the literature, in days and percent, and the numbers of README.md."""
    scatter = float(re.search(r"scatter +([\d.]+) % about the fit", printed).group(1))
    middle = float(re.search(r"mid-transit ([\d.]+)", printed).group(1))
    assert scatter <= 0.53
    assert abs(middle - 2458107.71406) < 0.002
    told = (ROOT / "README.md").read_text(encoding="utf-8")
    assert float(re.search(r"mid-transit, BJD \(TDB\) \| ([\d.]+)", told).group(1)) == pytest.approx(middle, abs=2e-4)
    assert float(re.search(r"scatter about the fit \| ([\d.]+) %", told).group(1)) == pytest.approx(scatter, abs=0.02)


def _check_timing_methods(printed: str) -> None:
    """The frequency that was simulated, in Hz, and lags of a quarter of its period from each camera to the next."""
    frequency, error = map(float, re.search(r"all cameras: ([\d.]+) \+- ([\d.]+) Hz", printed).groups())
    assert abs(frequency - 0.135) < 3 * error
    assert error < 1e-4
    found = re.findall(r"(\d:\w) x (\d:\w): lag (-?[\d.]+) \+- ([\d.]+) s at", printed)
    lags = {(first, second): (float(lag), float(err)) for first, second, lag, err in found}
    # half a period either way is the same
    for pair, expected in ((("1:g", "2:r"), -1.852), (("2:r", "3:i"), -1.852), (("1:g", "3:i"), 3.704)):
        lag, err = lags[pair]
        assert err < 0.15
        assert min(abs(lag - expected), abs(lag + expected) if expected > 0 else math.inf) < 3 * err


CHECKS = {"hat_p_32": _check_hat_p_32, "timing_methods": _check_timing_methods}
