"""Search for the source that varies most against all others."""

from __future__ import annotations

import numpy as np
import xarray as xr

from opticam_dask.kernels.series import lightcurve
from opticam_dask.lightcurves.differential import compute_relative

#: Share of the frames in which a source must have a flux to be judged.
_OFTEN = 0.9


def most_variable(curves: xr.Dataset) -> int:
    """Find the source that varies most against all others, by reduced chi-squared.

    A source without flux in more than a tenth of the frames is left out: only frames in which every compared source has
    a flux can be used.

    Parameters
    ----------
    curves : xarray.Dataset
        Dims ``(frame, source)``: flux, flux_err, flags; coordinate source_id.

    Returns
    -------
    int
        Number of the source in the catalogue.

    Raises
    ------
    ValueError
        With fewer than three sources that are measured in most frames.
    """
    loaded = curves[["flux", "flux_err", "flags"]].load()
    numbers = often_measured(loaded)
    if len(numbers) < 3:
        raise ValueError(
            "at least 3 sources with a flux in most frames are needed to tell which one varies; "
            f"{len(numbers)} of {loaded.sizes['source']} have one"
        )
    excess = []
    for number in numbers:
        others = [other for other in numbers if other != number]
        one = compute_relative(loaded, number, others, outliers=np.inf)
        excess.append(lightcurve.reduced_chi2(one["relative_flux"].to_numpy(), one["relative_flux_err"].to_numpy()))
    if not np.isfinite(excess).any():
        raise ValueError("no two frames have a flux of every source, so none can be called variable")
    return int(numbers[int(np.nanargmax(excess))])


def often_measured(curves: xr.Dataset) -> list[int]:
    """Numbers of the sources with a flux in nine tenths of the frames in which any source has one."""
    measured = np.isfinite(curves["flux"].to_numpy())
    n_frames = np.count_nonzero(measured.any(axis=1))
    often = (measured.sum(axis=0) >= _OFTEN * n_frames) & (n_frames > 0)
    found: list[int] = curves["source_id"].to_numpy()[often].tolist()
    return found


def chance_of_variation(curves: xr.Dataset, number: int) -> float:
    """Probability that noise alone makes any source vary as much as this one does.

    Parameters
    ----------
    curves : xarray.Dataset
        Light curves of all sources, as :func:`most_variable` takes them.
    number : int
        Number of the source that varies most.

    Returns
    -------
    float
        From its chi-squared, times the number of sources among which it was chosen; at most 1.
    """
    from scipy.special import chdtrc  # probability that chi-squared is exceeded

    numbers = often_measured(curves)
    one = compute_relative(curves, number, [other for other in numbers if other != number], outliers=np.inf)
    flux, error = one["relative_flux"].to_numpy(), one["relative_flux_err"].to_numpy()
    freedom = np.count_nonzero(np.isfinite(flux)) - 1
    return min(1.0, len(numbers) * float(chdtrc(freedom, freedom * lightcurve.reduced_chi2(flux, error))))
