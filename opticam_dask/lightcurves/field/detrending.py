"""Trends of a light curve with the conditions of its frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from opticam_dask.kernels.series import trends
from opticam_dask.lightcurves.reading.columns import CurveArrays

#: What a light curve may be detrended against.
VECTORS = ("airmass", "fwhm", "background", "x", "y", "ellipticity", "transparency", "time")


def fit(
    members: CurveArrays,
    relative: np.ndarray,
    relative_err: np.ndarray,
    names: Sequence[str],
    without: tuple[float, float] | None,
    outliers: float,
) -> trends.Trends:
    """Trends of a relative flux with what is known of the frames and of the target, the first of the members."""
    of_target = members.isel(source=0)
    time = _time_of(of_target)
    vectors = {}
    for name in dict.fromkeys(names):
        stored = "frame_background" if name == "background" and "frame_background" in members.coords else name
        if name == "time":
            vectors[name] = time
        elif name in ("x", "y"):
            vectors[name] = members[name].to_numpy()[:, 0]
        elif stored in members.coords:
            vectors[name] = members[stored].to_numpy().astype(float)
        if name not in vectors or not np.isfinite(vectors[name]).any():
            raise ValueError(f"{name} is not known in any frame, so nothing can be detrended against it")
    use = ~trends.find_outliers(relative, relative_err, outliers)
    kept = outside(of_target, without)
    if kept is not None:
        use &= kept
    return trends.fit_trends(relative, relative_err, vectors, use)


def _time_of(of_target: CurveArrays) -> np.ndarray:
    """Barycentric time where any is known, else UTC."""
    barycentric = of_target["bmjd_tdb"].to_numpy()
    return barycentric if np.isfinite(barycentric).any() else of_target["mjd_utc"].to_numpy()


def outside(of_target: CurveArrays, without: tuple[float, float] | None) -> np.ndarray | None:
    """Frames that are not within the times that trends are not fitted to; None where there are no such times."""
    if without is None:
        return None
    time = _time_of(of_target)
    return ~((time >= min(without)) & (time <= max(without)))


def described(fitted: trends.Trends) -> dict[str, Any]:
    """Trends as JSON can hold them."""
    return {
        "coefficients": dict(zip(fitted.names, fitted.coefficients.tolist(), strict=True)),
        "errors": dict(zip(fitted.names, fitted.errors.tolist(), strict=True)),
        "degrees_of_freedom": fitted.degrees_of_freedom,
        "reduced_chi2": fitted.reduced_chi2,
        "warnings": list(fitted.warnings),
    }
