"""Light curves prepared for timing analyses: in seconds since a reference epoch, normalised, one time axis a camera."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr
from astropy.timeseries import TimeSeries

from opticam_dask.flags import SourceFlag, count_flags
from opticam_dask.kernels.units import SECONDS_PER_DAY
from opticam_dask.lightcurves import conversions

FluxNorm = Literal["mean", "max", "none"]


@dataclass(frozen=True)
class TimingCurve:
    """Light curve of one camera.

    Attributes
    ----------
    time : ndarray, shape (n,)
        Seconds since ``reference_mjd``, ascending, each once.
    flux, flux_err : ndarray, shape (n,)
        Divided by ``divisor``.
    reference_mjd : float
        A whole day, so that seconds keep their precision (a microsecond of MJD 60000 is lost, not more).
    scale : str
        ``tdb``, ``utc`` or unknown.
    divisor : float
        What the fluxes were divided by.
    """

    time: np.ndarray
    flux: np.ndarray
    flux_err: np.ndarray
    reference_mjd: float
    scale: str
    divisor: float = 1.0

    @property
    def columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Time, flux and error, as kernels take them."""
        return self.time, self.flux, self.flux_err

    def to_dataset(self, key: str) -> xr.Dataset:
        """Dataset with dim ``time``."""
        described = {"units": "1", "long_name": f"relative flux divided by {self.divisor:g}"}
        return xr.Dataset(
            {
                "flux": ("time", self.flux, described),
                "flux_err": ("time", self.flux_err, {"units": "1", "long_name": "1-sigma error"}),
            },
            coords={"time": ("time", self.time, {"units": "s", "long_name": "time since reference_mjd"})},
            attrs={"key": key, "reference_mjd": self.reference_mjd, "time_scale": self.scale, "divisor": self.divisor},
        )


def timing_curve(
    curve: Any, exclude_flags: int = 0, name: str = "the light curve", tell: Callable[[str], None] | None = None
) -> TimingCurve:
    """Any light curve of :func:`conversions.to_plain` in seconds; frames without flux or error are left out.

    Parameters
    ----------
    curve : Dataset, DataFrame, TimeSeries, stingray Lightcurve, path
        The light curve.
    exclude_flags : int
        Frames with one of these bits of ``SourceFlag`` are left out too.
    name : str
        Name of the light curve in messages.
    tell : callable, optional
        Called with a line that says how many frames with flags were left out.

    Raises
    ------
    ValueError
        With fewer than two frames, or two at the same time.
    """
    plain = conversions.to_plain(curve)
    used = np.isfinite(plain.mjd) & np.isfinite(plain.flux) & np.isfinite(plain.flux_err) & (plain.flux_err > 0)
    if exclude_flags and plain.flags is not None:
        flagged = used & ((plain.flags.astype(np.uint32) & np.uint32(exclude_flags)) != 0)
        used &= ~flagged
        if tell is not None and flagged.any():
            names = ", ".join(count_flags(plain.flags[flagged] & np.uint32(exclude_flags), SourceFlag))
            tell(f"{name}: {np.count_nonzero(flagged)} of {len(flagged)} frames left out ({names}).")
    if np.count_nonzero(used) < 2:
        raise ValueError(
            f"{name} has {np.count_nonzero(used)} frames with a time, a flux and an error above zero; "
            "expected at least 2"
        )
    mjd, flux, error = plain.mjd[used], plain.flux[used], plain.flux_err[used]
    order = np.argsort(mjd, kind="stable")
    reference = float(np.floor(mjd.min()))
    time = (mjd[order] - reference) * SECONDS_PER_DAY
    if twice := int(np.count_nonzero(np.diff(time) <= 0)):
        raise ValueError(f"{name} has {twice} frames at the same time as another: expected each time once")
    return TimingCurve(time, flux[order], error[order], reference, plain.scale)


def referred_to(curve: TimingCurve, reference_mjd: float) -> TimingCurve:
    """The same light curve in seconds since another epoch."""
    shift = (curve.reference_mjd - reference_mjd) * SECONDS_PER_DAY
    return replace(curve, time=curve.time + shift, reference_mjd=reference_mjd)


def normalised(curve: TimingCurve, norm: FluxNorm, name: str = "the light curve") -> TimingCurve:
    """Flux and error divided by the mean or the maximum of the flux.

    Raises
    ------
    ValueError
        For another norm, or when that is zero.
    """
    if norm not in get_args(FluxNorm):
        raise ValueError(f"norm must be one of {', '.join(get_args(FluxNorm))}, got {norm!r}")
    whole = curve.flux * curve.divisor, curve.flux_err * curve.divisor
    divisor = {"none": 1.0, "mean": float(whole[0].mean()), "max": float(whole[0].max())}[norm]
    if divisor == 0:
        raise ValueError(f'{name} has a {norm} flux of 0 that nothing can be divided by: choose norm "none"')
    return replace(curve, flux=whole[0] / divisor, flux_err=whole[1] / abs(divisor), divisor=divisor)


