"""Files for archives, written once the rules of their format are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import xarray as xr

from opticam_dask import locations
from opticam_dask.lightcurves import results
from opticam_dask.lightcurves.fitting.outcome import fits_in_store
from opticam_dask.lightcurves.submission import (
    aavso_exoplanet,
    aavso_extended,
    ades,
    alcdef,
    cds,
    transit_tables,
)
from opticam_dask.lightcurves.submission.observer import Observer, read_observer
from opticam_dask.lightcurves.submission.places import places_of
from opticam_dask.parameters import held_to
from opticam_dask.result_parameters import SUBMISSION
from opticam_dask.store.camera import group_name
from opticam_dask.store.store import Store

Archive = Literal["aavso-exoplanet", "aavso-extended", "exoclock", "etd", "alcdef", "ades", "cds"]

#: Problems of a file that are told.
_TOLD = 5


@dataclass(frozen=True)
class Submission:
    """Facts about an observation that an archive needs beside the light curve.

    Attributes
    ----------
    observer : Observer
        Names and codes.
    star, planet : str
        Names of the target.
    number : int
        Of a minor planet; 0 where it has none.
    designation : str
        Of a minor planet.
    notes, chart : str
        For the archive; number of a chart of comparison stars (AAVSO).
    leave_out : tuple of str
        Frames with one of these flags are no rows.
    """

    observer: Observer = field(default_factory=Observer)
    star: str = ""
    planet: str = ""
    number: int = 0
    designation: str = ""
    notes: str = ""
    chart: str = ""
    leave_out: tuple[str, ...] = ("outlier",)


@dataclass(frozen=True)
class _Format:
    """Ending of the files, flags of frames that are left out, what makes a file, and what finds its problems."""

    ending: str
    leave_out: tuple[str, ...]
    make: Callable[[str | Path, str, xr.Dataset, Submission], str]
    problems: Callable[[str], list[str]]


def _exoplanet(out_directory: str | Path, name: str, curve: xr.Dataset, about: Submission) -> str:
    fit = fits_in_store(out_directory, curve.attrs["key"]).get(name)
    return aavso_exoplanet.make_aavso_exoplanet(
        curve,
        fit,
        about.observer,
        star=about.star,
        planet=about.planet,
        notes=about.notes,
        leave_out=about.leave_out,
    )


def _extended(out_directory: str | Path, name: str, curve: xr.Dataset, about: Submission) -> str:
    return aavso_extended.make_aavso_extended(
        curve,
        about.observer,
        star=about.star,
        chart=about.chart or "na",
        notes=about.notes,
        leave_out=about.leave_out,
    )


def _alcdef(out_directory: str | Path, name: str, curve: xr.Dataset, about: Submission) -> str:
    return alcdef.make_alcdef(
        curve,
        about.observer,
        number=about.number,
        name=about.star,
        designation=about.designation,
        notes=about.notes,
        leave_out=about.leave_out,
    )


def _ades(out_directory: str | Path, name: str, curve: xr.Dataset, about: Submission) -> str:
    return ades.make_ades(
        curve,
        places_of(out_directory, curve),
        about.observer,
        number=about.number,
        designation=about.designation,
        leave_out=about.leave_out,
    )


def _cds(out_directory: str | Path, name: str, curve: xr.Dataset, about: Submission) -> str:
    return cds.make_cds(curve, authors=about.observer.name, star=about.star, leave_out=about.leave_out)


FORMATS: dict[str, _Format] = {
    "aavso-exoplanet": _Format("txt", ("outlier",), _exoplanet, aavso_exoplanet.problems_of_aavso_exoplanet),
    "aavso-extended": _Format("txt", (), _extended, aavso_extended.problems_of_aavso_extended),
    "exoclock": _Format(
        "txt",
        ("outlier",),
        lambda out, name, curve, about: transit_tables.make_exoclock(curve, leave_out=about.leave_out),
        transit_tables.problems_of_table,
    ),
    "etd": _Format(
        "txt",
        ("outlier",),
        lambda out, name, curve, about: transit_tables.make_etd(curve, leave_out=about.leave_out),
        transit_tables.problems_of_table,
    ),
    "alcdef": _Format("alcdef", (), _alcdef, alcdef.problems_of_alcdef),
    "ades": _Format("psv", (), _ades, ades.problems_of_ades),
    "cds": _Format("dat", (), _cds, cds.problems_of_cds),
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
    about = Submission(observer, star, planet, number, designation, notes, chart, left_out)
    texts = {}
    for curve_key, curve_name, curve in _chosen(out_directory, name, key):
        text = form.make(out_directory, curve_name, curve.load(), about)
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
