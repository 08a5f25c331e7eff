"""Fluxes and their errors against the truth of simulated nights: with biases, and with every kind beside them."""

from __future__ import annotations

import pulls
import pytest

_MOFFAT, _GAUSSIAN = {"moffat_beta": 3.0}, {"moffat_beta": None}

#: Detector and kinds of calibration frames of each night.
NIGHTS = {
    "biases": (_MOFFAT | pulls.BIAS | {"gain": 2.0, "read_noise": 3.0}, ("bias",)),
    "biases and darks": (_MOFFAT | pulls.BIAS | pulls.DARK | {"gain": 4.0, "read_noise": 6.0}, ("bias", "dark")),
    "biases and flats": (_GAUSSIAN | pulls.BIAS | pulls.FLAT | {"gain": 1.0, "read_noise": 3.0}, ("bias", "flat")),
    "biases, darks and flats": (
        _MOFFAT | pulls.BIAS | pulls.DARK | pulls.FLAT | {"gain": 0.5, "read_noise": 3.0}, ("bias", "dark", "flat"),
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=sorted(NIGHTS))
def night(request, tmp_path_factory):
    return pulls.reduced_night(tmp_path_factory.mktemp(request.param), *NIGHTS[request.param])


@pytest.mark.parametrize("label", pulls.LABELS)
def test_pulls__have_no_bias_and_a_width_of_one(night, label):
    pulls.assert_unbiased_with_width_one(night, label)


@pytest.mark.parametrize("label", pulls.LABELS)
def test_fluxes__are_total_to_half_a_percent(night, label):
    pulls.assert_total_to_half_a_percent(night, label)
