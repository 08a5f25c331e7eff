"""Transform of a frame that could not be aligned, from stars that an observer matched by eye."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from opticam_dask.kernels.images.matching import align, match
from opticam_dask.lightcurves.targets import rows_of_sources
from opticam_dask.store.camera import Camera, Part

#: The scale of a frame is that of the other frames of its night to this factor, or the wrong stars were matched.
_SCALE = 1.05
#: Stars that were matched by eye are so far apart at least, pixels: places are not known to better than a pixel.
_LEAST_APART = 10.0
#: Detections are taken for stars within this many FWHM of where the matched ones say.
_REACH = 1.0
#: and at least within this many pixels, as clicks are.
_LEAST_REACH = 3.0


class HandTransform(NamedTuple):
    """Transform of the reference to a frame, with the distance of the pairs that it was fitted to, pixels."""

    mjd_utc: float
    transform: np.ndarray
    rms: float
    n_matched: int

    def as_json(self) -> str:
        """Record of the transform that is kept with its mark."""
        return json.dumps({"transform": self.transform.tolist(), "rms": self.rms, "n_matched": self.n_matched})


def transform_of_pairs(camera: Camera, frame: str, pairs: Sequence[tuple[int, float, float]]) -> HandTransform:
    """Find the transform that takes sources of the catalogue to their places in a frame.

    Parameters
    ----------
    camera : Camera
        Camera of the frame.
    frame : str
        Name of the file of the frame.
    pairs : sequence of (int, float, float)
        Number of a source, and its x and y in the frame; two or more.

    Returns
    -------
    HandTransform

    Raises
    ------
    ValueError
        When there is no such frame or source, or no shift, rotation and usual scale takes the sources there.
    """
    part, number = _frame_of(camera, frame)
    catalog = camera.whole_catalog()
    known = np.column_stack([catalog["x"], catalog["y"]])
    rows = rows_of_sources(catalog["source_id"], [int(pair[0]) for pair in pairs], camera.key)
    places = np.array([pair[1:] for pair in pairs], dtype=float).reshape(-1, 2)
    if len(set(rows.tolist())) < max(2, len(rows)) or not np.isfinite(places).all():
        raise ValueError("a transform needs two or more different sources, each with its x and y in the frame")
    if min(np.ptp(places, axis=0).max(), np.ptp(known[rows], axis=0).max()) < _LEAST_APART:
        raise ValueError(
            f"the matched stars must be {_LEAST_APART:g} pixels apart: a rotation cannot be told otherwise"
        )
    guess = _similarity(known[rows], places)
    _check_scale(part, guess)
    mjd = float(part.frames.read("mjd_utc", number, number + 1)[0])
    found = _by_detections(part, number, guess, known, catalog["flux"])
    if found is not None:
        return HandTransform(mjd, found.transform, found.rms, found.n_matched)
    distance = np.hypot(*(align.apply_transform(guess, known[rows]) - places).T)
    return HandTransform(mjd, guess, float(np.sqrt(np.mean(distance**2))), len(rows))


def _frame_of(camera: Camera, frame: str) -> tuple[Part, int]:
    for part in camera.parts:
        names = [Path(str(file)).name for file in part.frames["file"].tolist()]
        if Path(frame).name in names:
            return part, names.index(Path(frame).name)
    raise ValueError(f"no frame {frame} of {camera.key}")


def _similarity(reference: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Shift, rotation and scale by least squares (Umeyama 1991, IEEE PAMI 13, 376, in complex numbers)."""
    r, f = reference @ (1, 1j), frame @ (1, 1j)
    a = np.vdot(r - r.mean(), f - f.mean()) / np.vdot(r - r.mean(), r - r.mean())
    b = f.mean() - a * r.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag], [0.0, 0.0, 1.0]])


def _check_scale(part: Part, guess: np.ndarray) -> None:
    transforms = part.frames["transform"]
    aligned = transforms[np.isfinite(transforms).all(axis=(1, 2))]
    if not len(aligned):
        return
    usual, scale = float(np.median([align.scale_of(one) for one in aligned])), align.scale_of(guess)
    if not usual / _SCALE < scale < usual * _SCALE:
        raise ValueError(
            f"the matched stars are {scale / usual:.3g} times as far apart as in the other frames of {part.night}: "
            "they are not the same stars"
        )


def _by_detections(
    part: Part, number: int, guess: np.ndarray, known: np.ndarray, flux: np.ndarray
) -> match.FoundTransform | None:
    """Transform fitted to detections near the places that a guess foretells; None where there are too few."""
    x, y, light = (part.sources.read(name, number, number + 1)[0] for name in ("x", "y", "flux"))
    is_known = np.isfinite(x) & np.isfinite(y) & (light > 0)
    fwhm = float(part.frames.read("fwhm", number, number + 1)[0])
    order = np.argsort(-flux, kind="stable")
    return match.follow_guess(
        known[order],
        np.column_stack([x, y])[is_known],
        guess,
        reference_weights=flux[order],
        frame_weights=light[is_known],
        tolerance=max(_LEAST_REACH, _REACH * fwhm if np.isfinite(fwhm) else 0.0),
    )
