"""Light curves and their statistics for a report, read from the store in slabs of frames."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from opticam_dask.display import diagnostics
from opticam_dask.display.report.records import Count, Curves, RelativeCurve, Statistics
from opticam_dask.display.report.thinning import Clock, Column, clock_of, column_of, frames_per_point, joined
from opticam_dask.flags import SOURCE_SENTENCES, SourceFlag, count_flags
from opticam_dask.kernels.robust import MAD_TO_SIGMA
from opticam_dask.kernels.sources import noise
from opticam_dask.lightcurves import results
from opticam_dask.lightcurves.curation.spans import bits_of, is_left_out, spans_of
from opticam_dask.lightcurves.field.comparison_stars import describe_coverage
from opticam_dask.store.camera import Part
from opticam_dask.store.store import Store

#: Points of all light curves of a page together, by which its size is bounded.
_ALL_POINTS = 240_000
#: Points of one light curve at most.
_MOST_POINTS = 3000
#: Points of one light curve at least, however many there are.
_LEAST_POINTS = 20
#: Points of all differential light curves together; they are what people came for.
_ALL_RELATIVE_POINTS = 120_000
#: Points of one differential light curve at most.
_RELATIVE_POINTS = 6000
#: Measurements (frames times sources) that are in memory at once.
_CELLS = 2_000_000
#: Frames that the statistics of the sources are made from.
_SAMPLE = 20_000

#: What does not make a measurement doubtful.
_HARMLESS = np.uint32(SourceFlag.REDUCED | SourceFlag.NOT_DETECTED | SourceFlag.PLACED)


def labels_of(parts: Sequence[Part]) -> list[str]:
    """Photometry labels of some parts, ``aperture`` first."""
    found = {label for part in parts for label in part.labels}
    return sorted(found, key=lambda label: (label != "aperture", label))


# ---------------------------------------------------------------- light curves


def curves(parts: Mapping[str, list[Part]], wanted: Mapping[str, Sequence[int]], n_sources: int) -> list[Curves]:
    """Light curves of some sources of each key and label.

    Parameters
    ----------
    parts : dict of list of Part
        By camera key.
    wanted : dict of sequence of int
        Source numbers that are taken first.
    n_sources : int
        Sources of a key.
    """
    plans = []
    for key, some in parts.items():
        for label in labels_of(some):
            measured = [part for part in some if label in part.labels]
            numbers = measured[0].photometry(label)["source_id"]
            plans.append((key, label, measured, numbers, _chosen(numbers, wanted.get(key, ()), n_sources)))
    n_curves = sum(len(rows) for *_, rows in plans)
    n_points = min(_MOST_POINTS, _ALL_POINTS // max(1, n_curves))
    return [_curves_of(*plan, n_points) for plan in plans if len(plan[-1])]


def _chosen(numbers: np.ndarray, wanted: Sequence[int], n_sources: int) -> np.ndarray:
    """Rows of the sources that were asked for and of the brightest, at most ``n_sources``, in their order."""
    row_of = {int(number): row for row, number in enumerate(numbers)}
    first = [row_of[number] for number in dict.fromkeys(wanted) if number in row_of]
    rest = [row for row in range(len(numbers)) if row not in set(first)]
    return np.sort(np.array([*first, *rest][:n_sources], dtype=int))


def _curves_of(key: str, label: str, parts: list[Part], numbers: np.ndarray, rows: np.ndarray, n_points: int) -> Curves:
    total = sum(part.n_frames for part in parts)
    has_bmjd = _has_bmjd(parts, label)
    nights = []
    for part in parts:
        share = max(_LEAST_POINTS, n_points * part.n_frames // total)
        per_point = frames_per_point(part.n_frames, share)
        times = part.photometry(label)["bmjd_tdb" if has_bmjd else "mjd_utc"]
        clock = clock_of(part.night.split(".")[0], times, per_point)
        nights.append((clock, _columns(part, label, rows, per_point)))
    return Curves(
        key=key,
        label=label,
        radius=_radius(parts[0], label),
        sources=[int(number) for number in numbers[rows]],
        n_sources=len(numbers),
        has_bmjd=has_bmjd,
        nights=nights,
    )


def _has_bmjd(parts: Sequence[Part], label: str) -> bool:
    """Whether every night has barycentric times; a night without them would be drawn at time 0."""
    return all(np.isfinite(part.photometry(label)["bmjd_tdb"]).any() for part in parts)


def _radius(part: Part, label: str) -> str:
    """Which of several radii is shown, or which was chosen and how; empty where there was nothing to choose."""
    attributes = part.photometry(label).attributes
    if chosen := attributes.get("aperture_radius"):
        return f"radius {chosen['radius']:g} FWHM, judged by {chosen['judged_by']}"
    radii = attributes.get("radii") or []
    return f"radius {radii[0]:g}, the first of {len(radii)}" if radii else ""


def _columns(part: Part, label: str, rows: np.ndarray, per_point: int) -> list[Column]:
    """Thinned fluxes of some sources of a part; one list entry a source."""
    pieces: list[list[Column]] = [[] for _ in rows]
    for start, stop in _slabs(part, label, per_point):
        flux, error, flags = (_read(part, label, name, start, stop)[:, rows] for name in ("flux", "flux_err", "flags"))
        for index in range(len(rows)):
            pieces[index].append(
                column_of(flux[:, index], per_point, error=error[:, index], flags=flags[:, index] & ~SourceFlag.REDUCED)
            )
    return [joined(some) for some in pieces]


def _slabs(part: Part, label: str, per_point: int) -> Iterator[tuple[int, int]]:
    """First and one past the last frame of each slab: whole points."""
    n_sources = len(part.photometry(label)["source_id"])
    size = per_point * max(1, _CELLS // (per_point * max(1, n_sources)))
    return ((start, min(start + size, part.n_frames)) for start in range(0, part.n_frames, size))


def _read(part: Part, label: str, name: str, start: int, stop: int) -> np.ndarray:
    """Values of some frames, shape (frame, source); of several radii the first, no flux where a mark leaves it out."""
    group = part.photometry(label)
    values = group.read(name, start, stop)
    values = values if values.ndim == 2 else values[..., 0]
    if name in ("flux", "flux_err") and (spans := spans_of(Store(part.path), part.key, label)):
        values[is_left_out(bits_of(spans, group.read("mjd_utc", start, stop), group["source_id"]))] = np.nan
    return values


def relative_curves(out_directory: str | Path, keys: Sequence[str]) -> list[RelativeCurve]:
    """Differential light curves that are kept in the store."""
    opened = [(key, *entry) for key in keys for entry in results.differential_light_curves(out_directory, key).items()]
    n_points = min(_RELATIVE_POINTS, _ALL_RELATIVE_POINTS // max(1, len(opened)))
    return [_relative_curve(key, name, dataset.load(), n_points) for key, name, dataset in opened]


def _relative_curve(key: str, name: str, dataset: xr.Dataset, n_points: int) -> RelativeCurve:
    flux, error = dataset["relative_flux"].to_numpy(), dataset["relative_flux_err"].to_numpy()
    used = np.isfinite(flux)
    middle = float(np.median(flux[used])) if used.any() else float("nan")
    nights = dataset["night"].to_numpy().astype(object)
    is_known = np.isfinite(dataset["bmjd_tdb"].to_numpy())
    has_bmjd = set(nights[is_known].tolist()) == set(nights.tolist())
    times = dataset["bmjd_tdb" if has_bmjd else "mjd_utc"].to_numpy()
    flags = dataset["flags"].to_numpy().astype(np.uint32) & ~np.uint32(SourceFlag.REDUCED)
    found: list[tuple[Clock, Column]] = []
    for night in sorted(set(nights.tolist())):
        rows = np.flatnonzero(nights == night)
        per_point = frames_per_point(len(rows), max(_LEAST_POINTS, n_points * len(rows) // len(flux)))
        column = column_of(flux[rows], per_point, error=error[rows], flags=flags[rows])
        found.append((clock_of(night, times[rows], per_point), column))
    with np.errstate(invalid="ignore", divide="ignore"):
        relative_error = error[used] / flux[used]
    return RelativeCurve(
        key=key,
        name=name,
        label=str(dataset.attrs.get("label", "")),
        target=int(dataset.attrs.get("target", 0)),
        comparisons=[int(number) for number in np.atleast_1d(dataset.attrs.get("comparisons", []))],
        about=_about(dataset),
        has_bmjd=has_bmjd,
        nights=found,
        n_used=int(used.sum()),
        n_frames=len(flux),
        scatter=MAD_TO_SIGMA * float(np.median(np.abs(flux[used] - middle))) / middle if used.any() else np.nan,
        error=float(np.nanmedian(relative_error)) if used.any() else np.nan,
        median=middle,
    )


def _about(dataset: xr.Dataset) -> str:
    words = [f"weighting {dataset.attrs['weighting']}"] if dataset.attrs.get("weighting") else []
    if "radius" in dataset.attrs:
        words.append(f"radius {dataset.attrs['radius']:g}")
    if fitted := dataset.attrs.get("detrend"):
        fitted = json.loads(fitted) if isinstance(fitted, str) else fitted  # older versions kept a dictionary
        words.append(f"detrended against {', '.join(fitted.get('coefficients', {}))}")
    shared = sum(value for name, value in dataset.attrs.items() if str(name).startswith("n_shared_trends_"))
    if shared:
        words.append(f"{shared} trend(s) that comparisons share taken off")
    words += describe_coverage(dataset.attrs)
    return ", ".join(words)


# ---------------------------------------------------------------- statistics


def statistics(out_directory: str | Path, parts: Mapping[str, list[Part]]) -> list[Statistics]:
    """Scatter and flags of all sources of each key and label, with the noise that theory expects."""
    found = []
    for key, some in parts.items():
        for label in labels_of(some):
            measured = [part for part in some if label in part.labels]
            found.append(_statistics_of(out_directory, key, label, measured))
    return found


def _statistics_of(out_directory: str | Path, key: str, label: str, parts: list[Part]) -> Statistics:
    sample = _sample(label, parts)
    numbers = sample["source_id"].to_numpy()
    one = diagnostics.source_statistics(sample)
    flags = sample["flags"].to_numpy()
    model, why = _model(out_directory, key, label, one)
    measured = flags != 0
    doubtful = np.count_nonzero(flags & ~_HARMLESS, axis=0) / np.maximum(np.count_nonzero(measured, axis=0), 1)
    return Statistics(
        key=key,
        label=label,
        source_id=numbers,
        median_flux=one["median_flux"].to_numpy(),
        scatter=one["scatter"].to_numpy(),
        median_error=one["median_error"].to_numpy(),
        flagged=np.where(measured.any(axis=0), doubtful, np.nan) if len(flags) else np.full(len(numbers), np.nan),
        flags=[
            Count(name.replace("_", " "), SOURCE_SENTENCES[SourceFlag[name.upper()]], count)
            for name, count in count_flags(flags, SourceFlag).items()
            if name != "reduced"
        ],
        n_measurements=int(np.count_nonzero(measured)),
        n_frames=sum(part.n_frames for part in parts),
        n_frames_read=sample.sizes["frame"],
        model=model,
        why_no_model=why,
    )


def _model(out_directory: str | Path, key: str, label: str, found: xr.Dataset) -> tuple[dict[str, np.ndarray], str]:
    """Noise over flux, component by component; empty, and why, where it cannot be computed."""
    try:
        model = diagnostics.noise_model(out_directory, key, label, found)
    except ValueError as error:
        return {}, str(error)
    if not model.sizes["flux"]:
        return {}, "no source has a flux"
    parts = {str(name): model[name].to_numpy() for name in ("flux", *model.data_vars)}
    common = noise.common_scatter(*(found[name].to_numpy() for name in ("median_flux", "scatter", "median_error")))
    if common > 0:
        parts["common"] = np.hypot(parts["total"], common * parts["flux"])
    return parts, ""


def _sample(label: str, parts: list[Part]) -> xr.Dataset:
    """Fluxes, errors and flags of all frames, or of evenly spaced blocks of so many that they fit into memory."""
    numbers = parts[0].photometry(label)["source_id"]
    most = min(_SAMPLE, 2 * _CELLS // max(1, len(numbers)))
    total = sum(part.n_frames for part in parts)
    names = ("flux", "flux_err", "flags")
    pieces: dict[str, list[np.ndarray]] = {name: [] for name in names}
    every = [(part, block) for part in parts for block in range(part.n_blocks)]
    n_blocks = max(1, min(len(every), most * len(every) // total))
    for number in np.unique(np.linspace(0, len(every) - 1, n_blocks).round().astype(int)).tolist():
        part, block = every[number]
        for name in names:
            pieces[name].append(_read(part, label, name, *part.block_range(block)))
    return xr.Dataset(
        {name: (("frame", "source"), np.concatenate(values)) for name, values in pieces.items()},
        coords={"source_id": ("source", numbers)},
    )
