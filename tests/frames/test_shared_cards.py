"""What follows from the same cards is worked out once for the files of a run: the same as from each header alone."""

import numpy as np
import pytest
from astropy.io import fits

from opticam_dask import OPTICAM_MX
from opticam_dask.frames.fits import layouts
from opticam_dask.frames.fits.cards import Cards
from opticam_dask.frames.fits.shared_cards import SharedCards
from opticam_dask.frames.fits_files import FrameError, read_header, read_headers
from opticam_dask.frames.scanning import ordinary_images, reader_of, scan

SHAPE = (16, 24)

#: One change of the header at a time: other values, of other kinds, missing ones, and new keywords.
CHANGES = [
    {"FILTER": "r"}, {"FILTER": None}, {"FILTER": "H-alpha"}, {"BINNING": "1x1"}, {"BINNING": "2x3"}, {"GAIN": 2.5},
    {"GAIN": None}, {"GAIN": True}, {"GAIN": 1}, {"DARKCURR": -1.0}, {"SATLEVEL": 4095.0}, {"RDNOISE": 9.0},
    {"IMGTYPE": "dark"}, {"IMAGETYP": "Flat Field"}, {"LATITUDE": 28.7, "LONGITUD": -17.9, "HEIGHT": 2300.0},
    {"EGAIN": 3.0}, {"EXPOSURE": 7.0}, {"EXPTIME": 7.0}, {"RA": "0"}, {"UT": "2024-01-02 01:00:00"}, {"UT": "soon"},
    {"AIRMASS": 1.7}, {"XBINNING": 4}, {"TIMESYS": "TDB"},
]  # fmt: skip


HEADER = {
    "FILTER": "g", "BINNING": "2x2", "GAIN": 1.5, "EXPOSURE": 5.0, "DARKCURR": 0.1, "SATLEVEL": 65535.0,
    "RA": "03:30:00.0", "DEC": "+20:00:00.0", "UT": "2024-01-01 20:00:00.200",
}  # fmt: skip


def write_frame(path, shape=SHAPE, **changes):
    cards = {name: value for name, value in {**HEADER, **changes}.items() if value is not None}
    fits.PrimaryHDU(np.ones(shape, dtype="u2"), fits.Header(cards)).writeto(path)


@pytest.fixture(scope="module")
def headers(tmp_path_factory):
    """Headers of frames, each unlike the first in one thing, and each twice."""
    directory = tmp_path_factory.mktemp("headers")
    found = []
    for number, change in enumerate([{}, *CHANGES]):
        path = directory / f"{number:02d}.fits"
        write_frame(path, **change)
        found += [read_header(path).values] * 2
    return found


def test_interpreter__headers_in_any_order__what_each_gives_alone(headers):
    instrument = OPTICAM_MX()
    order = np.random.default_rng(8).permutation(np.arange(len(headers)).repeat(2))
    interpret = instrument.interpreter()
    for index in order:
        assert repr(interpret(headers[index])) == repr(instrument.interpret(headers[index])), headers[index].text


def test_interpreter__a_value_that_never_comes_again__still_right(headers):
    """After many headers of which none is like another, nothing is noted any more; it is worked out for each."""
    instrument = OPTICAM_MX()
    interpret = instrument.interpreter()
    for number in range(200):
        header = Cards({**headers[0], "GAIN": 1.0 + number / 100.0})
        header.text = headers[0].text
        assert interpret(header).gain == 1.0 + number / 100.0
    assert repr(interpret(headers[0])) == repr(instrument.interpret(headers[0]))  # NaN is not equal to itself


def test_shared_cards__numbers_that_are_equal_but_of_another_kind__are_not_the_same():
    kinds = SharedCards(lambda header: type(header.get("DATA")))
    assert [kinds(Cards({"DATA": value})) for value in (1, True, 1.0, 1, True)] == [int, bool, float, int, bool]


def test_shared_cards__comment_is_looked_at__another_comment_is_another_header():
    def cards(comment):
        header = Cards({"RA": 3.5})
        header.text = f"RA      =                  3.5 / {comment}".ljust(80)
        return header

    comments = SharedCards(lambda header: header.comment("RA"))
    assert [comments(cards(text)) for text in ("hours", "degrees", "hours")] == ["hours", "degrees", "hours"]


def test_scan__files_of_one_kind__their_image_is_described_once(tmp_path, monkeypatch):
    for number in range(40):
        write_frame(tmp_path / f"{number:02d}.fits", UT=f"2024-01-01 20:00:{number:02d}")
    described = []
    monkeypatch.setattr(
        layouts, "_single", lambda *args, _real=layouts._single, **kw: described.append(1) or _real(*args, **kw)
    )
    files = sorted(tmp_path.iterdir())
    assert len(scan(files, OPTICAM_MX(), n_threads=1).table) == 40
    assert len(described) == 1


def _cube(path):
    fits.PrimaryHDU(np.ones((3, *SHAPE), dtype="u2")).writeto(path)


def _with_errors(path):
    images = [fits.PrimaryHDU(np.ones(SHAPE, dtype="u2")), fits.ImageHDU(np.ones(SHAPE, dtype="f4"), name="ERR")]
    fits.HDUList(images).writeto(path)


def _cut_short(path):
    write_frame(path)
    path.write_bytes(path.read_bytes()[: 2880 + 100])


def _larger(path):
    write_frame(path, (40, 40))


def _trimmed(path):
    write_frame(path, TRIMSEC="[3:20,1:16]")


@pytest.mark.parametrize("make", [_cube, _with_errors, _cut_short, _larger, _trimmed])
def test_read_headers__another_kind_of_file_among_ordinary_ones__is_read_as_alone(tmp_path, make):
    def outcome(path, *known):
        try:
            frames, facts = read_headers(str(path), choice, None, *known)
        except FrameError as error:
            return str(error)
        return [(str(frame.name), frame.header[1:], dict(frame.header.values)) for frame in frames], facts

    choice = reader_of(OPTICAM_MX())
    ordinary, other = tmp_path / "a.fits", tmp_path / "b.fits"
    write_frame(ordinary)
    make(other)
    known = ordinary_images(choice)
    for path in (ordinary, other, ordinary, other):
        assert outcome(path, known) == outcome(path)
