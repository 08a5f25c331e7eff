"""Errors of transit fits where axis and inclination are known within errors of their own."""

from __future__ import annotations

import numpy as np
import xarray as xr

import opticam_dask as opticam
from opticam_dask.kernels.fitting import shapes
from opticam_dask.lightcurves.fitting.outcome import value_of

PERIOD, AXIS, INCLINATION, RATIO, MIDDLE, JD = 2.15, 6.05, 88.0, 0.12, 60000.11, 2400000.5
N_FRAMES, NOISE, EXPOSURE = 120, 0.002, 60.0


def _curve(rng: np.random.Generator) -> xr.Dataset:
    """A transit with white noise, and a baseline in airmass and position."""
    days = 60000.0 + np.linspace(0.0, 0.22, N_FRAMES)
    transit = shapes.Transit(days, PERIOD, (0.4, 0.25), EXPOSURE / 86400.0).flux(MIDDLE, RATIO, AXIS, INCLINATION)
    airmass = 1.1 + 8.0 * (days - 60000.1) ** 2
    x, y = np.cumsum(rng.normal(0.0, 0.3, (2, N_FRAMES)), axis=1)
    flux = (1.0 + 0.01 * airmass + 2e-4 * x - 1e-4 * y) * transit * (1.0 + rng.normal(0.0, NOISE, N_FRAMES))
    columns = {"mjd_utc": days - 0.005, "bmjd_tdb": days, "airmass": airmass, "x": x, "y": y}
    columns |= {"night": np.full(N_FRAMES, "2023-02-25", dtype=object), "exposure_time": np.full(N_FRAMES, EXPOSURE)}
    return xr.Dataset(
        {"relative_flux": ("frame", flux), "relative_flux_err": ("frame", np.full(N_FRAMES, NOISE))},
        coords={name: ("frame", values) for name, values in columns.items()},
        attrs={"key": "1:g", "label": "aperture"},
    )


def test_errors__of_an_orbit_that_is_all_but_known_are_those_of_one_that_is() -> None:
    """What is told of axis and inclination holds both of them; with wider errors those of the fit grow."""
    curve, errors = _curve(np.random.default_rng(0)), []
    for width in (0.0, 1e-3, 0.5):
        told = {"a_over_rs": (AXIS, width), "inclination": (INCLINATION, width)}
        fit = opticam.fit_transit(curve, PERIOD, n_steps=0, **told)
        errors.append([value_of(fit, name)[1] for name in ("mid_time", "depth")])
    known, all_but_known, wide = np.array(errors)
    # errors of 2000 samples are known to 2 per cent, and noise is judged by residuals of two parameters more
    np.testing.assert_allclose(all_but_known, known, rtol=0.08)
    assert np.all(wide > 0.95 * known)
    assert wide[1] < 1.5 * known[1]
