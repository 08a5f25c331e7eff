"""Position of the target of a light curve on the sky in each frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from opticam_dask.flags import SourceFlag
from opticam_dask.frames import sky_coordinates
from opticam_dask.kernels.sources.photometry import SIGMA_TO_FWHM
from opticam_dask.store.store import Store

#: Places of sources with others on them are not theirs.
_WITH_OTHERS = np.uint32(SourceFlag.BLENDED | SourceFlag.CONTAMINATED)


@dataclass(frozen=True, eq=False)
class SkyPlaces:
    """Places on the sky, one a frame of a light curve.

    Attributes
    ----------
    ra, dec : ndarray, shape (frame,)
        ICRS, degrees; NaN where not known.
    ra_err, dec_err : ndarray, shape (frame,)
        1-sigma errors, arcseconds: of the centroid and of the solution of the field; NaN where not known.
    origin : str
        What the solution of the field was made with.
    """

    ra: np.ndarray
    dec: np.ndarray
    ra_err: np.ndarray
    dec_err: np.ndarray
    origin: str = ""


def places_of(out_directory: str | Path, curve: xr.Dataset) -> SkyPlaces:
    """Places of the target of a light curve: its place on each frame, on the reference frame, and there on the sky.

    A source that the observer placed is measured where he put it. Its own position is known only in frames in which it
    was detected, and apart from other sources.

    Parameters
    ----------
    out_directory : path
        Output directory of the reduction.
    curve : Dataset
        From :func:`~opticam_dask.relative_light_curve`, with ``x`` and ``y`` of the target.

    Returns
    -------
    SkyPlaces

    Raises
    ------
    ValueError
        When it is not known where on the sky the camera looked.
    """
    camera = Store.open(out_directory).camera(curve.attrs["key"])
    told = camera.catalog.attributes
    if "wcs" not in told:
        raise ValueError(
            f"it is not known where on the sky {camera.key} looked: opticam-dask sky {out_directory} finds out"
        )
    parts = camera.measured_parts(curve.attrs["label"])
    times = np.concatenate([part.frames["mjd_utc"] for part in parts])
    transforms = np.concatenate([part.frames["transform"] for part in parts])
    order = np.argsort(times, kind="stable")
    transforms = transforms[order]
    if len(transforms) != curve.sizes["frame"]:
        raise ValueError("the light curve does not have the frames of the reduction as it is now: make it again")
    x, y = curve["x"].to_numpy(), curve["y"].to_numpy()
    row = int(np.flatnonzero(camera.catalog["source_id"] == curve.attrs["target"])[0])
    if row >= camera.n_found:
        seen = [np.stack([part.sources["x"], part.sources["y"]], axis=-1) for part in parts]
        by_part = [part.photometry(curve.attrs["label"])["flags"][:, row] for part in parts]
        flags = np.concatenate([one.reshape(len(one), -1)[:, 0] for one in by_part])[order]
        xy = nearest_detections(np.concatenate(seen)[order], np.column_stack([x, y]), curve["fwhm"].to_numpy())
        xy[(flags & _WITH_OTHERS) != 0] = np.nan
        x, y = xy.T
    reference = np.full((len(x), 2), np.nan)
    known = np.isfinite(transforms).all(axis=(1, 2)) & np.isfinite(x) & np.isfinite(y)
    if known.any():
        on_frame = np.column_stack([x, y, np.ones(len(x))])[known]
        reference[known] = np.linalg.solve(transforms[known], on_frame[..., None])[:, :2, 0]
    wcs = sky_coordinates.read_wcs(told["wcs"])
    ra, dec = np.full(len(x), np.nan), np.full(len(x), np.nan)
    ra[known], dec[known] = sky_coordinates.icrs_of_pixels(wcs, reference[known, 0], reference[known, 1])
    flux, error = curve["relative_flux"].to_numpy(), curve["relative_flux_err"].to_numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        # the width of a star over its signal-to-noise ratio (King 1983, PASP 95, 163)
        centroid = curve["fwhm"].to_numpy() / SIGMA_TO_FWHM * np.abs(error / flux) * sky_coordinates.scale_of(wcs)
    total = np.hypot(centroid, float(told.get("wcs_rms", np.nan)))
    return SkyPlaces(ra, dec, total, total.copy(), str(told.get("wcs_origin", "")))


def nearest_detections(detected: np.ndarray, expected: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Detection of each frame that is nearest to where a source is expected, NaN where none is near enough.

    Parameters
    ----------
    detected : ndarray, shape (frame, slot, 2)
        Places of what each frame shows, pixels; NaN in empty slots.
    expected : ndarray, shape (frame, 2)
        Where the source should be.
    reach : ndarray, shape (frame,)
        Largest distance, pixels.

    Returns
    -------
    ndarray, shape (frame, 2)
    """
    away = np.hypot(*np.moveaxis(detected - expected[:, None], -1, 0))
    away = np.where(np.isfinite(away), away, np.inf)
    nearest = np.argmin(away, axis=1)
    frames = np.arange(len(away))
    found: np.ndarray = detected[frames, nearest].astype(float)
    found[~(away[frames, nearest] < reach)] = np.nan
    return found
