"""Rows of a light curve for an archive: one a frame in time order, without the frames that are left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata

import numpy as np
import xarray as xr

from opticam_dask.flags import SourceFlag
from opticam_dask.kernels.units import JD_OF_MJD, MAGNITUDES_PER_SHARE
from opticam_dask.lightcurves.field.conditions import CONDITIONS

#: What stands for a number that is not known, in the formats of the AAVSO.
UNKNOWN = "na"

#: Letters and digits of an observer's code at the AAVSO, at most.
_LONGEST_CODE = 5


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a light curve.

    Attributes
    ----------
    jd_utc, bjd_tdb : ndarray, shape (row,)
        Julian Dates of mid-exposure; NaN where not known.
    flux, flux_err : ndarray, shape (row,)
        Relative flux, finite and positive; its error, NaN where not known.
    columns : dict of ndarray, shape (row,)
        Conditions and magnitudes by name; NaN where not known.
    n_left_out : int
        Frames that are no rows.
    """

    jd_utc: np.ndarray
    bjd_tdb: np.ndarray
    flux: np.ndarray
    flux_err: np.ndarray
    columns: Mapping[str, np.ndarray]
    n_left_out: int

    def __len__(self) -> int:
        return len(self.flux)

    @property
    def magnitudes(self) -> tuple[np.ndarray, np.ndarray]:
        """Magnitudes and their errors, against the comparisons where the light curve has none of its own."""
        if "magnitude" in self.columns:
            return self.columns["magnitude"], self.columns["magnitude_err"]
        return differential_magnitudes(self.flux, self.flux_err)


def rows_of(
    curve: xr.Dataset,
    *,
    time: str = "mjd_utc",
    leave_out: Sequence[str] = ("outlier",),
    needs_error: bool = False,
    keep_faint: bool = False,
) -> Rows:
    """Rows of a differential light curve in time order.

    Parameters
    ----------
    curve : Dataset
        From :func:`~opticam_dask.relative_light_curve`.
    time : {"mjd_utc", "bmjd_tdb"}
        A frame without this time is no row.
    leave_out : sequence of str
        Frames with one of these flags (names of ``SourceFlag``) are no rows.
    needs_error : bool
        A frame whose error is not known is no row; else it is one, without an error.
    keep_faint : bool
        A frame in which the target has an upper limit only (variable ``magnitude_limit``) is a row.

    Raises
    ------
    ValueError
        When a flag is not known, or no row is left.
    """
    flux, error = curve["relative_flux"].to_numpy(), curve["relative_flux_err"].to_numpy()
    known = np.isfinite(error) & (error > 0)
    use = np.isfinite(curve[time].to_numpy()) & np.isfinite(flux) & (flux > 0)
    if keep_faint and "magnitude_limit" in curve:
        use |= np.isfinite(curve[time].to_numpy()) & np.isfinite(curve["magnitude_limit"].to_numpy())
    if needs_error:
        use &= known
    use &= (curve["flags"].to_numpy() & _mask(leave_out)) == 0
    if not use.any():
        raise ValueError(f"no frame of the light curve has a flux and {time}, so there is nothing to send")
    rows = np.flatnonzero(use)
    rows = rows[np.argsort(curve[time].to_numpy()[rows], kind="stable")]
    names = [*CONDITIONS, "magnitude", "magnitude_err", "magnitude_limit"]
    return Rows(
        jd_utc=curve["mjd_utc"].to_numpy()[rows] + JD_OF_MJD,
        bjd_tdb=curve["bmjd_tdb"].to_numpy()[rows] + JD_OF_MJD,
        flux=flux[rows],
        flux_err=np.where(known, error, np.nan)[rows],
        columns={name: curve[name].to_numpy().astype(float)[rows] for name in names if name in curve.variables},
        n_left_out=len(flux) - len(rows),
    )


def differential_magnitudes(flux: np.ndarray, flux_err: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Magnitudes of relative fluxes, and their errors."""
    return -2.5 * np.log10(flux), MAGNITUDES_PER_SHARE * flux_err / flux


def _mask(names: Sequence[str]) -> np.uint32:
    mask = SourceFlag(0)
    for name in names:
        try:
            mask |= SourceFlag[name.upper()]
        except KeyError:
            known = ", ".join(str(flag.name).lower() for flag in SourceFlag)
            raise ValueError(f"there is no flag {name!r}; there are {known}") from None
    return np.uint32(mask)


def number(value: float, digits: int, unknown: str = UNKNOWN) -> str:
    """Text of a number with ``digits`` decimals; ``unknown`` where it is not finite."""
    return f"{value:.{digits}f}" if np.isfinite(value) else unknown


def not_numbers(fields: Sequence[str], allowed: Sequence[str] = (UNKNOWN,)) -> list[str]:
    """Fields that a format would read as numbers and that are none."""
    return [text for text in fields if text not in allowed and not _is_number(text)]


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def parameters_and_rows(text: str) -> tuple[dict[str, str], list[str]]:
    """Parameters (``#NAME=value``) and rows of a file in a format of the AAVSO."""
    lines = text.splitlines()
    parameters = (line[1:].partition("=") for line in lines if line.startswith("#") and "=" in line)
    return {name: value for name, _, value in parameters}, [line for line in lines if not line.startswith("#")]


def problems_of_code(code: str) -> list[str]:
    """Faults of the AAVSO code of an observer; empty for a right one."""
    is_code = code.isascii() and code.isalnum() and len(code) <= _LONGEST_CODE
    return [] if is_code else [f"#OBSCODE={code} is no code: up to {_LONGEST_CODE} letters and digits"]


def software() -> str:
    """Name and version of this package, as archives want them."""
    return f"opticam_dask {metadata.version('opticam-dask')}"
