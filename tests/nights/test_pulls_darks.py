"""Fluxes and their errors against the truth of simulated nights: with darks, with and without flats and biases.

Darks without biases have the bias in them and are exposed as long as the frames.
"""

from __future__ import annotations

import pulls

#: Detector and kinds of calibration frames of each night.
NIGHTS = {
    "darks": (pulls.GAUSSIAN | pulls.BIAS | pulls.DARK | {"gain": 0.5, "read_noise": 3.0}, ("dark",)),
    "darks and flats": (
        pulls.GAUSSIAN | pulls.BIAS | pulls.DARK | pulls.FLAT | {"gain": 4.0, "read_noise": 6.0}, ("dark", "flat"),
    ),
}  # fmt: skip

night = pulls.night_of(NIGHTS)
test_pulls__have_no_bias_and_a_width_of_one = pulls.unbiased_with_width_one
test_fluxes__are_total_to_half_a_percent = pulls.total_to_half_a_percent
