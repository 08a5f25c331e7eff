"""Fluxes and their errors against the truth of simulated nights: with darks, with and without flats and biases.

Darks without biases have the bias in them and are exposed as long as the frames.
"""

from __future__ import annotations

import pulls
import pytest

_MOFFAT, _GAUSSIAN = {"moffat_beta": 3.0}, {"moffat_beta": None}

#: Detector and kinds of calibration frames of each night.
NIGHTS = {
    "darks": (_GAUSSIAN | pulls.BIAS | pulls.DARK | {"gain": 0.5, "read_noise": 3.0}, ("dark",)),
    "darks and flats": (
        _GAUSSIAN | pulls.BIAS | pulls.DARK | pulls.FLAT | {"gain": 4.0, "read_noise": 6.0}, ("dark", "flat"),
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
