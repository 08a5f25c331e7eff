"""Simulated star fields with everything that moves and changes in a real night, and the truth beside them.

Stars are Moffat (or Gaussian) profiles integrated over the pixels; seeing, pointing, rotation, cloud, sky gradient
and cosmic rays vary over the run; photons, read-out and every camera have noise of their own.
"""

from __future__ import annotations

import functools
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from opticam_dask.frames.simulation.field_model import FieldModel, header_of, random_stream
from opticam_dask.frames.simulation.simulated_detectors import SimulatedDetector, draw_detector, read_out
from opticam_dask.frames.simulation.synthetic import write_frame
from opticam_dask.kernels.images.matching.align import apply_transform
from opticam_dask.kernels.sources.photometry import SIGMA_TO_FWHM

#: Places along a pixel's side at which a profile is evaluated to integrate it, and their weights (Gauss-Legendre): in
#: the core of a star, and in its wings, which are straight from one side of a pixel to the other to 1e-8 of the star.
_IN_CORE, _IN_WINGS = (np.polynomial.legendre.leggauss(n) for n in (4, 2))

#: Wings begin this far from the centre, in FWHM and in pixels, whichever is more.
_WINGS_BEGIN = (2.5, 12.0)

#: Stamps reach this many FWHM to each side; light beyond is left out (0.03 % of a Moffat star of beta 2.5).
_STAMP_REACH = 12.0


def simulate_observations(
    out_directory: str | Path, *, seed: int = 0, compress: bool = False, overwrite: bool = False, **model: Any
) -> xr.Dataset:
    """Write simulated OPTICAM frames of a star field, and return the truth.

    Parameters
    ----------
    out_directory : path
        Where the frames go; made if it does not exist.
    seed : int
        Seed of everything that is random.
    compress : bool
        Write ``.fits.gz``.
    overwrite : bool
        Replace frames that are there.
    **model
        Attributes of :class:`FieldModel`.

    Returns
    -------
    xarray.Dataset
        The result of :func:`field_truth`.

    Raises
    ------
    TypeError
        For a name that :class:`FieldModel` does not have.
    ValueError
        When a parameter makes no sense, or the stars do not fit into the frame.
    """
    chosen = FieldModel(**model)
    truth = field_truth(chosen, seed)
    directory = Path(out_directory)
    directory.mkdir(parents=True, exist_ok=True)
    start = datetime.fromisoformat(chosen.start)
    start = start.astimezone(UTC) if start.tzinfo else start.replace(tzinfo=UTC)
    for camera, filter_name in enumerate(chosen.filters):
        detector = draw_detector(chosen, camera, seed)
        for index in range(chosen.n_frames):
            moment = start + timedelta(seconds=index * chosen.cadence)
            stamp = moment.strftime("%y%m%d") + filter_name + f"{200_000_000 + index}o.fits"
            path = directory / (stamp + (".gz" if compress else ""))
            if overwrite or not path.exists():
                image = draw_frame(chosen, truth, camera, index, seed, detector)
                write_frame(path, image, header_of(chosen, filter_name, moment))
    return truth


def field_truth(model: FieldModel, seed: int = 0) -> xr.Dataset:
    """Return true fluxes, positions, seeing, transmission and transforms of a simulated field.

    Returns
    -------
    xarray.Dataset
        ``flux (filter, frame, source)`` in electrons per exposure as they reach the detector, ``x, y (frame, source)``,
        ``fwhm (frame)`` in pixels, ``transmission (frame)``, ``transform (frame, row, column)`` from the first frame's
        undisturbed pointing to the frame, and ``time (frame)`` in seconds from the first exposure's start to the
        middle of the exposure. Sources are brightest first; the attribute ``variable_source`` is there if one varies.
    """
    phase = np.arange(model.n_frames) / max(model.n_frames - 1, 1)
    time = np.arange(model.n_frames) * model.cadence + model.exposure_time / 2.0
    positions, flux0 = _star_field(model, seed)
    transforms = np.array([_transform(model, seed, index, phase[index]) for index in range(model.n_frames)])
    xy = np.array([apply_transform(matrix, positions) for matrix in transforms])
    transmission = _transmission(model, phase)
    flux = np.broadcast_to(flux0, (len(model.filters), model.n_frames, model.n_sources)) * transmission[None, :, None]
    attrs: dict[str, Any] = {"frequency": model.frequency, "amplitude": model.amplitude, "lags": list(model.lags)}
    if model.variable_source is not None:
        attrs["variable_source"] = model.variable_source
        for camera, lag in enumerate(model.lags[: len(model.filters)]):
            wave = 1.0 + model.amplitude * np.sin(2.0 * np.pi * model.frequency * time + lag)
            flux[camera, :, model.variable_source - 1] *= wave
    return xr.Dataset(
        {
            "flux": (("filter", "frame", "source"), flux, {"units": "electron"}),
            "x": (("frame", "source"), xy[..., 0], {"units": "pixel"}),
            "y": (("frame", "source"), xy[..., 1], {"units": "pixel"}),
            "fwhm": ("frame", _seeing(model, phase), {"units": "pixel"}),
            "transmission": ("frame", transmission, {"units": "1"}),
            "transform": (("frame", "row", "column"), transforms, {"units": "1"}),
        },
        coords={
            "filter": list(model.filters),
            "time": ("frame", time, {"units": "s"}),
            "source_id": ("source", np.arange(1, model.n_sources + 1)),
        },
        attrs=attrs,
    )


