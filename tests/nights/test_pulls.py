"""Fluxes and their errors from frames to the store, against the truth of simulated nights.

Every photometer, with the sky of the mesh and of an annulus, forced and recentred: the pulls ``(flux - truth) / error``
of constant stars, in all frames, whether a star was detected or not. Here without calibration frames and with flats;
the other combinations are in the files beside this one.
"""

from __future__ import annotations

import pulls

#: Detector, kinds of calibration frames and rebinning of each night.
NIGHTS = {
    "nothing": (pulls.MOFFAT | {"gain": 1.0, "read_noise": 3.0, "dark_current": 2.0}, ()),
    "flats": (pulls.GAUSSIAN | pulls.FLAT | {"gain": 2.0, "read_noise": 3.0, "bias_level": 0.0}, ("flat",)),
    "all rebinned": (
        pulls.MOFFAT | pulls.BIAS | pulls.DARK | pulls.FLAT
        | {"gain": 2.0, "read_noise": 3.0, "sky": 60.0, "fwhm": 7.2, "shape": (1000, 1000)},
        ("bias", "dark", "flat"),
        2,
    ),
}  # fmt: skip

night = pulls.night_of(NIGHTS)
test_pulls__have_no_bias_and_a_width_of_one = pulls.unbiased_with_width_one
test_fluxes__are_total_to_half_a_percent = pulls.total_to_half_a_percent
