"""Quality of the frames of a night, from the store: transparency, clouds, airmass, shape of the stars.

It needs all frames of a night, so it is made once their photometry is done, from one photometry label: ``aperture``
where it is there, else the first in the order of the alphabet. What is written therefore depends on nothing but what
the store holds, however that came about. Transparency is that of electrons per second, so that a night may mix exposure
times. Photometry is read in slabs of frames; memory does not grow with their number, but for a few numbers a frame.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from opticam_dask.flags import USELESS, QualityFlag, SourceFlag
from opticam_dask.frames.instruments import Instrument
from opticam_dask.kernels.series import quality
from opticam_dask.kernels.series.airmass import airmass
from opticam_dask.kernels.sources import noise
from opticam_dask.store.camera import Part
from opticam_dask.store.groups import Group

#: Measurements (frames times sources) that are worked on at once: a few dozen arrays of them are small in a worker.
_CELLS = 500_000
#: Measurements of evenly spaced frames that say how bright each source is.
_SAMPLE_CELLS = 500_000
#: Slabs of rates that are kept for their second use, 8 MB each: a night of 40,000 frames of 100 sources is read once.
_KEPT_SLABS = 8

#: The label that is taken wherever it is there.
_USUAL = "aperture"

#: A measurement with one of these bits is no standard for the sky.
_UNFIT = (
    USELESS
    | SourceFlag.NO_TRANSFORM
    | SourceFlag.COSMIC_RAY
    | SourceFlag.CONTAMINATED
    | SourceFlag.STEP_FAILED
    | SourceFlag.WORKER_LOST
)


def wanted_label(part: Part) -> str | None:
    """Label that the quality of a part is to be made from; None when it is there, or nothing is measured yet."""
    present = part.quality.attributes
    is_there, n_lost = present.get("complete"), present.get("n_lost", 0)
    if is_there and n_lost and len(part.photometry(present["label"]).lost_frames()) < n_lost:
        return str(present["label"])  # frames whose files came back are measured now
    if is_there and present["label"] == _USUAL:
        return None
    for label in sorted(part.labels, key=lambda name: (name != _USUAL, name)):
        if part.photometry(label).done().all():
            return None if is_there and present["label"] == label else label
    return None


class Found(NamedTuple):
    """Quality of the frames of a part: values by name, and attributes that say what they were measured on."""

    arrays: dict[str, np.ndarray]
    attributes: dict[str, Any]


def measure_quality(part: Part, instrument: Instrument, label: str) -> Found:
    """Measure the quality of the frames of a part; nothing is written.

    Parameters
    ----------
    part : Part
        The part (camera key and night) of the store.
    instrument : Instrument
        Instrument whose site and telescope give airmass and scintillation.
    label : str
        Photometry that transparency is measured on; of several radii the middle one.

    Returns
    -------
    Found
    """
    names = ("mjd_utc", "ra", "dec", "exposure_time", "semimajor_sigma", "semiminor_sigma")
    facts = {name: part.frames[name] for name in names}
    thickness = airmass_of(instrument, facts["mjd_utc"], facts["ra"], facts["dec"])
    light = _measure_light(_Photometry.of(part, label, facts["exposure_time"]))
    clear_sky = quality.fit_clear_sky(*light.seeing_corrected, thickness)
    clear = clear_sky.at(thickness) / light.correction
    flags = np.full(part.n_frames, int(QualityFlag.COMPUTED), dtype=np.uint32)
    for flag, is_set in (
        (QualityFlag.CLOUD, quality.find_clouds(light.transparency, light.transparency_err, clear)),
        (QualityFlag.NO_TRANSPARENCY, np.isnan(light.transparency)),
        (QualityFlag.NO_AIRMASS, np.isnan(thickness)),
    ):
        flags[is_set] |= np.uint32(flag)
    arrays = {
        "transparency": light.transparency,
        "transparency_err": light.transparency_err,
        "clear_transparency": clear,
        "ellipticity": quality.ellipticity(facts["semimajor_sigma"], facts["semiminor_sigma"]),
        "airmass": thickness,
        "scintillation": scintillation_of(instrument, facts["exposure_time"], thickness),
        "flags": flags,  # last
    }
    attributes = {"label": label, "n_sources": light.n_sources, "extinction": clear_sky.extinction}
    return Found(arrays, attributes | {"extinction_units": "mag", "n_lost": light.n_lost})


def airmass_of(instrument: Instrument, mjd_utc: np.ndarray, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Airmass at the site of an instrument, shape (frame,); NaN where site or position is not known."""
    if instrument.longitude is None or instrument.latitude is None:
        return np.full(len(mjd_utc), np.nan)
    return airmass(mjd_utc, ra, dec, instrument.longitude, instrument.latitude, instrument.height or 0.0)


def scintillation_of(instrument: Instrument, exposure_time: np.ndarray, thickness: np.ndarray) -> np.ndarray:
    """Relative error of fluxes by scintillation, shape (frame,); NaN where telescope or airmass is not known."""
    if instrument.diameter is None:
        return np.full(len(exposure_time), np.nan)
    return noise.scintillation_noise(
        diameter=instrument.diameter,
        exposure_time=exposure_time,
        airmass=thickness,
        height=instrument.height or 0.0,
        coefficient=instrument.scintillation_coefficient,
    )


