"""Files for archives, written once the rules of their format are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import xarray as xr

from opticam_dask import locations
from opticam_dask.lightcurves import results
from opticam_dask.lightcurves.fitting.outcome import fits_in_store
from opticam_dask.lightcurves.submission.aavso_exoplanet import make_aavso_exoplanet, problems_of_aavso_exoplanet
from opticam_dask.lightcurves.submission.aavso_extended import make_aavso_extended, problems_of_aavso_extended
from opticam_dask.lightcurves.submission.ades import make_ades, problems_of_ades
from opticam_dask.lightcurves.submission.alcdef import make_alcdef, problems_of_alcdef
from opticam_dask.lightcurves.submission.cds import make_cds, problems_of_cds
from opticam_dask.lightcurves.submission.observer import Observer, Submission, read_observer
from opticam_dask.lightcurves.submission.places import places_of
from opticam_dask.lightcurves.submission.transit_tables import make_etd, make_exoclock, problems_of_table
from opticam_dask.parameters import held_to
from opticam_dask.result_parameters import SUBMISSION
from opticam_dask.store.camera import group_name
from opticam_dask.store.store import Store

Archive = Literal["aavso-exoplanet", "aavso-extended", "exoclock", "etd", "alcdef", "ades", "cds"]

#: Problems of a file that are told.
_TOLD = 5


@dataclass(frozen=True)
class _Format:
    """A format: ending of its files, functions that make and check one, and what they need beside the light curve.

    ``leave_out`` are the flags of frames that get no row, unless the caller chooses others.
    """

    ending: str
    make: Callable[..., str]
    problems: Callable[[str], list[str]]
    leave_out: tuple[str, ...] = ()
    also_needed: Callable[[str | Path, str, xr.Dataset], Any] | None = None


def _fit_of(out_directory: str | Path, name: str, curve: xr.Dataset) -> xr.Dataset | None:
    return fits_in_store(out_directory, curve.attrs["key"]).get(name)


FORMATS: dict[str, _Format] = {
    "aavso-exoplanet": _Format("txt", make_aavso_exoplanet, problems_of_aavso_exoplanet, ("outlier",), _fit_of),
    "aavso-extended": _Format("txt", make_aavso_extended, problems_of_aavso_extended),
    "exoclock": _Format("txt", make_exoclock, problems_of_table, ("outlier",)),
    "etd": _Format("txt", make_etd, problems_of_table, ("outlier",)),
    "alcdef": _Format("alcdef", make_alcdef, problems_of_alcdef),
    "ades": _Format("psv", make_ades, problems_of_ades, also_needed=lambda out, name, curve: places_of(out, curve)),
    "cds": _Format("dat", make_cds, problems_of_cds),
}


@held_to(SUBMISSION)
def write_submission(
    out_directory: str | Path,
    archive: Archive,
    name: str | None = None,
    *,
    key: str | None = None,
    observer: Observer | str | Path | None = None,
    star: str = "",
    planet: str = "",
    number: int = 0,
    designation: str = "",
    notes: str = "",
    chart: str = "",
    leave_out: Sequence[str] | None = None,
) -> list[Path]:
    """Write ``submissions/<name>_<key>_<archive>.<ending>``, one file a camera, once the archive's rules are kept.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    archive : {"aavso-exoplanet", "aavso-extended", "exoclock", "etd", "alcdef", "ades", "cds"}
        Format of the files.
    name : str, optional
        Name of a light curve that is kept in the store. By default the only one.
    key : str, optional
        Camera key such as 1:g. By default all cameras that keep the light curve.
    observer : Observer or path, optional
        File with the codes of observer, telescope and bands. TOML, YAML or JSON.
    star : str
        Name of the star, or of the minor planet.
    planet : str
        Name of the planet. By default that of the star and b.
    number : int
        Number of the minor planet; 0 where it has none.
    designation : str
        Provisional designation of the minor planet.
    notes : str
        Remarks for the archive.
    chart : str
        Number of the chart of comparison stars (AAVSO).
    leave_out : sequence of str, optional
        Frames with one of these flags are left out. By default outliers of transits: where a star varies they are its
        own.

    Returns
    -------
    list of Path

    Raises
    ------
    ValueError
        When something that the format needs is not known, or the file would break a rule; nothing is written then.
    store.StoreError
        When there is no store.
    """
    if archive not in FORMATS:
        raise ValueError(f"archive must be {', '.join(FORMATS)}, got {archive!r}")
    if not isinstance(observer, Observer):
        observer = Observer() if observer is None else read_observer(observer)
    form = FORMATS[archive]
    left_out = form.leave_out if leave_out is None else tuple(leave_out)
    texts_of_target = (star.strip(), planet.strip(), number, designation.strip())
    about = Submission(observer, *texts_of_target, notes.strip(), chart.strip(), left_out)
    texts = {}
    for curve_key, curve_name, curve in _chosen(out_directory, name, key):
        also = () if form.also_needed is None else (form.also_needed(out_directory, curve_name, curve),)
        text = form.make(curve.load(), about, *also)
        if found := form.problems(text):
            more = f" and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
            raise ValueError(f"{archive} would refuse the file of {curve_key}: {'; '.join(found[:_TOLD])}{more}")
        file = f"{curve_name}_{group_name(curve_key)}_{archive}.{form.ending}"
        texts[locations.file_in(out_directory, "submissions", file)] = text
    for path, text in texts.items():
        with locations.replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return list(texts)


def _chosen(out_directory: str | Path, name: str | None, key: str | None) -> list[tuple[str, str, xr.Dataset]]:
    """Light curves that are meant: camera key, name and curve."""
    store = Store.open(out_directory)
    cameras = [store.camera(key)] if key else store.cameras
    kept = {camera.key: results.differential_light_curves(out_directory, camera.key) for camera in cameras}
    names = sorted({one for curves in kept.values() for one in curves})
    if name is None and len(names) == 1:
        name = names[0]
    if name is None or name not in names:
        told = f"there is no light curve {name!r}" if name else "it must be said which light curve is meant (--name)"
        raise ValueError(f"{told}; the store keeps {', '.join(names) or 'none (opticam-dask lightcurve makes one)'}")
    return [(one, name, curves[name]) for one, curves in kept.items() if name in curves]
