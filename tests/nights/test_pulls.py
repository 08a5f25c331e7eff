"""Fluxes and their errors from frames to the store, against the truth of simulated nights.

Every photometer, with the sky of the mesh and of an annulus, forced and recentred: the pulls ``(flux - truth) / error``
of constant stars, in all frames, whether a star was detected or not. Here without calibration frames and with flats;
the other combinations are in the files beside this one.
"""

from __future__ import annotations

import pulls
import pytest

_MOFFAT, _GAUSSIAN = {"moffat_beta": 3.0}, {"moffat_beta": None}

#: Detector, kinds of calibration frames and rebinning of each night.
NIGHTS = {
    "nothing": (_MOFFAT | {"gain": 1.0, "read_noise": 3.0, "dark_current": 2.0}, ()),
    "flats": (_GAUSSIAN | pulls.FLAT | {"gain": 2.0, "read_noise": 3.0, "bias_level": 0.0}, ("flat",)),
    "all rebinned": (
        _MOFFAT | pulls.BIAS | pulls.DARK | pulls.FLAT
        | {"gain": 2.0, "read_noise": 3.0, "sky": 60.0, "fwhm": 7.2, "shape": (1000, 1000), "n_sources": 40,
           "n_frames": 300},
        ("bias", "dark", "flat"),
        2,
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