def joined(first: TimingCurve, second: TimingCurve, norm: FluxNorm, name: str) -> TimingCurve:
    """Two light curves of one camera merged in time order; a frame that is in both is taken once."""
    second = referred_to(second, first.reference_mjd)
    time = np.concatenate([first.time, second.time])
    flux = np.concatenate([first.flux * first.divisor, second.flux * second.divisor])
    error = np.concatenate([first.flux_err * abs(first.divisor), second.flux_err * abs(second.divisor)])
    time, kept = np.unique(time, return_index=True)
    whole = TimingCurve(time, flux[kept], error[kept], first.reference_mjd, first.scale or second.scale)
    return normalised(whole, norm, name)


def gather(
    light_curves: Any, exclude_flags: int = 0, tell: Callable[[str], None] | None = None
) -> dict[str, TimingCurve]:
    """Light curves by camera key, in seconds since one epoch.

    Parameters
    ----------
    light_curves : mapping, Dataset, TimeSeries, DataFrame
        By camera key; or one Dataset, whose attribute says its key; or one series or table with columns
        ``<key>_rel_flux`` and ``<key>_rel_flux_err``, and perhaps ``<key>_flags``, or ``flags`` of all.
    exclude_flags : int
        Frames with one of these bits (:class:`~opticam_dask.flags.SourceFlag`) are left out.
    tell : callable, optional
        Takes lines for a person.

    Raises
    ------
    ValueError
        When there is no light curve, or their time scales differ.
    """
    if isinstance(light_curves, xr.Dataset):
        light_curves = {str(light_curves.attrs.get("key", "light curve")): light_curves}
    elif not isinstance(light_curves, Mapping):
        light_curves = _columns_of_keys(light_curves)
    curves = {str(key): timing_curve(curve, exclude_flags, str(key), tell) for key, curve in light_curves.items()}
    if not curves:
        raise ValueError("expected at least one light curve, got none")
    require_one_scale(curves.items())
    reference = min(curve.reference_mjd for curve in curves.values())
    return {key: referred_to(curves[key], reference) for key in sorted(curves)}


def require_one_scale(curves: Iterable[tuple[str, TimingCurve]]) -> None:
    """Refuse light curves, by camera key, with times on different scales; an unknown scale goes with any.

    Raises
    ------
    ValueError
        When their time scales differ.
    """
    scales = [(key, curve.scale) for key, curve in curves if curve.scale]
    if len({scale for _, scale in scales}) > 1:
        told = ", ".join(f"{key}: {scale.upper()}" for key, scale in scales)
        raise ValueError(f"the light curves have times of different scales ({told}): their lags would mean nothing")


def _columns_of_keys(series: Any) -> dict[str, Any]:
    """Light curves of a table of several cameras, each as a table of its own, by camera key."""
    names = list(series.colnames) if isinstance(series, TimeSeries) else list(getattr(series, "columns", []))
    fluxes = [name for name in names if str(name).endswith("_rel_flux")]
    if not fluxes:
        return {"light curve": series}
    time = [name for name in names if name in ("BMJD", "MJD")]
    found = {}
    for name in fluxes:
        key = str(name).removesuffix("_rel_flux")
        flags = next((flag for flag in (f"{key}_flags", "flags") if flag in names), None)
        columns = {name: "rel_flux", f"{name}_err": "rel_flux_err"} | ({flags: "flags"} if flags else {})
        if isinstance(series, TimeSeries):
            found[key] = TimeSeries(time=series.time, data={new: series[old] for old, new in columns.items()})
        else:
            found[key] = series[[*time, *columns]].rename(columns=columns)
    return found


def find_files(out_directory: Path, prefix: str | None, label: str | None) -> tuple[dict[str, Path], str, str]:
    """Files ``relative_light_curves/<label>/<prefix>_<key>_light_curve.csv`` by camera key.

    Parameters
    ----------
    out_directory : Path
        Output directory of a reduction.
    prefix, label : str, optional
        May be left out where there is one.

    Returns
    -------
    files, prefix, label

    Raises
    ------
    ValueError
        When there are none, or several to choose from; the message names them.
    """
    root = out_directory / "relative_light_curves"
    labels = sorted(entry.name for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []
    label = _only(label, labels, "phot_label", f"photometry label in {root}")
    files = {file.name.removesuffix("_light_curve.csv"): file for file in (root / label).glob("*_light_curve.csv")}
    prefixes = sorted({name.rpartition("_")[0] for name in files})
    prefix = _only(prefix, prefixes, "prefix", f"prefix in {root / label}")
    found = {}
    for name, file in sorted(files.items()):
        if name.startswith(f"{prefix}_"):
            group = name.removeprefix(f"{prefix}_")
            found[re.sub(r"^(\d+)-", r"\1:", group)] = file
    return found, prefix, label


def _only(wanted: str | None, there: list[str], parameter: str, what: str) -> str:
    if wanted is None and len(there) == 1:
        return there[0]
    if wanted in there:
        return str(wanted)
    names = ", ".join(there) or "none: make light curves first (DifferentialPhotometer.get_relative_light_curve)"
    told = (
        f"no {what} called {wanted!r}" if wanted is not None else f"{parameter} must be given: not exactly one {what}"
    )
    raise ValueError(f"{told}; there are {names}")
