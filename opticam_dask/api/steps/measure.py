"""Photometry of the sources of a catalogue in every frame of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import xarray as xr

from opticam_dask import schema
from opticam_dask.api.steps import chains, tasks
from opticam_dask.api.steps.catalog import everything_of, measured_with, without_empty_slots
from opticam_dask.api.steps.frames import (
    EVERYTHING,
    STAGES,
    SURVEY,
    KeptRecords,
    chain_of,
    placeholders,
    records_of_aligned,
    require_same_camera,
    require_same_reference,
    step,
)
from opticam_dask.api.steps.reading import rebased
from opticam_dask.cluster import blocks
from opticam_dask.flags import FrameFlag, flag_attributes
from opticam_dask.kernels.sources.profiles.profile import Profile
from opticam_dask.lightcurves.indexes import with_indexes
from opticam_dask.methods.frame_view import CatalogFacts, Photometer
from opticam_dask.methods.photometers import AperturePhotometer
from opticam_dask.steps.measure import has_common_error, measured_radii, measured_variables
from opticam_dask.steps.view import neighbours_of


@step
def photometry(ds: xr.Dataset, cat: xr.Dataset, photometer: Photometer | None = None) -> xr.Dataset:
    """Light curves of the sources of a catalogue.

    Parameters
    ----------
    ds : Dataset
        Aligned frames, as `align` returns them; a part of them (``ds.sel(time=...)``) gives the same numbers.
    cat : Dataset
        Catalogue, as `catalog` returns it; a part of it (``cat.sel(source=[2, 3])``) gives the same numbers.
    photometer : Photometer, optional
        By default `AperturePhotometer`.

    Returns
    -------
    Dataset
        ``flux``, ``flux_err``, ``x``, ``y``, ``flags`` and what else the photometer measures, dims (frame, source) or
        (frame, source, radius); ``time`` and ``source`` are indexes.

    Raises
    ------
    ValueError
        When the frames are not aligned, the catalogue is of another camera or empty, or a radius is to be chosen.
    """
    chain = chain_of(ds, chains.ALIGNED, "photometry")
    photometer = AperturePhotometer() if photometer is None else photometer
    _check(ds, cat, photometer)
    if "source" not in cat.dims:
        if EVERYTHING not in cat.encoding:
            raise ValueError("photometry expected a catalogue along source: use cat.sel(source=[number])")
        cat = cat.encoding[EVERYTHING].sel(source=[int(cat["source_id"])])
    cat = without_empty_slots(cat)
    if not cat.sizes["source"]:
        raise ValueError("photometry expected at least one source, the selection is empty")
    survey: KeptRecords | None = cat.encoding.get(SURVEY)
    kept = survey.kept if survey is not None and survey.tells(ds) else None
    prepare, arrays = PrepareTask.of(photometer, cat)
    of_one_record = blocks.n_inputs(arrays) == 1 and any(map(blocks.is_lazy, arrays))
    record = None if of_one_record else blocks.whole(prepare, *arrays)
    if not blocks.is_lazy(ds["raw"].data):
        (record,) = blocks.computed(blocks.whole(prepare, *arrays))
    number, further = profile_numbers(everything_of(cat), ds), True
    if record is None:
        task, beside = tasks.MeasureTask(chain, "photometry", prepare=prepare), arrays
    elif blocks.is_lazy(record):
        task, beside = tasks.MeasureTask(chain, "photometry"), [record]
    else:
        prepared = record[0]
        task, beside, kept = tasks.MeasureTask(chain, "photometry", prepared), [], None
        steps = chain.steps(placeholders(ds, chain))
        further = any(has_common_error(steps, prepared.profiles[one]["profile_err"]) for one in set(number.tolist()))
    records = records_of_aligned(task, rebased(ds), beside, kept, profile=number)
    return _labelled(records, ds, cat, photometer, measured_variables(photometer, has_common_error=further))


def profile_numbers(cat: xr.Dataset, frames: xr.Dataset) -> np.ndarray:
    """Number of the star profile that each frame is measured with: 0 for that of the catalogue, then by night."""
    nights, times = frames["night"].to_numpy().astype(str), frames["mjd_utc"].to_numpy()
    number = np.zeros(len(nights), dtype=np.int64)
    if "profile_night" in cat.dims:
        for index, night in enumerate(cat["profile_night"].to_numpy().astype(str).tolist()):
            is_late = np.isin(times, cat["late_mjd_utc"].to_numpy()[cat["late_profile"].to_numpy() == index])
            number[is_late if "." in night else nights == night] = index + 1
    return number


_NEIGHBOURS = tuple(entry.name for entry in schema.NEIGHBOURS)


@dataclass(frozen=True)
class PrepareTask:
    """Prepares a catalogue and a photometer, so that frames can be measured with them.

    Attributes
    ----------
    photometer : Photometer
        Photometer that the user gave.
    numbers, wanted : tuple of int
        Numbers of all sources (or slots) of the catalogue, and of the sources that are measured.
    stages : tuple of int
        Sources (or slots) that were found, and of all after each time that some were placed.
    """

    photometer: Photometer
    numbers: tuple[int, ...]
    wanted: tuple[int, ...]
    stages: tuple[int, ...]
    name: ClassVar[str] = "sources"

    @classmethod
    def of(cls, photometer: Photometer, cat: xr.Dataset) -> tuple[PrepareTask, list[Any]]:
        """The task of some sources of a catalogue, and the arrays that it needs."""
        everything = everything_of(cat)
        numbers, wanted = (tuple(one["source_id"].to_numpy().tolist()) for one in (everything, cat))
        names = ("n_sources", "x", "y", "flux", "coefficient", "catalog_facts")
        of_nights = ("night_coefficient", "night_pixel_area", "night_total_err", "night_bad_pixel")
        arrays = [everything[name].data for name in names]
        # files of older versions have none
        arrays.append(everything["bad_pixel"].data if "bad_pixel" in everything else np.empty(0, dtype=np.int64))
        arrays += [everything[name].data if name in everything else np.empty(0) for name in _NEIGHBOURS]
        arrays += [everything[name].data for name in of_nights if name in everything]
        return cls(photometer, numbers, wanted, everything.encoding[STAGES]), arrays

    def __call__(
        self,
        n_sources: np.ndarray,
        x: np.ndarray,
        y: np.ndarray,
        flux: np.ndarray,
        coefficients: np.ndarray,
        facts: np.ndarray,
        bad: np.ndarray,
        neighbour_x: np.ndarray,
        neighbour_y: np.ndarray,
        neighbour_flux: np.ndarray,
        *of_nights: np.ndarray,
    ) -> tasks.Prepared:
        """What frames are measured with; slots without a source are left out."""
        is_there = np.isfinite(x)
        numbers = np.array(self.numbers)[is_there]
        stages, n_found = np.cumsum(is_there)[np.array(self.stages) - 1].tolist(), int(np.sum(numbers <= n_sources))
        if 0 < n_found < stages[0]:  # a file does not tell which were placed, but how many were found
            stages = [n_found, *stages]
        fwhm, background_rms, pixel_area, total_err = facts.tolist()
        fitted, bad_of = [Profile(coefficients, pixel_area, total_err)], [bad]
        if of_nights:
            fitted += [Profile(one, float(area), float(err)) for one, area, err in zip(*of_nights[:3], strict=True)]
            bad_of += list(of_nights[3]) if len(of_nights) > 3 else [bad] * len(of_nights[0])
        known_flux = np.nan_to_num(flux[is_there])  # a placed source may have none
        profiles = tuple(map(measured_with, fitted, bad_of))
        photometer = self.photometer
        if hasattr(photometer, "prepare"):
            usual = profiles[0]["profile"].usual
            photometer = photometer.prepare(CatalogFacts(known_flux[: stages[0]], fwhm, background_rms, usual))
        sources = {
            "catalog_xy": np.column_stack([x[is_there], y[is_there]]),
            "catalog_flux": known_flux,
            "neighbours": neighbours_of(
                dict(zip(_NEIGHBOURS, (neighbour_x, neighbour_y, neighbour_flux), strict=True))
            ),
            "fwhm": fwhm,
            "stages": tuple(stages),
        }
        known_rows = {number: row for row, number in enumerate(numbers.tolist())}
        rows = np.array([known_rows.get(number, -1) for number in self.wanted], dtype=int)
        return tasks.Prepared(photometer, sources, rows, profiles)


def _check(ds: xr.Dataset, cat: xr.Dataset, photometer: Photometer) -> None:
    """Refuse what cannot be measured."""
    if isinstance(photometer, type) or not callable(getattr(photometer, "measure", None)):
        raise ValueError(f"photometry expected a photometer such as AperturePhotometer(), got {photometer!r}")
    if not isinstance(cat, xr.Dataset) or "coefficient" not in cat or "source_id" not in cat.variables:
        raise ValueError("photometry expected a catalogue: use catalog(stack(ds, ref)) first")
    if cat["coefficient"].ndim > 1:
        raise ValueError(
            "photometry expected a catalogue with a star profile along component alone, which where() spreads over the "
            "sources: use cat.sel(source=[...])"
        )
    require_same_camera("photometry", "catalogue", cat, ds)
    require_same_reference("photometry", cat, ds)
    if getattr(photometer, "radius", None) == "best":
        raise ValueError('photometry expected a radius: "best" is judged by a whole night, which opticam.reduce does')


def _labelled(
    records: Any, ds: xr.Dataset, cat: xr.Dataset, photometer: Photometer, further: Sequence[str]
) -> xr.Dataset:
    """Light curves from the records of the tasks, with what is known of their frames and sources."""
    radii = measured_radii(photometer)
    kind = "photometry_radii" if radii else "photometry"
    sizes = {"source": cat.sizes["source"], "radius": len(radii)}
    found: dict[str, Any] = {}
    for name in dict.fromkeys((*schema.ALWAYS_MEASURED, *further)):
        entry = schema.variable(kind, name)
        shape = tuple(sizes[dim] for dim in entry.dims[1:])
        found[name] = (entry.dims, blocks.picked(records, name, shape, entry.dtype), entry.all_attributes())
    of_frames = ("mjd_utc", "bmjd_tdb", "night", "file", "exposure_time")
    coords: dict[str, Any] = {name: ("frame", ds[name].to_numpy(), ds[name].attrs) for name in of_frames}
    coords["source_id"] = ("source", cat["source_id"].to_numpy(), cat["source_id"].attrs)
    if "name" in cat.coords:
        coords["name"] = ("source", cat["name"].to_numpy())
    coords["frame_flags"] = ("frame", blocks.picked(records, "frame_flags", (), np.uint32), _frame_flags())
    of_fwhm = schema.variable("frames", "fwhm").all_attributes()
    coords["fwhm"] = ("frame", blocks.picked(records, "fwhm", (), float), of_fwhm)
    attributes = {"key": ds.attrs.get("key"), "label": photometer.label}
    if radii:
        coords["radius"] = ("radius", np.array(radii), schema.variable(kind, "radius").all_attributes())
        attributes["radius_unit"] = getattr(photometer, "radius_unit", "pixel")
    return with_indexes(xr.Dataset(found, coords=coords, attrs=attributes))


def _frame_flags() -> dict[str, Any]:
    return {"units": "1", "long_name": "quality of the frame", **flag_attributes(FrameFlag)}
