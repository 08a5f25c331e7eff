"""Calibration frames of all kinds in one directory are sorted by what their headers say."""

from __future__ import annotations

import numpy as np
import pytest
from small_nights import INSTRUMENT, write_frame

from opticam_dask import Instrument, Reducer, cli
from opticam_dask.cli import options as given
from opticam_dask.cli.parser import build_parser
from opticam_dask.passes.calibration import CalibrationError, Detector, find_calibration_frames, sort_by_kind

CAMERA = Instrument.from_json(INSTRUMENT)
KINDS = {"Bias Frame": "bias", "DARK": "dark", "sky flat": "flat", "object": "light"}


@pytest.fixture
def mixed(tmp_path):
    """Frames of all kinds, some of which do not say what they are."""
    for number in range(3):
        for word, kind in KINDS.items():
            exposure = 0.0 if kind == "bias" else 5.0
            pixels = np.full((40, 40), 100 + number, "u2")
            pixels[0, 0] = 90
            write_frame(tmp_path / "all" / f"{kind}{number}.fits", pixels, number, IMAGETYP=word, EXPTIME=exposure)
    write_frame(tmp_path / "all" / "silent.fits", np.full((40, 40), 7, "u2"), 9.0)
    return tmp_path / "all"


def test_sort__by_what_headers_say(mixed):
    found = sort_by_kind(mixed, CAMERA)
    expected = {kind: [str(mixed / f"{kind}{number}.fits") for number in range(3)] for kind in ("bias", "dark", "flat")}
    assert found == expected
    with pytest.raises(CalibrationError, match=r"none of the 1 file\(s\) given as calibration says that it is a bias"):
        sort_by_kind(mixed / "silent.fits", CAMERA)


def test_reducer__takes_them_and_what_is_given_by_itself_goes_first(mixed, tmp_path):
    def records(**calibration):
        reducer = Reducer(
            tmp_path / "out", mixed, instrument=CAMERA, client="none", figures=False, verbose=False, **calibration
        )
        return reducer._calibration.records

    apart = {
        f"{kind}{'es' if kind == 'bias' else 's'}": sort_by_kind(mixed, CAMERA)[kind]
        for kind in ("bias", "dark", "flat")
    }
    assert records(calibration=mixed) == records(**apart)
    own = records(calibration=mixed, flats=[mixed / "flat0.fits", mixed / "flat1.fits"])
    assert (own["flat"]["n_files"], own["bias"]["n_files"]) == (2, 3)


def test_reducer__refuses_what_was_read_out_elsewhere_on_the_detector(tmp_path):
    here, elsewhere = {"DETSEC": "[1:40, 1:40]"}, {"DETSEC": "[101:140,1:40]"}
    for number in range(2):
        pixels = np.full((40, 40), 100 + number, "u2")
        for folder, cards in (("frames", here), ("flats", here), ("others", elsewhere), ("silent", {})):
            write_frame(tmp_path / folder / f"{number}.fits", pixels, number, **cards)

    def reduced_with(flats):
        Reducer(
            tmp_path / "out", tmp_path / "frames", flats=flats, instrument=CAMERA, client="none", figures=False,
            verbose=False,
        )  # fmt: skip

    for folder in ("flats", "silent"):
        reduced_with(tmp_path / folder)
    for folders in (["others"], ["flats", "others"]):
        with pytest.raises(CalibrationError, match=r"flats must be of the part .* \[1:40,1:40\].*\[101:140,1:40\]"):
            reduced_with([tmp_path / folder for folder in folders])


def test_command__takes_them(mixed, tmp_path):
    words = ["reduce", str(mixed), "--out", str(tmp_path / "out"), "--calibration", str(mixed)]
    options = build_parser().parse_args(words)
    given.sort_calibration(options, CAMERA)
    assert [len(files) for files in (options.biases, options.darks, options.flats)] == [3, 3, 3]
    assert (
        cli.main(["reduce", str(mixed), "--out", str(tmp_path / "no"), "--calibration", str(mixed / "silent.fits")])
        == 2
    )


def test_flats__of_another_filter_are_taken_only_when_asked_for(tmp_path):
    camera = Instrument.from_json(INSTRUMENT | {"cameras": {"1": ["V", "R"]}})
    for number in range(5):
        filter_name = "R" if number < 3 else "B"
        write_frame(tmp_path / f"{number}.fits", np.full((40, 40), 9 + number, "u2"), number, FILTER=filter_name)
    flats = find_calibration_frames("flat", tmp_path, camera)
    wanted = Detector("1:V", (40, 40), 1)
    with pytest.raises(CalibrationError, match=r"at least two flat frames of 1:V .* are needed, found none"):
        flats.select(wanted)
    assert flats.select(wanted, of_other_filters=True)["filter"].tolist() == ["R"] * 3
    assert flats.select(Detector("1:B", (40, 40), 1), of_other_filters=True)["filter"].tolist() == ["B"] * 2
