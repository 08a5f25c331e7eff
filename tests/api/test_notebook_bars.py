"""Progress in the cell of a notebook: it takes nothing of what the cell shows."""

from __future__ import annotations

import nbformat
from nbclient import NotebookClient

_N_FIGURES = 100
#: Draws figures and says lines while a bar is there; a thread that draws the bar would catch some of them in it.
_CELL = f"""
import threading
from matplotlib.figure import Figure
from opticam_dask.console import Console
from opticam_dask.display.plotting.style import show_in_notebook

figure, console = Figure(figsize=(0.1, 0.1)), Console()
with console.stage("Drawing figures", {_N_FIGURES}, "files"):
    for number in range({_N_FIGURES}):
        show_in_notebook(figure)
        console.tell(f"figure {{number}}")
        console.advance(1)
    drawing = [thread.name for thread in threading.enumerate() if type(thread).__module__.startswith("rich")]
assert not drawing, drawing
"""


def test_bar__leaves_figures_and_lines_in_the_cell(tmp_path):
    document = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(_CELL)])
    NotebookClient(document, kernel_name="python3", timeout=120, resources={"metadata": {"path": tmp_path}}).execute()
    shown = [output.get("data", {}) for output in document.cells[0].outputs]
    told = " ".join(str(data.get("text/plain", "")) for data in shown)
    assert sum("image/png" in data for data in shown) == _N_FIGURES
    assert all(f"figure {number}\n" in told for number in range(_N_FIGURES))
