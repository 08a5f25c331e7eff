"""Simulated detectors: their bias, dark current and response, and calibration frames of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from opticam_dask.frames.simulation.field_model import FieldModel, header_of, random_stream
from opticam_dask.frames.simulation.synthetic import write_frame


def read_out(model: FieldModel, electrons: np.ndarray, detector: SimulatedDetector | None) -> np.ndarray:
    """Electrons as ADU, uint16."""
    adu = np.rint(electrons / model.gain + (model.bias_level if detector is None else detector.bias))
    return np.clip(adu, 0, min(model.saturation, 65535)).astype(np.uint16)


@dataclass(frozen=True, eq=False)
class SimulatedDetector:
    """Bias, dark current and response of a simulated detector, pixel by pixel.

    Attributes
    ----------
    response : ndarray, shape (ny, nx)
        Share of the light that is counted; its median is 1.
    dark_current : ndarray, shape (ny, nx)
        Electrons per second.
    bias : ndarray, shape (ny, nx)
        Bias level of each pixel, ADU.
    """

    response: np.ndarray
    dark_current: np.ndarray
    bias: np.ndarray


def draw_detector(model: FieldModel, camera: int, seed: int = 0) -> SimulatedDetector | None:
    """SimulatedDetector of one camera; None where all its pixels are equal."""
    if not (model.flat_structure or model.vignetting or model.dead_pixels or model.hot_pixels or model.bias_structure):
        return None
    rng = random_stream(seed, "detector", camera)
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
            detector = draw_detector(chosen, camera, seed)
            for index in range(n_exposures):
                light = flat_level * (0.9 + 0.2 * index / max(n_exposures - 1, 1)) if kind == "flat" else 0.0
                image = _draw_calibration_frame(
                    chosen, detector, random_stream(seed, kind, camera, index), light, times[kind]
                )
                moment = start + timedelta(seconds=60.0 * index)
                header = header_of(chosen, filter_name, moment) | {"EXPOSURE": times[kind]}
                write_frame(folder / f"{kind}_{camera + 1}_{filter_name}_{index:04d}.fits", image, header)
    return folders


_FOLDERS = {"bias": "biases", "dark": "darks", "flat": "flats"}


def _draw_calibration_frame(
    model: FieldModel, detector: SimulatedDetector | None, rng: np.random.Generator, light: float, exposure_time: float
) -> np.ndarray:
    response = 1.0 if detector is None else detector.response
    dark = model.dark_current if detector is None else detector.dark_current
    expected = np.broadcast_to(light * response + dark * exposure_time, model.shape)
    electrons = rng.poisson(expected) + rng.normal(0.0, model.read_noise, model.shape)
    return read_out(model, electrons, detector)
