"""Look for fields in skies that are not theirs: none may be found. Usage: unrelated_skies.py [FIRST LAST].

Fields have 12 to 300 stars (uniform in the logarithm); every second sky has half as many stars again as its field.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from opticam_dask.frames import sky_coordinates
from opticam_dask.frames.sky_catalogs import SkyCatalog
from opticam_dask.passes.sky_solution import NoSolution, from_stars

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from sky_fields import SHAPE, SkyField, make_field


def with_half_too_many(field: SkyField, rng: np.random.Generator) -> SkyCatalog:
    """The sky of a field with half as many stars again, strewn over the same square."""
    sky = field.sky
    n_more = len(sky.ra) // 2
    plane = sky_coordinates.to_plane(*field.pointing, sky.ra, sky.dec)
    places = rng.uniform(plane.min(axis=0), plane.max(axis=0), (n_more, 2))
    more = sky_coordinates.tangent_wcs(*field.pointing).wcs_pix2world(places, 0)
    again = rng.integers(0, len(sky.ra), n_more)
    return SkyCatalog(
        np.concatenate([sky.ra, more[:, 0]]),
        np.concatenate([sky.dec, more[:, 1]]),
        *(np.concatenate([values, values[again]]) for values in (sky.pm_ra, sky.pm_dec, sky.epoch, sky.name)),
        {band: np.concatenate([values, values[again]]) for band, values in sky.magnitudes.items()},
        sky.origin,
    )


def main(first: int = 0, last: int = 1000) -> int:
    """Number of fields that were accepted; 0 is right."""
    accepted, begun = 0, time.process_time()
    for seed in range(first, last):
        rng = np.random.default_rng(seed)
        n_stars = int(12 * 25 ** rng.uniform())
        field, other = make_field(seed, n_stars), make_field(10**6 + seed, n_stars)
        if seed % 2:
            other = replace(other, sky=with_half_too_many(other, rng))
        try:
            found = from_stars(
                field.detected, SHAPE, other.sky, pointing=other.pointing, scale=field.scale, mjd=60000.0
            )
        except NoSolution:
            continue
        accepted += 1
        print(f"field {seed} of {n_stars} stars: {found.sentence}")
    took = time.process_time() - begun
    print(f"{accepted} of {last - first} unrelated fields accepted, {took:.0f} s of processor time", flush=True)
    return accepted


if __name__ == "__main__":
    sys.exit(bool(main(*map(int, sys.argv[1:3]))))
