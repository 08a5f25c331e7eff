"""Fluxes and their errors against the truth of simulated nights: with biases, and with every kind beside them."""

from __future__ import annotations

import pulls

#: Detector and kinds of calibration frames of each night.
NIGHTS = {
    "biases": (pulls.MOFFAT | pulls.BIAS | {"gain": 2.0, "read_noise": 3.0}, ("bias",)),
    "biases and darks": (pulls.MOFFAT | pulls.BIAS | pulls.DARK | {"gain": 4.0, "read_noise": 6.0}, ("bias", "dark")),
    "biases and flats": (pulls.GAUSSIAN | pulls.BIAS | pulls.FLAT | {"gain": 1.0, "read_noise": 3.0}, ("bias", "flat")),
    "biases, darks and flats": (
        pulls.MOFFAT | pulls.BIAS | pulls.DARK | pulls.FLAT | {"gain": 0.5, "read_noise": 3.0},
        ("bias", "dark", "flat"),
    ),
}  # fmt: skip

night = pulls.night_of(NIGHTS)
test_pulls__have_no_bias_and_a_width_of_one = pulls.unbiased_with_width_one
test_fluxes__are_total_to_half_a_percent = pulls.total_to_half_a_percent
