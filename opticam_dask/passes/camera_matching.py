"""Matching of the catalogues of two cameras, which may be mirrored, turned and of another scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from opticam_dask.kernels import graphs
from opticam_dask.kernels.images.matching import align, match
from opticam_dask.store.store import Store

#: Sources of two cameras are one when they are within this many typical FWHM of the other camera,
_TOLERANCE = 0.75
#: or within this many pixels, where that is more.
_LEAST_TOLERANCE = 2.0

#: Pairs from which the six parameters are fitted, at least.
_LEAST_PAIRS = 8
#: Times that they are fitted and the pairs matched anew.
_REFINEMENTS = 3


@dataclass(frozen=True, eq=False)
class CameraMatch:
    """Sources of one camera in another.

    Attributes
    ----------
    key, other : str
        Camera keys.
    source_id, other_id : ndarray of int, shape (pair,)
        Numbers of the same source in both catalogues; each at most once.
    distance : ndarray, shape (pair,)
        How far apart they are after the transform, in pixels of the other camera.
    transform : ndarray, shape (3, 3)
        Pixels of ``key`` to pixels of ``other``; of negative determinant when it is mirrored.
    """

    key: str
    other: str
    source_id: np.ndarray
    other_id: np.ndarray
    distance: np.ndarray
    transform: np.ndarray

    @property
    def is_mirrored(self) -> bool:
        """Whether one camera sees the field reflected."""
        return bool(np.linalg.det(self.transform) < 0)

    def numbers(self, wanted: list[int]) -> list[int]:
        """Numbers in the other camera of sources of this one.

        Raises
        ------
        ValueError
            When one has no counterpart; the message names those that have.
        """
        counterpart = dict(zip(self.source_id.tolist(), self.other_id.tolist(), strict=True))
        if missing := [number for number in wanted if number not in counterpart]:
            raise ValueError(
                f"source {', '.join(map(str, missing))} of {self.key} is not in the catalogue of {self.other}; "
                f"of {self.key} it has {', '.join(map(str, sorted(counterpart))) or 'none'}"
            )
        return [counterpart[number] for number in wanted]


def match_cameras(out_directory: str | Path, key: str, other: str) -> CameraMatch:
    """Find the sources of one camera in the catalogue of another.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    key, other : str
        Camera keys such as ``1:g``.

    Returns
    -------
    CameraMatch

    Raises
    ------
    ValueError
        When a key has no catalogue, or the two fields have too little in common.
    """
    store = Store.open(out_directory)
    catalogues = {name: _read_catalogue(store, name) for name in (key, other)}
    if key == other:
        number = catalogues[key]["source_id"]
        return CameraMatch(key, other, number, number, np.zeros(len(number)), np.eye(3))
    here, there = catalogues.values()
    xy, other_xy = here["xy"], there["xy"]
    tolerance = max(_LEAST_TOLERANCE, _TOLERANCE * _fwhm(store, other))
    on_sky = _by_the_sky(here, there)
    is_certain = on_sky is not None and "wcs_n_matched" in here and "wcs_n_matched" in there
    try:
        first = on_sky if is_certain else _by_pattern(here, there, tolerance)
        transform, pairs, distance = _refine(first, xy, other_xy, tolerance)
    except match.AlignmentError as error:
        transform, pairs, distance = _refine(on_sky, xy, other_xy, tolerance)
        if not len(pairs):  # coordinates of headers alone may be those of another place
            raise ValueError(
                f"the catalogues of {key} ({len(xy)} sources) and {other} ({len(other_xy)}) cannot be matched: "
                f"{error}. Give the numbers of the sources for each camera (--key)."
            ) from error
    placed, others = (one.get("placed_xy", np.empty((0, 2))) for one in catalogues.values())
    if len(placed) and len(others):
        more, apart = graphs.nearest_pairs(align.apply_transform(transform, placed), others, tolerance)
        behind = np.array([len(xy), len(other_xy)])
        pairs, distance = np.concatenate([pairs, more + behind]), np.append(distance, apart)
    ids, other_ids = catalogues[key]["source_id"], catalogues[other]["source_id"]
    return CameraMatch(key, other, ids[pairs[:, 0]], other_ids[pairs[:, 1]], distance, transform)


def _by_pattern(here: Mapping[str, Any], there: Mapping[str, Any], tolerance: float) -> np.ndarray:
    """Transform by the pattern of the sources; raises ``match.AlignmentError``."""
    order, other_order = (np.argsort(-one["flux"], kind="stable") for one in (here, there))
    return match.find_transform(
        here["xy"][order],
        there["xy"][other_order],
        reference_weights=here["flux"][order],
        frame_weights=there["flux"][other_order],
        scale_range=None,
        tolerance=tolerance,
        allow_reflection=True,
    ).transform


def _by_the_sky(here: Mapping[str, Any], there: Mapping[str, Any]) -> np.ndarray | None:
    """Transform by the coordinates of both catalogues on the sky; None where they are not known."""
    if "wcs" not in here or "wcs" not in there:
        return None
    from opticam_dask.frames import sky_coordinates  # half a second of astropy: only where the sky is known

    y, x = (axis.ravel() for axis in np.mgrid[0 : here["shape"][0] : 10j, 0 : here["shape"][1] : 10j])
    ra, dec = sky_coordinates.icrs_of_pixels(sky_coordinates.read_wcs(here["wcs"]), x, y)
    seen = np.column_stack(sky_coordinates.pixels_of_icrs(sky_coordinates.read_wcs(there["wcs"]), ra, dec))
    is_known = np.isfinite(seen).all(axis=1)
    if np.count_nonzero(is_known) < _LEAST_PAIRS:
        return None
    transform = np.eye(3)
    design = np.column_stack([x, y, np.ones(len(x))])
    transform[:2] = np.linalg.lstsq(design[is_known], seen[is_known], rcond=None)[0].T
    return transform


def _refine(
    transform: np.ndarray | None, xy: np.ndarray, other_xy: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Transform with a scale of its own along each axis, and the pairs by it: cameras are not distorted alike."""
    if transform is None:
        return np.full((3, 3), np.nan), np.empty((0, 2), dtype=int), np.empty(0)
    pairs, distance = graphs.nearest_pairs(align.apply_transform(transform, xy), other_xy, tolerance)
    for _ in range(_REFINEMENTS):
        if len(pairs) < _LEAST_PAIRS:
            break
        design = np.column_stack([xy[pairs[:, 0]], np.ones(len(pairs))])
        transform = np.eye(3)
        transform[:2] = np.linalg.lstsq(design, other_xy[pairs[:, 1]], rcond=None)[0].T
        pairs, distance = graphs.nearest_pairs(align.apply_transform(transform, xy), other_xy, tolerance)
    return transform, pairs, distance


def _read_catalogue(store: Store, key: str) -> dict[str, Any]:
    """Catalogue of a camera: detected and placed sources with their numbers, and the sky coordinates, if known."""
    camera = store.camera(key)
    catalogue, n_found = camera.whole_catalog().read_all(), camera.n_found
    about = {name: value for name, value in camera.catalog.attributes.items() if name in ("wcs", "wcs_n_matched")}
    xy = np.column_stack([catalogue["x"], catalogue["y"]])
    found = {"xy": xy[:n_found], "flux": catalogue["flux"][:n_found], "shape": camera.parts[0].shape}
    return found | about | {"placed_xy": xy[n_found:], "source_id": catalogue["source_id"]}


def _fwhm(store: Store, key: str) -> float:
    return float(np.nan_to_num(store.camera(key).catalog.attributes["fwhm"]))
