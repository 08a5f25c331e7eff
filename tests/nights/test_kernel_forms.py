"""A night reduced with the kernels in C and with those in NumPy."""

from __future__ import annotations

import numpy as np
import xarray as xr
from compiled_kernels import needs_compiled

from opticam_dask import simulate_observations
from opticam_dask.cli import main
from opticam_dask.kernels import compiled


@needs_compiled
def test_night__has_the_same_fluxes_by_both_forms(tmp_path):
    simulate_observations(
        tmp_path / "data", n_frames=12, shape=(160, 160), n_sources=15, filters=("g",), flux_range=(1e3, 3e5), seed=3
    )
    nights = {}
    try:
        for form in (compiled.NUMPY, compiled.COMPILED):
            compiled.use(form)
            out = tmp_path / form
            command = ["reduce", str(tmp_path / "data"), "--out", str(out), "--cluster", "none", "--no-figures"]
            assert main([*command, "--photometer", "aperture", "optimal"]) == 0
            nights[form] = xr.open_datatree(out / "reduction.zarr", engine="zarr")
            assert nights[form].attrs["kernels"] == form
    finally:
        compiled.use(compiled.COMPILED)
    plain, fast = nights[compiled.NUMPY], nights[compiled.COMPILED]
    parts = [group for group in plain.groups if "/photometry/" in group]
    assert len(parts) == 2
    for part in parts:
        away = np.abs(fast[part]["flux"] - plain[part]["flux"]) / plain[part]["flux_err"]
        # of the error: in NumPy the sky is taken off in single precision, in C from whole counts, which moves the
        # level of the sky by some 1e-5 electrons
        assert float(away.max()) < 1e-5
        assert (fast[part]["flags"] == plain[part]["flags"]).all()
        assert int(np.isfinite(away).sum()) > 100