# ---------------------------------------------------------------- transparency of a part


@dataclass(frozen=True)
class _Light:
    """Transparency of the frames of a part, and what the seeing took from the aperture."""

    transparency: np.ndarray
    transparency_err: np.ndarray
    correction: np.ndarray
    n_sources: int
    n_lost: int

    @property
    def seeing_corrected(self) -> tuple[np.ndarray, np.ndarray]:
        return self.transparency * self.correction, self.transparency_err * self.correction


def _seconds(exposure_time: np.ndarray) -> np.ndarray:
    """Exposure times; NaN where a header says 0, or 1 where all of them do: nothing can be told per second then."""
    is_known = exposure_time > 0.0
    seconds: np.ndarray = np.where(is_known, exposure_time, np.nan if is_known.any() else 1.0)
    return seconds


class _Rates(NamedTuple):
    """Electrons per second and their errors, shape (frame, source), and how many of the frames were lost."""

    rate: np.ndarray
    error: np.ndarray
    n_lost: int


@dataclass(frozen=True)
class _Photometry:
    """Photometry of one label and radius of a part, read in slabs of frames."""

    part: Part
    group: Group
    radius: int | None
    n_sources: int
    has_correction: bool
    seconds: np.ndarray

    @classmethod
    def of(cls, part: Part, label: str, exposure_time: np.ndarray) -> _Photometry:
        group = part.photometry(label)
        attributes = group.attributes
        radii = attributes.get("radii") or []
        return cls(
            part=part,
            group=group,
            radius=len(radii) // 2 if radii else None,
            n_sources=min(len(group["source_id"]), part.camera.n_found),
            has_correction="aperture_correction" in attributes.get("variables", ()),
            seconds=_seconds(exposure_time),
        )

    def slabs(self) -> Iterator[tuple[int, int]]:
        """First and one past the last frame of each slab: whole blocks."""
        per_block = self.part.frames_per_block
        size = per_block * max(1, _CELLS // (per_block * max(1, self.n_sources)))
        return ((start, min(start + size, self.part.n_frames)) for start in range(0, self.part.n_frames, size))

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """Values of some frames, shape (frame, source)."""
        values = self.group.read(name, start, stop, slice(0, self.n_sources))
        return values if self.radius is None else values[..., self.radius]

    def rates(self, start: int, stop: int) -> _Rates:
        """Electrons per second of some frames; NaN where a measurement is not fit."""
        flags = self.read("flags", start, stop)
        seconds = self.seconds[start:stop, np.newaxis]
        flux = np.where((flags & np.uint32(_UNFIT)) != 0, np.nan, self.read("flux", start, stop))
        n_lost = int(np.count_nonzero(np.all(flags & np.uint32(SourceFlag.FRAME_LOST), axis=1)))
        return _Rates(flux / seconds, self.read("flux_err", start, stop) / seconds, n_lost)

    def correction(self, start: int, stop: int, source: np.ndarray) -> np.ndarray:
        """Median aperture correction of some sources in some frames; 1 where it is not known."""
        if not self.has_correction:
            return np.ones(stop - start)
        values = quality.median(self.read("aperture_correction", start, stop)[:, source], axis=1)
        return np.where(values > 0.0, values, np.nan)


def _measure_light(photometry: _Photometry) -> _Light:
    n_frames = photometry.part.n_frames
    found, error = np.full(n_frames, np.nan), np.full(n_frames, np.nan)
    correction = np.ones(n_frames)
    rates = functools.lru_cache(maxsize=_KEPT_SLABS)(photometry.rates)
    ensemble = quality.fit_ensemble(*_sample(photometry, rates))
    if ensemble is None:
        n_lost = sum(rates(start, stop).n_lost for start, stop in photometry.slabs())
        return _Light(found, error, correction, 0, n_lost)
    n_lost = 0
    for start, stop in photometry.slabs():
        some = rates(start, stop)
        n_lost += some.n_lost
        found[start:stop], error[start:stop] = quality.measure_transparency(
            some.rate[:, ensemble.source], some.error[:, ensemble.source], ensemble
        )
        correction[start:stop] = photometry.correction(start, stop, ensemble.source)
    scale, usual = float(quality.median(found, axis=0)), float(quality.median(correction, axis=0))
    correction = np.where(np.isfinite(correction) & np.isfinite(usual), correction / usual, 1.0)
    return _Light(found / scale, error / scale, correction, len(ensemble.source), n_lost)


def _sample(photometry: _Photometry, rates: Callable[[int, int], _Rates]) -> tuple[np.ndarray, np.ndarray]:
    """Rates and errors of evenly spaced frames: all of them where they fit into memory."""
    n_frames = photometry.part.n_frames
    count = min(n_frames, max(1, _SAMPLE_CELLS // max(1, photometry.n_sources)))
    chosen = np.linspace(0, n_frames - 1, count).round().astype(int)
    pieces = []
    for start, stop in photometry.slabs():
        rows = chosen[(chosen >= start) & (chosen < stop)] - start
        if len(rows):
            some = rates(start, stop)
            pieces.append((some.rate[rows], some.error[rows]))
    flux, flux_err = zip(*pieces, strict=True)
    return np.concatenate(flux), np.concatenate(flux_err)
