"""Look for fields in skies that are not theirs: none may be found. Usage: unrelated_skies.py [N_FIELDS]."""

from __future__ import annotations

import sys
import time

import numpy as np

from opticam_dask.passes.sky_solution import NoSolution, from_stars
from tests.sky_fields import SHAPE, make_field


def main(n_fields: int = 1000) -> int:
    """Number of fields that were accepted, of 12 to 300 stars; 0 is right."""
    accepted, begun = 0, time.perf_counter()
    for seed in range(n_fields):
        rng = np.random.default_rng(seed)
        n_stars = int(12 * 25 ** rng.uniform())
        field, other = make_field(seed, n_stars), make_field(10**6 + seed, n_stars)
        try:
            found = from_stars(
                field.detected, SHAPE, other.sky, pointing=other.pointing, scale=field.scale, mjd=60000.0
            )
        except NoSolution:
            continue
        accepted += 1
        print(f"field {seed} of {n_stars} stars: {found.sentence}")
    print(f"{accepted} of {n_fields} unrelated fields accepted, {time.perf_counter() - begun:.0f} s")
    return accepted


if __name__ == "__main__":
    sys.exit(bool(main(*map(int, sys.argv[1:2]))))
