"""The photometer of the documentation, taken from there and run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from opticam_dask import light_curves, simulate_observations

PAGE = Path(__file__).parents[2] / "docs" / "photometry.md"


def test_own_photometer__of_the_documentation_runs_as_it_stands(tmp_path, monkeypatch):
    simulate_observations(
        tmp_path / "DATA", n_frames=4, shape=(96, 112), n_sources=5, filters=("g",), flux_range=(2e4, 1e5), fwhm=3.0
    )
    code = re.search(r"```python\n(import numpy.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL).group(1)
    code = code.replace(
        'Reducer("OUT", "DATA")', 'Reducer("OUT", "DATA", client="none", show_plots=False, verbose=False)'
    )
    monkeypatch.chdir(tmp_path)
    exec(code, {"__name__": "notebook"})
    curves = light_curves("OUT", "1:g", "peak").load()
    assert np.isfinite(curves["flux"]).all()
    assert curves.sizes == {"frame": 4, "source": 5}