def expected_electrons(model: FieldModel, truth: xr.Dataset, camera: int, index: int) -> np.ndarray:
    """Mean electrons of one frame without noise and detector effects, shape (ny, nx)."""
    ny, nx = model.shape
    ramp = np.linspace(-0.5, 0.5, ny)[:, None] + np.linspace(-0.5, 0.5, nx)[None, :]
    expected = model.sky * (1.0 + model.sky_gradient * ramp / 2.0) + model.dark_current * model.exposure_time
    expected = np.array(np.broadcast_to(expected, model.shape))
    here = truth.isel(filter=camera, frame=index)
    width = float(here["fwhm"])
    for x, y, flux in zip(here["x"].to_numpy(), here["y"].to_numpy(), here["flux"].to_numpy(), strict=True):
        _add_star(expected, x, y, flux, width, model.moffat_beta)
    return expected


def draw_frame(
    model: FieldModel,
    truth: xr.Dataset,
    camera: int,
    index: int,
    seed: int = 0,
    detector: SimulatedDetector | None = None,
) -> np.ndarray:
    """One frame in ADU, uint16, as a detector reads it out whose pixels are all equal, unless one is given."""
    expected = expected_electrons(model, truth, camera, index)
    if detector is not None:
        dark = model.dark_current * model.exposure_time
        expected = (expected - dark) * detector.response + detector.dark_current * model.exposure_time
    electrons = random_stream(seed, "photons", camera, index).poisson(expected).astype(float)
    electrons += random_stream(seed, "read", camera, index).normal(0.0, model.read_noise, model.shape)
    _add_cosmic_rays(electrons, model.cosmic_rays, random_stream(seed, "cosmic rays", camera, index))
    return read_out(model, electrons, detector)


