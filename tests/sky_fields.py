"""Star fields with a known sky: what a camera detects, and what a catalogue of the stars around it holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.wcs import WCS

from opticam_dask.frames import sky_coordinates
from opticam_dask.frames.sky_catalogs import SkyCatalog

SHAPE = (600, 700)


@dataclass(frozen=True)
class SkyField:
    """A field: its true coordinates, its detections (brightest first), the catalogue, and what is believed of both."""

    wcs: WCS
    xy: np.ndarray
    detected: dict[str, np.ndarray]
    sky: SkyCatalog
    pointing: tuple[float, float]
    scale: float

    def error(self, wcs: WCS) -> np.ndarray:
        """How far other coordinates put the stars from their pixels."""
        ra, dec = sky_coordinates.icrs_of_pixels(self.wcs, *self.xy.T)
        return np.hypot(*(np.column_stack(sky_coordinates.pixels_of_icrs(wcs, ra, dec)) - self.xy).T)


def make_field(
    seed: int,
    n_stars: int,
    *,
    scale: float = 0.8,
    off: float = 8.0,
    wrong_scale: float = 0.01,
    place: tuple[float, float] | None = None,
    has_magnitudes: bool = True,
) -> SkyField:
    """Field of any rotation, mirrored or not: half of its stars are not detected, and as many detections are no stars.

    The pointing is wrong by ``off`` arcminutes, the scale (arcseconds a pixel) by ``wrong_scale``; the catalogue holds
    all stars of the field and, just as dense, of the sky around.
    """
    rng = np.random.default_rng(seed)
    ra, dec = place or (rng.uniform(0, 360), np.degrees(np.arcsin(rng.uniform(-0.99, 0.99))))
    angle, true_scale = rng.uniform(0, 2 * np.pi), scale / 3600 * (1 + rng.choice([-1, 1]) * wrong_scale)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    wcs = sky_coordinates.tangent_wcs(ra, dec)
    wcs.wcs.crpix, wcs.wcs.cd = (np.array(SHAPE[::-1]) + 1) / 2, true_scale * turn @ np.diag([rng.choice([-1, 1]), 1])
    wcs.wcs.set()
    xy = rng.uniform(5, np.array(SHAPE[::-1]) - 6, (n_stars, 2))
    flux = 10 ** rng.uniform(2, 5, n_stars)
    reach = off / 60 + 0.3
    n_around = rng.poisson(n_stars * (2 * reach) ** 2 / (true_scale**2 * SHAPE[0] * SHAPE[1]))
    around = sky_coordinates.tangent_wcs(ra, dec).wcs_pix2world(rng.uniform(-reach, reach, (n_around, 2)), 0)
    x, y = wcs.wcs_world2pix(*around.T, 0)
    around = around[(x < 0) | (x > SHAPE[1] - 1) | (y < 0) | (y > SHAPE[0] - 1)]
    places = np.vstack([np.column_stack(wcs.wcs_pix2world(*xy.T, 0)), around])
    magnitudes = -2.5 * np.log10(np.concatenate([flux, 10 ** rng.uniform(2, 5, len(around))]))
    order = rng.permutation(len(places))
    sky = SkyCatalog(
        *places[order].T,
        *np.zeros((2, len(order))),
        np.full(len(order), 2016.0),
        np.array([f"star {i}" for i in order], dtype=object),
        {"g": magnitudes[order]} if has_magnitudes else {},
        "stars.csv",
    )
    seen = rng.permutation(n_stars)[: (n_stars + 1) // 2]
    false = rng.uniform(5, np.array(SHAPE[::-1]) - 6, (n_stars // 2, 2))
    found = np.vstack([xy[seen] + rng.normal(0, 0.03, (len(seen), 2)), false])
    brightness = np.concatenate([flux[seen] * rng.lognormal(0, 0.2, len(seen)), 10 ** rng.uniform(2, 5, len(false))])
    found, brightness = found[np.argsort(-brightness)], np.sort(brightness)[::-1]
    direction = rng.uniform(0, 2 * np.pi)
    wrong = off / 60 * np.array([[np.cos(direction), np.sin(direction)]])
    pointing = sky_coordinates.tangent_wcs(ra, dec).wcs_pix2world(wrong, 0)[0]
    detected = {"x": found[:, 0], "y": found[:, 1], "flux": brightness}
    return SkyField(wcs, xy, detected, sky, (float(pointing[0]), float(pointing[1])), scale)
