"""Simulated star fields with everything that moves and changes in a real night, and the truth beside them.

Stars are Moffat (or Gaussian) profiles integrated over the pixels; seeing, pointing, rotation, cloud, sky gradient
and cosmic rays vary over the run; photons, read-out and every camera have noise of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from opticam_dask.frames.simulation.synthetic import write_frame
from opticam_dask.kernels.images.matching.align import apply_transform

_SIGMA_TO_FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))

#: Points along a pixel's side at which a profile is evaluated to integrate it (Gauss-Legendre).
_QUADRATURE = 4

#: Stamps reach this many FWHM to each side; light beyond is left out (0.03 % of a Moffat star of beta 2.5).
_STAMP_REACH = 12.0

_KINDS = {
    "field": 0,
    "pointing": 1,
    "photons": 2,
    "read": 3,
    "cosmic rays": 4,
    "detector": 5,
    "bias": 6,
    "dark": 7,
    "flat": 8,
}


@dataclass(frozen=True)
class FieldModel:
    """What is simulated.

    Attributes
    ----------
    n_frames : int
        Frames of each filter.
    shape : (int, int)
        Shape ``(ny, nx)`` of a frame.
    n_sources : int
        Number of stars.
    filters : sequence of str
        OPTICAM filters; each is a camera with noise of its own.
    flux_range : (float, float)
        Faintest and brightest total flux per exposure in electrons, spread evenly in the logarithm.
    moffat_beta : float or None
        Slope of the Moffat wings; None gives Gaussian stars.
    fwhm : float
        Mean seeing in pixels.
    seeing_amplitude : float
        Relative change of the seeing over the run, either way.
    drift : (float, float)
        Motion of the field over the run in pixels, ``(x, y)``.
    rotation : float
        Rotation of the field over the run in degrees.
    flip_after : float or None
        Fraction of the run after which the camera is turned by 180 degrees.
    jitter : float
        Pointing jitter in pixels (1 sigma, each axis).
    sky : float
        Sky in electrons per pixel and exposure.
    sky_gradient : float
        Relative change of the sky from one corner of the frame to the other.
    gain : float
        Electrons per ADU.
    read_noise, dark_current : float
        Electrons per pixel; electrons per pixel and second.
    cosmic_rays : float
        Mean number of hits a frame.
    cloud : (float, float, float) or None
        Depth (0 to 1), centre and width of a dip of the transmission, as fractions of the run.
    variable_source : int or None
        Number of the variable source (from 1, brightest first).
    amplitude : float
        Relative semi-amplitude of its sinusoid.
    frequency : float
        Hz.
    lags : sequence of float
        Phase of the sinusoid in each filter, in radians, positive is ahead: the opposite of the lags of ``Analyzer``,
        which are positive where a camera is behind. One for each filter when a source is variable.
    exposure_time, cadence : float
        Seconds.
    start : str
        Start of the first exposure, ISO; UTC unless it has an offset.
    binning : int
        Written to the header.
    saturation : float
        Level in ADU at which pixels saturate.
    least_separation : float
        Stars are at least so many FWHM apart, so that photometry has one truth.
    flat_structure : float
        Relative scatter of the response from pixel to pixel.
    vignetting : float
        Relative loss of light in the corners.
    dead_pixels, hot_pixels : int
        Pixels that see a tenth of the light or less; pixels with 5 to 50 electrons of dark current a second.
    bias_structure : float
        Scatter of the bias level from pixel to pixel, in ADU.
    bias_level : float
        Mean bias level in ADU; with a sky of few electrons it keeps read noise from being cut at zero.
    """

    n_frames: int = 50
    shape: tuple[int, int] = (256, 256)
    n_sources: int = 20
    filters: Sequence[str] = ("g", "r", "i")
    flux_range: tuple[float, float] = (2e3, 2e5)
    moffat_beta: float | None = 3.0
    fwhm: float = 4.0
    seeing_amplitude: float = 0.0
    drift: tuple[float, float] = (0.0, 0.0)
    rotation: float = 0.0
    flip_after: float | None = None
    jitter: float = 0.5
    sky: float = 200.0
    sky_gradient: float = 0.0
    gain: float = 1.0
    read_noise: float = 1.3
    dark_current: float = 0.0
    cosmic_rays: float = 0.0
    cloud: tuple[float, float, float] | None = None
    variable_source: int | None = None
    amplitude: float = 0.02
    frequency: float = 0.02
    lags: Sequence[float] = field(default_factory=lambda: (0.0, 0.0, 0.0))
    exposure_time: float = 5.0
    cadence: float = 6.0
    start: str = "2024-01-01T03:00:00"
    binning: int = 4
    saturation: float = 65535.0
    least_separation: float = 6.0
    flat_structure: float = 0.0
    vignetting: float = 0.0
    dead_pixels: int = 0
    hot_pixels: int = 0
    bias_structure: float = 0.0
    bias_level: float = 100.0

    def __post_init__(self) -> None:
        """Refuse parameters that make no sense."""
        _check(self)


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
    for index in range(chosen.n_frames):
        moment = start + timedelta(seconds=index * chosen.cadence)
        for camera, filter_name in enumerate(chosen.filters):
            stamp = moment.strftime("%y%m%d") + filter_name + f"{200_000_000 + index}o.fits"
            path = directory / (stamp + (".gz" if compress else ""))
            if overwrite or not path.exists():
                image = draw_frame(chosen, truth, camera, index, seed)
                write_frame(path, image, _header(chosen, filter_name, moment))
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
    """Mean of the electrons of one frame, before its noise and what the detector makes of it, shape (ny, nx)."""
    ny, nx = model.shape
    ramp = np.linspace(-0.5, 0.5, ny)[:, None] + np.linspace(-0.5, 0.5, nx)[None, :]
    expected = model.sky * (1.0 + model.sky_gradient * ramp / 2.0) + model.dark_current * model.exposure_time
    expected = np.array(np.broadcast_to(expected, model.shape))
    here = truth.isel(filter=camera, frame=index)
    width = float(here["fwhm"])
    for x, y, flux in zip(here["x"].to_numpy(), here["y"].to_numpy(), here["flux"].to_numpy(), strict=True):
        _add_star(expected, x, y, flux, width, model.moffat_beta)
    return expected


def draw_frame(model: FieldModel, truth: xr.Dataset, camera: int, index: int, seed: int = 0) -> np.ndarray:
    """One frame in ADU, uint16, as the detector reads it out."""
    expected = expected_electrons(model, truth, camera, index)
    detector = draw_detector(model, camera, seed)
    if detector is not None:
        dark = model.dark_current * model.exposure_time
        expected = (expected - dark) * detector.response + detector.dark_current * model.exposure_time
    electrons = _stream(seed, "photons", camera, index).poisson(expected).astype(float)
    electrons += _stream(seed, "read", camera, index).normal(0.0, model.read_noise, model.shape)
    _add_cosmic_rays(electrons, model.cosmic_rays, _stream(seed, "cosmic rays", camera, index))
    return _read_out(model, electrons, detector)


def _read_out(model: FieldModel, electrons: np.ndarray, detector: SimulatedDetector | None) -> np.ndarray:
    """Electrons as ADU, uint16."""
    adu = np.rint(electrons / model.gain + (model.bias_level if detector is None else detector.bias))
    return np.clip(adu, 0, min(model.saturation, 65535)).astype(np.uint16)


@dataclass(frozen=True, eq=False)
class SimulatedDetector:
    """What a simulated detector adds and takes, pixel by pixel.

    Attributes
    ----------
    response : ndarray, shape (ny, nx)
        Share of the light that is counted; its median is 1.
    dark_current : ndarray, shape (ny, nx)
        Electrons per second.
    bias : ndarray, shape (ny, nx)
        ADU.
    """

    response: np.ndarray
    dark_current: np.ndarray
    bias: np.ndarray


def draw_detector(model: FieldModel, camera: int, seed: int = 0) -> SimulatedDetector | None:
    """SimulatedDetector of one camera; None where all its pixels are equal."""
    if not (model.flat_structure or model.vignetting or model.dead_pixels or model.hot_pixels or model.bias_structure):
        return None
    rng = _stream(seed, "detector", camera)
    (ny, nx), n_pixels = model.shape, model.shape[0] * model.shape[1]
    y, x = np.linspace(-1.0, 1.0, ny)[:, None], np.linspace(-1.0, 1.0, nx)[None, :]
    response = (1.0 - model.vignetting * (x**2 + y**2) / 2.0) * rng.normal(1.0, model.flat_structure, model.shape)
    response /= np.median(response)
    bias = model.bias_level + rng.normal(0.0, model.bias_structure, model.shape)
    dark = np.full(model.shape, model.dark_current)
    chosen = rng.choice(n_pixels, model.dead_pixels + model.hot_pixels, replace=False)
    dead, hot = np.split(chosen, [model.dead_pixels])
    response.ravel()[dead] = rng.uniform(0.0, 0.1, model.dead_pixels)
    dark.ravel()[hot] += rng.uniform(5.0, 50.0, model.hot_pixels)
    return SimulatedDetector(response, dark, bias)


def simulate_calibration_frames(
    out_directory: str | Path,
    *,
    n_exposures: int = 20,
    seed: int = 0,
    flat_level: float = 2e4,
    flat_exposure_time: float = 2.0,
    dark_exposure_time: float | None = None,
    **model: Any,
) -> dict[str, Path]:
    """Write bias, dark and flat frames of the detectors of :func:`simulate_observations` of the same model and seed.

    Parameters
    ----------
    out_directory : path
        Gets the folders ``biases``, ``darks`` and ``flats``.
    n_exposures : int
        Frames of each kind and filter.
    seed : int
        Seed of the random numbers; the same seed gives the same result.
    flat_level : float
        Mean light of a flat in electrons per pixel; the lamp changes by 20 % over the frames.
    flat_exposure_time, dark_exposure_time : float
        Seconds; by default darks are exposed four times as long as the frames of the field.
    **model
        Attributes of :class:`FieldModel`.

    Returns
    -------
    dict of path
        The folders by kind: ``bias``, ``dark`` and ``flat``.
    """
    chosen = FieldModel(**model)
    times = {
        "bias": 0.0,
        "dark": 4.0 * chosen.exposure_time if dark_exposure_time is None else dark_exposure_time,
        "flat": flat_exposure_time,
    }
    folders = {kind: Path(out_directory) / name for kind, name in _FOLDERS.items()}
    start = datetime.fromisoformat(chosen.start).replace(tzinfo=UTC) - timedelta(hours=6)
    for kind, folder in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        for camera, filter_name in enumerate(chosen.filters):
            for index in range(n_exposures):
                light = flat_level * (0.9 + 0.2 * index / max(n_exposures - 1, 1)) if kind == "flat" else 0.0
                image = _draw_calibration_frame(chosen, kind, camera, index, seed, light, times[kind])
                moment = start + timedelta(seconds=60.0 * index)
                header = _header(chosen, filter_name, moment) | {"EXPOSURE": times[kind]}
                write_frame(folder / f"{kind}_{camera + 1}_{filter_name}_{index:04d}.fits", image, header)
    return folders


_FOLDERS = {"bias": "biases", "dark": "darks", "flat": "flats"}


def _draw_calibration_frame(
    model: FieldModel, kind: str, camera: int, index: int, seed: int, light: float, exposure_time: float
) -> np.ndarray:
    detector = draw_detector(model, camera, seed)
    response = 1.0 if detector is None else detector.response
    dark = model.dark_current if detector is None else detector.dark_current
    expected = np.broadcast_to(light * response + dark * exposure_time, model.shape)
    rng = _stream(seed, kind, camera, index)
    electrons = rng.poisson(expected) + rng.normal(0.0, model.read_noise, model.shape)
    return _read_out(model, electrons, detector)


def _check(model: FieldModel) -> None:
    """Refuse what cannot be simulated, before it becomes frames that look real."""
    beta, variable, faintest = model.moffat_beta, model.variable_source, model.flux_range[0]
    depth, _, width = model.cloud or (None, 0.0, 0.0)
    rules = [
        ("n_frames", model.n_frames >= 1, "at least 1"),
        ("n_sources", model.n_sources >= 1, "at least 1"),
        ("filters", len(set(model.filters)) == len(model.filters) > 0, "at least one, none twice"),
        ("flux_range", 0 < faintest <= model.flux_range[1], "(faintest, brightest), both above 0"),
        ("moffat_beta", beta is None or beta > 1.0, "above 1 (the light of a star is infinite otherwise) or None"),
        ("fwhm", model.fwhm > 0, "above 0"),
        ("seeing_amplitude", abs(model.seeing_amplitude) < 1, "between -1 and 1"),
        ("sky", model.sky >= 0, "at least 0"),
        ("sky_gradient", abs(model.sky_gradient) <= 2, "between -2 and 2 (the sky is negative otherwise)"),
        ("gain", model.gain > 0, "above 0"),
        ("read_noise", model.read_noise >= 0, "at least 0"),
        ("dark_current", model.dark_current >= 0, "at least 0"),
        ("cloud", depth is None or (0 <= depth <= 1 and width > 0), "None or (depth 0 to 1, centre, width above 0)"),
        ("variable_source", variable is None or 1 <= variable <= model.n_sources, f"None or 1 to {model.n_sources}"),
        ("lags", variable is None or len(model.lags) >= len(model.filters), "one for each filter"),
        ("flat_structure", 0 <= model.flat_structure < 0.3, "at least 0 and below 0.3"),
        ("vignetting", 0 <= model.vignetting < 1, "at least 0 and below 1"),
        ("dead_pixels", model.dead_pixels >= 0, "at least 0"),
        ("hot_pixels", model.hot_pixels >= 0, "at least 0"),
        ("bias_structure", model.bias_structure >= 0, "at least 0"),
        ("bias_level", model.bias_level >= 0, "at least 0"),
        ("amplitude", variable is None or abs(model.amplitude) <= 1, "between -1 and 1"),
    ]
    for name, is_good, expected in rules:
        if not is_good:
            raise ValueError(f"{name} must be {expected}, got {getattr(model, name)!r}")


def _stream(seed: int, kind: str, camera: int = 0, index: int = 0) -> np.random.Generator:
    return np.random.default_rng([seed, _KINDS[kind], camera, index])


def _star_field(model: FieldModel, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions on the undisturbed frame and fluxes, brightest first; stars do not overlap."""
    rng = _stream(seed, "field")
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
    jitter = _stream(seed, "pointing", 0, index).normal(0.0, model.jitter, 2)
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
    nodes, weights = np.polynomial.legendre.leggauss(_QUADRATURE)
    dx = (np.arange(x0, x1)[:, None] - x + nodes / 2.0)[None, None]
    dy = (np.arange(y0, y1)[:, None] - y + nodes / 2.0)[:, :, None, None]
    profile = _profile(dx**2 + dy**2, fwhm, beta)
    image[y0:y1, x0:x1] += flux * np.einsum("ipjq,p,q->ij", profile, weights / 2.0, weights / 2.0)


def _profile(distance2: np.ndarray, fwhm: float, beta: float | None) -> np.ndarray:
    """Surface brightness of a star of unit total flux (Moffat 1969, A&A 3, 455)."""
    if beta is None:
        sigma2 = (fwhm / _SIGMA_TO_FWHM) ** 2
        gauss: np.ndarray = np.exp(-0.5 * distance2 / sigma2) / (2.0 * np.pi * sigma2)
        return gauss
    alpha2 = (fwhm / (2.0 * np.sqrt(2.0 ** (1.0 / beta) - 1.0))) ** 2
    return (beta - 1.0) / (np.pi * alpha2) * (1.0 + distance2 / alpha2) ** -beta


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


def _header(model: FieldModel, filter_name: str, moment: datetime) -> dict[str, Any]:
    return {
        "FILTER": filter_name,
        "BINNING": f"{model.binning}x{model.binning}",
        "GAIN": model.gain,
        "EXPOSURE": model.exposure_time,
        "DARKCURR": model.dark_current,
        "SATLEVEL": model.saturation,
        "INSTRUME": "OPTICAM",
        "RA": "03:30:00.0",
        "DEC": "+20:00:00.0",
        "UT": moment.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3],
    }