def _star_field(model: FieldModel, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions on the undisturbed frame and fluxes, brightest first; stars do not overlap."""
    rng = random_stream(seed, "field")
    ny, nx = model.shape
    margin = min(3.0 * model.fwhm + min(ny, nx) / 16.0, min(ny, nx) / 4.0)
    flux = np.geomspace(model.flux_range[1], model.flux_range[0], model.n_sources)
    positions = np.empty((0, 2))
    for _ in range(10_000):
        candidate = rng.uniform([margin, margin], [nx - margin, ny - margin])
        distance = np.hypot(*(positions - candidate).T) if len(positions) else np.array([np.inf])
        if distance.min() > model.least_separation * model.fwhm:
            positions = np.vstack([positions, candidate])
        if len(positions) == model.n_sources:
            return positions, flux
    raise ValueError(
        f"{model.n_sources} stars at least {model.least_separation:g} FWHM apart do not fit into {ny} x {nx} pixels; "
        f"only {len(positions)} do"
    )


def _transform(model: FieldModel, seed: int, index: int, phase: float) -> np.ndarray:
    """Rotation about the centre of the frame, drift and jitter: first pointing -> this frame."""
    ny, nx = model.shape
    turned = model.flip_after is not None and phase > model.flip_after
    angle = np.radians(model.rotation * phase + (180.0 if turned else 0.0))
    jitter = random_stream(seed, "pointing", 0, index).normal(0.0, model.jitter, 2)
    centre = np.array([(nx - 1) / 2.0, (ny - 1) / 2.0])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.eye(3)
    matrix[:2, :2] = turn
    matrix[:2, 2] = centre - turn @ centre + np.array(model.drift) * phase + jitter
    return matrix


def _seeing(model: FieldModel, phase: np.ndarray) -> np.ndarray:
    return model.fwhm * (1.0 + model.seeing_amplitude * np.sin(2.0 * np.pi * 1.3 * phase))


def _transmission(model: FieldModel, phase: np.ndarray) -> np.ndarray:
    if model.cloud is None:
        return np.ones_like(phase)
    depth, centre, width = model.cloud
    return 1.0 - depth * np.exp(-0.5 * ((phase - centre) / width) ** 2)


def _add_star(image: np.ndarray, x: float, y: float, flux: float, fwhm: float, beta: float | None) -> None:
    """Add a star on a stamp, integrated over the pixels; light beyond the stamp stays out."""
    reach = int(np.ceil(_STAMP_REACH * fwhm))
    ny, nx = image.shape
    column, row = round(float(x)), round(float(y))
    x0, x1 = max(column - reach, 0), min(column + reach + 1, nx)
    y0, y1 = max(row - reach, 0), min(row + reach + 1, ny)
    if x0 >= x1 or y0 >= y1:
        return
    light = _gaussian_pixels if beta is None else functools.partial(_moffat_pixels, beta=beta)
    image[y0:y1, x0:x1] += flux * light(np.arange(y0, y1) - y, np.arange(x0, x1) - x, fwhm)


def _gaussian_pixels(dy: np.ndarray, dx: np.ndarray, fwhm: float) -> np.ndarray:
    """Light of a Gaussian star of unit total flux in pixels, by their centres' distance from its own along y and x."""
    width = np.sqrt(2.0) * fwhm / SIGMA_TO_FWHM

    def along(centres: np.ndarray) -> np.ndarray:
        edges = np.append(centres - 0.5, centres[-1] + 0.5) / width
        return np.diff([math.erf(edge) for edge in edges]) / 2.0

    return np.outer(along(dy), along(dx))


def _moffat_pixels(dy: np.ndarray, dx: np.ndarray, fwhm: float, beta: float) -> np.ndarray:
    """The same of a Moffat star (1969, A&A 3, 455)."""
    alpha2 = (fwhm / (2.0 * np.sqrt(2.0 ** (1.0 / beta) - 1.0))) ** 2

    def integrated(dy: np.ndarray, dx: np.ndarray, rule: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        nodes, weights = rule
        y2, x2 = ((centres[:, None] + nodes / 2.0).ravel() ** 2 / alpha2 for centres in (dy, dx))
        brightness = (beta - 1.0) / (np.pi * alpha2) * (1.0 + y2[:, None] + x2[None, :]) ** -beta
        rows = (weights / 2.0) @ brightness.reshape(len(dy), len(nodes), -1)
        light: np.ndarray = rows.reshape(len(dy), len(dx), len(nodes)) @ (weights / 2.0)
        return light

    light = integrated(dy, dx, _IN_WINGS)
    edge = max(_WINGS_BEGIN[0] * fwhm, _WINGS_BEGIN[1])
    rows, columns = (np.abs(centres) <= edge for centres in (dy, dx))
    light[np.ix_(rows, columns)] = integrated(dy[rows], dx[columns], _IN_CORE)
    return light


def _add_cosmic_rays(electrons: np.ndarray, mean: float, rng: np.random.Generator) -> None:
    """Short straight tracks of one to five pixels."""
    for _ in range(int(rng.poisson(mean))):
        start = rng.uniform([0.0, 0.0], electrons.shape)
        angle, length = rng.uniform(0.0, 2.0 * np.pi), int(rng.integers(1, 6))
        deposit = 10.0 ** rng.uniform(2.7, 4.0)
        steps = start + np.arange(length)[:, None] * [np.sin(angle), np.cos(angle)]
        cells = np.unique(np.floor(steps).astype(int), axis=0)
        inside = np.all((cells >= 0) & (cells < electrons.shape), axis=1)
        electrons[cells[inside, 0], cells[inside, 1]] += deposit
