"""Frames on disk: finding files, headers, pixels, bad files, the scan of many headers."""

from __future__ import annotations

import gzip
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from privileges import ordinary_user

from opticam_dask.frames import fits_files, scanning
from opticam_dask.frames.fits_files import read_headers
from opticam_dask.frames.instruments import OPTICAM_MX, Instrument
from opticam_dask.frames.scanning import FakeReader, FitsReader, FrameError, find_files, read_header, scan, time_gaps

MICROOBSERVATORY = Path(__file__).parents[2] / "notebooks" / "microobservatory.json"
BLOCK = 2880


def good_header(index=0, filter_name="g", **changes):
    values = {
        "FILTER": filter_name,
        "BINNING": "4x4",
        "GAIN": 1.5,
        "EXPOSURE": 2.0,
        "DARKCURR": 0.1,
        "INSTRUME": "OPTICAM",
        "RA": 10.0,
        "DEC": 20.0,
        "UT": f"2024-01-01 00:{index // 60:02d}:{index % 60:02d}",
    } | changes
    return fits.Header([(name, value) for name, value in values.items() if value is not None])


def sky(shape=(12, 16), seed=0, dtype="u2"):
    return np.random.default_rng(seed).integers(0, 60000, shape).astype(dtype)


def write(path, data=None, header=None):
    """Write one image to a plain FITS file, and return its path."""
    fits.PrimaryHDU(sky() if data is None else data, header or good_header()).writeto(path)
    return path


def gzipped(path, content):
    path.write_bytes(gzip.compress(content, mtime=0))
    return path


def by_astropy(path, extension=0, *, uint=True):
    """Pixels and header as astropy has them; with ``uint`` it takes the blanks of unsigned pixels for values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(path, memmap=False, uint=uint) as hdus:
            return hdus[extension].data, hdus[extension].header.copy()


def reason_of(function, *args):
    with pytest.raises(FrameError) as error:
        function(*args)
    return error.value.reason


# --- find_files


def test_find_files__nested_and_any_case(tmp_path):
    names = ["a.fits", "b.FIT", "c.Fts", "d.fits.gz", "e.FITS.FZ", "sub/deep er/été.fit.gz", "sub/f.fts.fz"]
    for name in [*names, "no.txt", "fits", "x.fits.bak", "y.gz", ".hidden.fits", ".snapshot/a.fits"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_files([tmp_path]) == sorted(str(tmp_path / name) for name in names)
    assert find_files(str(tmp_path)) == find_files([tmp_path])


def test_find_files__given_files_are_taken_whatever_their_name(tmp_path, monkeypatch):
    (tmp_path / "frame.dat").touch()
    (tmp_path / "a.fits").touch()
    monkeypatch.chdir(tmp_path)
    assert find_files(["frame.dat", "a.fits", "."]) == [str(tmp_path / "a.fits"), str(tmp_path / "frame.dat")]


def test_find_files__missing_path(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is none at .*nowhere"):
        find_files([tmp_path, tmp_path / "nowhere"])
    assert find_files([]) == []


def test_find_files__symbolic_links(tmp_path):
    night = tmp_path / "data" / "night"
    night.mkdir(parents=True)
    (night / "a.fits").touch()
    (night / "loop").symlink_to(tmp_path / "data")
    (night / "self.fits").symlink_to("self.fits")
    (night / "0_again.fits").symlink_to("a.fits")
    (night / "z_again.fits").symlink_to("a.fits")
    (tmp_path / "data" / "0_other_way").symlink_to(night)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.fits").touch()
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    expected = [tmp_path / "data" / "linked" / "b.fits", night / "a.fits", night / "self.fits"]
    assert find_files(tmp_path / "data") == [str(path) for path in expected]


def test_find_files__overlapping_directories(tmp_path):
    (tmp_path / "sub").mkdir()
    file = write(tmp_path / "sub" / "a.fits")
    assert find_files([tmp_path, tmp_path / "sub", file, tmp_path / "sub" / ".." / "sub"]) == [str(file)]


# --- read_header


def test_read_header__real_headers_equal_astropy(real_data):
    files = [*sorted((real_data / "opticam").glob("*.fit")), *sorted((real_data / "oddities").glob("*.fits*"))]
    files.append(sorted((real_data / "hat-p-32").iterdir())[0])
    for file in files:
        header = read_header(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(file, disable_image_compression=True) as hdus:
                own, primary = hdus[header.extension].header, hdus[0].header
                for keyword in [*primary, *own]:
                    if keyword in ("COMMENT", "HISTORY", "", "EXTEND"):  # astropy adds EXTEND itself
                        continue
                    expected = own.get(keyword, primary.get(keyword))
                    if isinstance(expected, fits.card.Undefined):
                        expected = None
                    assert header.values[keyword] == expected, (file.name, keyword)


def test_read_header__unusual_cards(tmp_path):
    header = good_header()
    header["LONGTEXT"] = "It's long " + 9 * "0123456789 " + "end"
    header["HIERARCH ESO DET NAME"] = "camera 1"
    header["QUOTE"] = "'a'' / b"
    header["EMPTY"] = ""
    header["NOTHING"] = None
    header["FLAG"] = True
    header["TINY"] = -1.5e-30
    header["COMMENT"] = "a = b / c"
    header["CCD-TEMP"] = (-20.5, "a / slash")
    file = write(tmp_path / "a.fits", header=header)
    values = read_header(file).values
    assert values["LONGTEXT"] == header["LONGTEXT"]
    assert values["ESO DET NAME"] == "camera 1"
    assert values["QUOTE"] == "'a'' / b"
    assert (values["EMPTY"], values["NOTHING"], values["FLAG"]) == ("", None, True)
    assert (values["TINY"], values["CCD-TEMP"]) == (-1.5e-30, -20.5)
    assert "COMMENT" not in values


def test_read_header__values_astropy_would_refuse(tmp_path):
    file = write(tmp_path / "a.fits")
    content = file.read_bytes().replace(b"GAIN    =                  1.5", b"GAIN    =                  nan")
    content = content.replace(b"DARKCURR=                  0.1", b"DARKCURR=               1.0D-1")
    file.write_bytes(content.replace(b"'OPTICAM ", b"'OPT\xcdCAM "))
    values = read_header(file).values
    assert np.isnan(values["GAIN"])
    assert values["DARKCURR"] == 0.1
    assert values["INSTRUME"] == "OPT\u00cdCAM"


def test_read_header__first_of_repeated_keywords_counts(tmp_path):
    header = good_header()
    header.append(("GAIN", 99.0))
    assert read_header(write(tmp_path / "a.fits", header=header)).values["GAIN"] == 1.5


def test_read_header__reads_only_the_beginning_of_a_gzip(tmp_path):
    content = write(tmp_path / "a.fits", data=sky((256, 256))).read_bytes()
    file = gzipped(tmp_path / "b.fits.gz", content)
    expected = read_header(tmp_path / "a.fits")
    file.write_bytes(file.read_bytes()[:40000])
    header = read_header(file)
    assert (header.values, header.shape, header.dtype) == (expected.values, (256, 256), np.dtype("u2"))


@pytest.mark.parametrize(
    ("keyword", "value"), [("NAXIS1", "-5"), ("NAXIS1", "x"), ("NAXIS1", "T"), ("BITPIX", "17"), ("NAXIS", "1.5")]
)
def test_read_header__damaged_structure(tmp_path, keyword, value):
    file = write(tmp_path / "a.fits")
    content = file.read_bytes()
    start = content.index(f"{keyword:8s}=".encode())
    file.write_bytes(content[: start + 10] + f"{value:>20s}".encode() + content[start + 30 :])
    assert keyword in reason_of(read_header, file)


def test_read_header__missing_structure_keyword(tmp_path):
    file = write(tmp_path / "a.fits")
    file.write_bytes(file.read_bytes().replace(b"NAXIS1  =", b"NOXIS1  ="))
    assert "NAXIS1" in reason_of(read_header, file)
    assert "NAXIS1" in reason_of(FitsReader().read, file)


# --- bad files: the same reason from the header and from the pixels where the header shows it


def make_empty(path):
    path.touch()


def make_text(path):
    path.write_text("<html>404 not found</html>\n" * 200)


def make_nulls(path):
    path.write_bytes(bytes(20000))


def make_png(path):
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))


def make_short_header(path):
    write(path, header=good_header(**{f"KEY{i}": i for i in range(60)}))
    path.write_bytes(path.read_bytes()[: BLOCK + 100])


def make_header_without_end(path):
    path.write_bytes(write(path).read_bytes().replace(b"END" + 77 * b" ", b"FIN" + 77 * b" "))


def make_short_data(path):
    path.write_bytes(write(path, data=sky((100, 100))).read_bytes()[: BLOCK + 7000])


def make_header_only(path):
    fits.PrimaryHDU(header=good_header()).writeto(path)


def make_table(path):
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns([fits.Column("a", "J", array=[1, 2])])]).writeto(
        path
    )


def make_vector(path):
    write(path, data=sky((50,)))


def make_directory(path):
    path.mkdir()


def make_broken_link(path):
    path.symlink_to("nowhere.fits")


def make_self_link(path):
    path.symlink_to(path.name)


def make_short_compressed(path):
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(sky((64, 64)))]).writeto(path)
    path.write_bytes(path.read_bytes()[: 3 * BLOCK])


def make_tiny_gzip(path):
    path.write_bytes(b"\x1f\x8b")


def make_gzip_of_text(path):
    gzipped(path, b"some text\n" * 1000)


def make_gzip_of_nothing(path):
    gzipped(path, b"")


BAD = {
    "empty": (make_empty, "the file is empty"),
    "text": (make_text, "not a FITS file: .*<html>404"),
    "nulls": (make_nulls, "not a FITS file"),
    "png": (make_png, "not a FITS file.*PNG"),
    "short_header": (make_short_header, "the header is cut short"),
    "without_end": (make_header_without_end, "the header is cut short"),
    "short_data": (make_short_data, "cut short: 20000 bytes of data expected, 7000 found"),
    "header_only": (make_header_only, "expected a 2-D image, found: HDU 0 holds no image"),
    "table": (make_table, "HDU 0 holds no image, HDU 1 holds no image"),
    "vector": (make_vector, "HDU 0 holds an image of 50"),
    "directory": (make_directory, "cannot be read: Is a directory"),
    "broken_link": (make_broken_link, "cannot be read: No such file"),
    "self_link": (make_self_link, "cannot be read: Too many levels of symbolic links"),
    "short_compressed": (make_short_compressed, "cut short"),
    "tiny_gzip": (make_tiny_gzip, "the gzip stream is cut short"),
    "gzip_of_text": (make_gzip_of_text, "not a FITS file: .*some text"),
    "gzip_of_nothing": (make_gzip_of_nothing, "not a FITS file"),
}


@pytest.mark.parametrize("case", BAD)
def test_read_header__bad_files(tmp_path, case):
    make, words = BAD[case]
    make(tmp_path / "a.fits")
    with pytest.raises(FrameError, match=words) as error:
        read_header(tmp_path / "a.fits")
    assert pickle.loads(pickle.dumps(error.value)).reason == error.value.reason


@pytest.mark.parametrize("case", BAD)
def test_read__bad_files(tmp_path, case):
    make, words = BAD[case]
    make(tmp_path / "a.fits")
    with pytest.raises(FrameError, match=words):
        FitsReader().read(tmp_path / "a.fits")


def test_read_header__no_permission(tmp_path):
    file = write(tmp_path / "a.fits")
    file.chmod(0)
    with ordinary_user():
        reason = reason_of(read_header, file)
    assert reason == "cannot be read: Permission denied"


def test_read__vanished_file(tmp_path):
    with pytest.raises(FrameError, match="cannot be read: No such file") as error:
        FitsReader().read(tmp_path / "gone.fits")
    assert isinstance(error.value.__cause__, FileNotFoundError)


def damage(content, where, byte=0x55):
    return content[:where] + bytes([content[where] ^ byte]) + content[where + 1 :]


def test_read__gzip_with_wrong_checksum(tmp_path):
    file = gzipped(tmp_path / "a.fits.gz", write(tmp_path / "plain.fits").read_bytes())
    file.write_bytes(damage(file.read_bytes(), -7))
    read_header(file)  # the header alone cannot tell
    assert "the gzip stream is damaged" in reason_of(FitsReader().read, file)


@pytest.mark.parametrize("n_left_out", [1, 8, 200])
def test_read__gzip_cut_short(tmp_path, n_left_out):
    file = gzipped(tmp_path / "a.fits.gz", write(tmp_path / "plain.fits").read_bytes())
    file.write_bytes(file.read_bytes()[:-n_left_out])
    assert "the gzip stream is" in reason_of(FitsReader().read, file)


def test_read__gzip_damaged_inside(tmp_path):
    content = gzipped(tmp_path / "a.fits.gz", write(tmp_path / "p.fits", data=sky((80, 80))).read_bytes()).read_bytes()
    for where in range(1500, len(content) - 8, 997):
        (tmp_path / "a.fits.gz").write_bytes(damage(content, where))
        assert "gzip stream" in reason_of(FitsReader().read, tmp_path / "a.fits.gz")


def test_read__gzip_of_a_file_cut_short(tmp_path):
    content = write(tmp_path / "plain.fits", data=sky((100, 100))).read_bytes()
    file = gzipped(tmp_path / "a.fits.gz", content[: BLOCK + 7000])
    assert "20000 bytes of data expected, 7000 found" in reason_of(FitsReader().read, file)


def test_read__gzip_with_absurd_axes(tmp_path):
    content = write(tmp_path / "plain.fits").read_bytes()
    content = content.replace(b"NAXIS1  =                   16", b"NAXIS1  =        9000000000000")
    assert "expected at most 268435456 pixels, found 12 x 9000000000000" in reason_of(
        FitsReader().read, gzipped(tmp_path / "a.fits.gz", content)
    )


def test_read__gzip_in_two_members_and_padded(tmp_path):
    content = write(tmp_path / "plain.fits").read_bytes()
    file = tmp_path / "a.fits.gz"
    file.write_bytes(gzip.compress(content[:4000]) + gzip.compress(content[4000:]) + bytes(512))
    np.testing.assert_array_equal(FitsReader().read(file), sky())


def test_read__compressed_image_damaged(tmp_path):
    file = tmp_path / "a.fits.fz"
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(sky((64, 64)), compression_type="GZIP_1")]).writeto(file)
    content = file.read_bytes()
    file.write_bytes(content[: 4 * BLOCK] + bytes(1000) + content[4 * BLOCK + 1000 :])
    assert "the image is damaged" in reason_of(FitsReader().read, file)


def test_read__missing_padding_is_no_fault(tmp_path):
    file = write(tmp_path / "a.fits")
    file.write_bytes(file.read_bytes()[: BLOCK + 2 * 12 * 16])
    np.testing.assert_array_equal(FitsReader().read(file), sky())


def change_card(content, keyword, card):
    """Put another card in place of one; b"" as keyword adds it before the END of the last header."""
    start = content.rindex(keyword.ljust(8) + b"=") if keyword else content.rindex(b"END" + 77 * b" ")
    if keyword:
        return content[:start] + card.ljust(80) + content[start + 80 :]
    return content[:start] + card.ljust(80) + b"END".ljust(80) + content[start + 160 :]


def test_read__blank_that_is_no_number_is_ignored(tmp_path):
    file = write(tmp_path / "a.fits", data=sky(dtype="i2"))
    file.write_bytes(change_card(file.read_bytes(), b"", b"BLANK   =                'nan'"))
    check_equals_astropy(file, 0)


def compressed(path, **options):
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(sky((64, 64), dtype="i4"), **options)]).writeto(path)
    return path.read_bytes()


def test_read__zblank_that_is_no_number(tmp_path):
    file = tmp_path / "a.fits.fz"
    file.write_bytes(change_card(compressed(file), b"", b"ZBLANK  = 'RICE_1'"))
    assert read_header(file).dtype == np.dtype("i4")
    assert "the image is damaged" in reason_of(FitsReader().read, file)


@pytest.mark.parametrize(
    ("card", "words"),
    [
        (b"TFIELDS =             20000000", "expected at most 999 columns in keyword TFIELDS, found 20000000"),
        (b"ZTILE1  =                    7", "expected 640 compressed tiles in keyword NAXIS2, found 64"),
        (b"ZNAXIS1 =           2147483647", "expected at most 268435456 pixels, found 64 x 2147483647"),
        (b"PCOUNT  =          80000000000", "bytes of compressed data, found 8000000"),
        (b"BZERO   =                1e400", "expected finite numbers in BZERO and BSCALE"),
        (b"NAXIS   =                  1_0", "expected a whole number in keyword NAXIS, found '1_0'"),
    ],
)
def test_read__compressed_image_with_a_header_that_cannot_be(tmp_path, card, words):
    file = tmp_path / "a.fits.fz"
    content = compressed(file)
    keyword = card[:8].rstrip()
    file.write_bytes(
        change_card(content, keyword if keyword + b" " * (8 - len(keyword)) + b"=" in content else b"", card)
    )
    with pytest.raises(FrameError, match=words):
        FitsReader().read(file)


def test_read__a_thousand_damaged_files(tmp_path):
    """The first inputs of the fuzzer; an hour of it was run by hand."""
    program = Path(__file__).parents[2] / "benchmarks" / "fuzz_reader.py"
    options = ["--inputs", "1000", "--seed", "1", "--findings", tmp_path / "findings", "--work", tmp_path / "work"]
    done = subprocess.run([sys.executable, program, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "inputs, seed 1: 0 finding(s)" in done.stdout


def test_read_header__many_extensions_give_a_short_reason(tmp_path):
    fits.HDUList([fits.PrimaryHDU(), *[fits.ImageHDU(np.arange(8)) for _ in range(40)]]).writeto(tmp_path / "a.fits")
    reason = reason_of(read_header, tmp_path / "a.fits")
    assert reason.endswith("HDU 9 holds an image of 8 and 31 more")


# --- pixels


def image_hdu(flavour, hdu=fits.PrimaryHDU):
    rng = np.random.default_rng(3)
    shape = (13, 17)
    kind, _, extra = flavour.partition(" ")
    if kind.startswith("f"):
        data = rng.normal(100, 10, shape).astype(kind)
        data[3, 4] = np.nan
    else:
        limits = np.iinfo(kind)
        data = rng.integers(limits.min, limits.max, shape, dtype=kind, endpoint=True)
        data[0, :2] = limits.min, limits.max
    image = hdu(data)
    if extra == "blank":
        image.header["BLANK"] = int(data[2, 2])
    return image


FLAVOURS = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "i2 blank", "i4 blank", "u2 blank"]


@pytest.mark.parametrize("suffix", [".fits", ".fits.gz"])
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_read__pixel_types_equal_astropy(tmp_path, flavour, suffix):
    file = tmp_path / f"a{suffix}"
    image_hdu(flavour).writeto(file)
    check_equals_astropy(file, 0, uint=flavour != "u2 blank")


def check_equals_astropy(file, extension, given=None, *, uint=True, section=np.s_[:, :]):
    expected, _ = by_astropy(file, extension, uint=uint)
    expected = expected[section]
    pixels = FitsReader(given).read(file)
    np.testing.assert_array_equal(pixels, expected)
    assert pixels.dtype == expected.dtype.newbyteorder("=")
    assert pixels.dtype.isnative
    assert pixels.flags.writeable
    header = read_header(file, given)
    assert (header.shape, header.dtype, header.extension) == (pixels.shape, pixels.dtype, extension)


@pytest.mark.parametrize(
    ("bitpix", "scale", "zero"), [(8, 0.5, 3), (16, 0.1, 0), (16, 1, 100.5), (32, 2, 0), (-32, 3, 1)]
)
def test_read__scaled_pixels_equal_astropy(tmp_path, bitpix, scale, zero):
    file = tmp_path / "a.fits"
    kind = {8: "u1", 16: "i2", 32: "i4", -32: "f4"}[bitpix]
    fits.PrimaryHDU(np.arange(60, dtype=kind).reshape(6, 10)).writeto(file)
    content = file.read_bytes()
    cards = f"BSCALE  = {scale:>20}".ljust(80) + f"BZERO   = {zero:>20}".ljust(80) + "END".ljust(80)
    where = content.index(b"END" + 77 * b" ")
    file.write_bytes(content[:where] + cards.encode() + content[where + len(cards) :])
    check_equals_astropy(file, 0)
    gzipped(tmp_path / "b.fits.gz", file.read_bytes())
    check_equals_astropy(tmp_path / "b.fits.gz", 0)


@pytest.mark.parametrize("compression", ["RICE_1", "GZIP_1", "GZIP_2"])
@pytest.mark.parametrize("kind", ["u2", "i2", "i4", "f4"])
def test_read__compressed_images_equal_astropy(tmp_path, kind, compression):
    file = tmp_path / "a.fits.fz"
    data = np.random.default_rng(0).normal(500, 30, (40, 50)).astype(kind)
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(data, compression_type=compression)]).writeto(file)
    check_equals_astropy(file, 1)


def test_read__gzip_named_plain_and_plain_named_gzip(tmp_path):
    content = write(tmp_path / "a.fits").read_bytes()
    gzipped(tmp_path / "b.fits", content)
    (tmp_path / "c.fits.gz").write_bytes(content)
    for name in "b.fits", "c.fits.gz":
        np.testing.assert_array_equal(FitsReader().read(tmp_path / name), sky())
        assert read_header(tmp_path / name) == read_header(tmp_path / "a.fits")


@pytest.mark.parametrize("name", ["with blank.fits", "été-星.fits", "a#b%20c[1].fits", "UPPER.FITS", "x.FiT.gZ"])
def test_read__names(tmp_path, name):
    content = write(tmp_path / "plain.fit").read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.lower().endswith("gz") else content)
    assert str(tmp_path / name) in find_files(tmp_path)
    np.testing.assert_array_equal(FitsReader().read(str(tmp_path / name)), sky())


def test_read__without_isal(tmp_path, monkeypatch):
    monkeypatch.setattr(fits_files, "inflate", gzip.open)
    file = gzipped(tmp_path / "a.fits.gz", write(tmp_path / "plain.fits").read_bytes())
    np.testing.assert_array_equal(FitsReader().read(file), sky())
    file.write_bytes(damage(file.read_bytes(), -7))
    assert "the gzip stream is damaged" in reason_of(FitsReader().read, file)


def multi_extension(path):
    table = fits.BinTableHDU.from_columns([fits.Column("a", "J", array=np.arange(2000))], name="LIST")
    images = [fits.ImageHDU(sky(seed=seed), name=name) for seed, name in ((1, "SCI"), (2, "sci2"))]
    images[0].header["GAIN"] = 6.5
    cube = fits.ImageHDU(sky((2, 3, 4)), name="CUBE")
    compressed = fits.CompImageHDU(sky(seed=3), name="PACKED")
    fits.HDUList([fits.PrimaryHDU(header=good_header()), table, cube, *images, compressed]).writeto(path)


def test_read__extensions(tmp_path):
    multi_extension(tmp_path / "a.fits")
    gzipped(tmp_path / "b.fits.gz", (tmp_path / "a.fits").read_bytes())
    for file in tmp_path / "a.fits", tmp_path / "b.fits.gz":
        for given, extension in ((None, 3), ("SCI", 3), (" Sci2 ", 4), (4, 4), ("packed", 5), (5, 5)):
            check_equals_astropy(file, extension, given)


def test_read_header__extension_goes_before_primary(tmp_path):
    multi_extension(tmp_path / "a.fits")
    assert read_header(tmp_path / "a.fits").values["GAIN"] == 6.5
    assert read_header(tmp_path / "a.fits", "SCI2").values["GAIN"] == 1.5
    assert read_header(tmp_path / "a.fits").values["FILTER"] == "g"


@pytest.mark.parametrize(
    ("extension", "words"),
    [
        (1, "expected a 2-D image in HDU 1, found no image"),
        (9, "expected the image of HDU 9, found: HDU 0 holds no image, HDU 1"),
        ("DQ", "expected the image of HDU 'DQ'"),
    ],
)
def test_read_header__extension_without_image(tmp_path, extension, words):
    multi_extension(tmp_path / "a.fits")
    assert words in reason_of(read_header, tmp_path / "a.fits", extension)


def test_read_header__junk_after_the_last_extension(tmp_path):
    make_table(tmp_path / "a.fits")
    with (tmp_path / "a.fits").open("ab") as file:
        file.write(b"junk" * 2000)
    assert "HDU 1 holds no image" in reason_of(read_header, tmp_path / "a.fits")


def test_read__real_frames_equal_astropy(real_data):
    files = [*sorted((real_data / "opticam").glob("*.fit")), *sorted((real_data / "oddities").glob("*.fits*"))]
    files.append(sorted((real_data / "hat-p-32").iterdir())[0])
    assert len(files) == 10
    for file in files:
        if "mef" in file.name or "saao" in file.name:  # amplifiers and overscan: test_many_images
            continue
        extension = 1 if file.suffix == ".fz" else 0
        check_equals_astropy(file, extension)


def test_read_header__real_multi_extension(real_data):
    header = read_header(real_data / "oddities" / "lco_mef_raw_test_frame.fits", 1)
    assert (header.shape, header.dtype, header.extension) == ((512, 512), np.dtype("f4"), 1)
    assert header.section == "DATASEC [1:512,1:512]"  # TRIMSEC of the primary header is that of the whole mosaic
    assert header.values["GAIN"] == 6.42  # 0.0 in the primary header
    assert header.values["EXPTIME"] == 94.975


def test_fake_reader__depends_on_path_and_seed():
    reader = FakeReader((20, 30))
    image = reader.read("/a/b.fits")
    assert (image.shape, image.dtype) == ((20, 30), np.dtype("u2"))
    np.testing.assert_array_equal(image, pickle.loads(pickle.dumps(reader)).read("/a/b.fits"))
    assert (image != reader.read("/a/c.fits")).any()
    assert (image != FakeReader((20, 30), seed=1).read("/a/b.fits")).any()
    assert abs(image.mean() - 100.0) < 5 * 10.0 / np.sqrt(600)


def test_fits_reader__is_a_value():
    assert pickle.loads(pickle.dumps(FitsReader("SCI"))) == FitsReader("SCI")
    assert hash(FitsReader(1)) != hash(FitsReader(2))


# --- scan


@pytest.fixture
def night(tmp_path):
    """Four frames of two cameras, one of them gzipped."""
    directory = tmp_path / "night"
    directory.mkdir()
    for index in range(2):
        write(directory / f"{1 - index}g.fits", header=good_header(index))
        write(directory / f"{1 - index}r.fits", header=good_header(index, "r"))
    gzipped(directory / "0r.fits.gz", (directory / "0r.fits").read_bytes())
    (directory / "0r.fits").unlink()
    return directory


COLUMNS = [
    "file",
    "file_size",
    "file_mtime",
    "file_ctime",
    "file_checksum",
    "key",
    "camera",
    "filter",
    "night",
    "mjd_utc",
    "exposure_time",
    "gain",
    "dark_current",
    "read_noise",
    "saturation",
    "linearity_limit",
    "airmass",
    "ra",
    "dec",
    "binning",
    "pixel_scale",
    "longitude",
    "latitude",
    "height",
    "time_reference",
    "time_offset",
    "is_time_suspect",
    "ny",
    "nx",
    "dtype",
    "extension",
    "plane",
    "window",
]


def test_scan__table(night):
    result = scan(find_files(night), OPTICAM_MX())
    table = result.table
    assert list(table.columns) == COLUMNS
    assert [Path(file).name for file in table["file"]] == ["1g.fits", "0g.fits", "1r.fits", "0r.fits.gz"]
    assert table["key"].tolist() == ["1:g", "1:g", "2:r", "2:r"]
    assert table["camera"].tolist() == ["1", "1", "2", "2"]
    assert set(table["night"]) == {"2023-12-31"}
    np.testing.assert_allclose(
        (table["mjd_utc"] - 60310.0) * 86400.0, [1.0, 2.0, 1.0, 2.0], rtol=0, atol=2e-6
    )  # the middle of exposures of 2 s
    first = table.iloc[0]
    assert first["file_size"] == os.path.getsize(first["file"])
    assert first["file_mtime"] == os.stat(first["file"]).st_mtime
    assert (first["gain"], first["dark_current"], first["read_noise"], first["exposure_time"]) == (1.5, 0.1, 1.3, 2.0)
    assert (first["binning"], first["ny"], first["nx"], first["dtype"]) == (4, 12, 16, "uint16")
    assert (first["ra"], first["dec"]) == (150.0, 20.0)
    assert np.isnan(first["airmass"])
    assert (result.set_aside, result.warnings) == ([], [])


def test_scan__types_do_not_depend_on_the_number_of_files(night):
    full = scan(find_files(night), OPTICAM_MX()).table
    empty = scan([], OPTICAM_MX()).table
    assert list(empty.columns) == COLUMNS
    assert len(empty) == 0
    assert [dtype.kind for dtype in empty.dtypes] == [dtype.kind for dtype in full.dtypes]
    assert full.dtypes[["file_size", "binning", "ny", "nx"]].eq("int64").all()
    assert full.dtypes[["mjd_utc", "gain", "pixel_scale", "file_mtime"]].eq("float64").all()


def test_scan__bad_files_are_set_aside_with_reasons(night):
    for case, (make, _) in BAD.items():
        make(night / f"bad_{case}.fits")
    write(night / "no_gain.fits", header=good_header(GAIN=None))
    write(night / "two faults.fits", header=good_header(EXPOSURE=-1.0, UT="never"))
    paths = [*find_files(night), night / "bad_directory.fits", night / "vanished.fits"]
    result = scan(paths, OPTICAM_MX())
    assert len(result.table) == 4
    reasons = {Path(file).name: reason for file, reason in result.set_aside}
    assert set(reasons) == {f"bad_{case}.fits" for case in BAD} | {"no_gain.fits", "two faults.fits", "vanished.fits"}
    assert "GAIN is missing" in reasons["no_gain.fits"]
    assert "EXPOSURE, found -1.0; time: expected" in reasons["two faults.fits"]
    assert reasons["vanished.fits"] == "cannot be read: No such file or directory"
    assert [file for file, _ in result.set_aside] == sorted(file for file, _ in result.set_aside)


def test_scan__warnings_are_counted(night):
    for index in range(3):
        write(night / f"nowhere{index}.fits", header=good_header(index, RA="0", DEC="0"))
    result = scan(find_files(night), OPTICAM_MX())
    assert len(result.table) == 7
    assert len(result.warnings) == 1
    for text in ("RA and DEC are placeholders", "(3 of 7 files, e.g. ", "nowhere0.fits"):
        assert text in result.warnings[0]


def test_scan__a_file_given_twice_is_read_once(night, monkeypatch):
    monkeypatch.chdir(night)
    assert len(scan(["1g.fits", night / "1g.fits", "./1g.fits", f"../{night.name}/1g.fits"], OPTICAM_MX()).table) == 1


def test_scan__name_that_is_not_utf8(night):
    strange = os.fsencode(night) + b"/\xff.fits"
    shutil.copy(night / "1g.fits", strange)
    result = scan(find_files(night), OPTICAM_MX())
    assert len(result.table) == 4
    file, reason = result.set_aside[0]
    assert file.endswith("\\xff.fits")
    assert "not UTF-8" in reason


def test_scan__progress_and_threads(night):
    files = [write(night / f"more{index:02d}.fits", header=good_header(index)) for index in range(40)]
    told, threads = [], set()

    def progress(n_done, n_total):
        told.append((n_done, n_total))
        threads.add(threading.current_thread())

    one = scan(files, OPTICAM_MX(), n_threads=1).table
    many = scan(files[::-1], OPTICAM_MX(), n_threads=5, progress=progress).table
    pd.testing.assert_frame_equal(one, many)
    assert told[-1] == (40, 40)
    assert told == sorted(told)
    assert threads == {threading.main_thread()}
    with pytest.raises(ValueError, match="n_threads"):
        scan(files, OPTICAM_MX(), n_threads=0)


def test_scan__files_that_are_waited_for_are_read_by_several_threads(night, monkeypatch):
    files = [write(night / f"more{index:03d}.fits", header=good_header(index)) for index in range(120)]
    quick = scan(files, OPTICAM_MX()).table
    threads = set()

    def after_a_wait(*where, **options):
        time.sleep(0.002)
        threads.add(threading.current_thread())
        return read_headers(*where, **options)

    monkeypatch.setattr(scanning, "read_headers", after_a_wait)
    pd.testing.assert_frame_equal(scan(files, OPTICAM_MX()).table, quick)
    assert threading.main_thread() in threads  # which found out that there is time to wait for
    assert len(threads) > 4
    threads.clear()
    pd.testing.assert_frame_equal(scan(files, OPTICAM_MX(), n_threads=1).table, quick)
    assert threads == {threading.main_thread()}


def test_scan__each_file_is_opened_once_and_asked_for_nothing_else(night, monkeypatch):
    files = [write(night / f"more{index:02d}.fits", header=good_header(index)) for index in range(20)]
    opened, asked = [], []
    monkeypatch.setattr(os, "open", lambda path, *how, really=os.open: opened.append(path) or really(path, *how))
    monkeypatch.setattr(
        os, "stat", lambda path, *how, really=os.stat, **o: asked.append(path) or really(path, *how, **o)
    )
    table = scan(files, OPTICAM_MX()).table
    monkeypatch.undo()
    assert sorted(opened) == sorted(map(str, files))
    assert not set(asked) & {*files, *map(str, files)}
    assert table["file_size"].tolist() == [os.stat(file).st_size for file in table["file"]]
    assert table["file_mtime"].tolist() == [os.stat(file).st_mtime for file in table["file"]]


def test_scan__many_files_make_one_table(night, monkeypatch):
    files = [write(night / f"more{index:02d}.fits", header=good_header(index)) for index in range(40)]
    expected = scan(files, OPTICAM_MX()).table
    monkeypatch.setattr(scanning, "_ROWS_AT_ONCE", 16)
    pd.testing.assert_frame_equal(scan(files, OPTICAM_MX()).table, expected)


def test_scan__extension_of_instrument_and_caller(tmp_path):
    multi_extension(tmp_path / "a.fits")
    files = find_files(tmp_path)
    assert scan(files, OPTICAM_MX()).table["gain"].tolist() == [6.5]
    assert scan(files, OPTICAM_MX(extension="sci2")).table["gain"].tolist() == [1.5]
    assert scan(files, OPTICAM_MX(extension="sci2"), reader_extension=3).table["gain"].tolist() == [6.5]
    assert "a cube of 2 planes" in scan(files, OPTICAM_MX(extension=2)).set_aside[0][1]
    assert any("further image(s)" in line for line in scan(files, OPTICAM_MX()).warnings)


def test_scan__real_opticam_frames(real_data):
    result = scan(find_files(real_data / "opticam"), OPTICAM_MX())
    assert result.table["key"].tolist() == ["1:g", "2:r", "3:z"]
    assert set(result.table["night"]) == {"2023-11-21"}
    assert result.set_aside == []
    assert "(3 of 3 files" in result.warnings[0]


def test_scan__real_night_of_another_camera(real_data):
    result = scan(find_files(real_data / "hat-p-32"), Instrument.from_json(MICROOBSERVATORY))
    table = result.table
    assert len(table) == 142
    assert set(table["key"]) == {"1:Clear"}
    assert set(table["night"]) == {"2017-12-19"}
    assert (result.set_aside, result.warnings) == ([], [])
    assert table["mjd_utc"].is_monotonic_increasing
    assert {(ny, nx, dtype) for ny, nx, dtype in zip(table["ny"], table["nx"], table["dtype"], strict=True)} == {
        (500, 650, "int16")
    }
    assert time_gaps(table) == []


def test_scan__oddities_are_set_aside_by_the_wrong_instrument(real_data):
    result = scan(find_files(real_data / "oddities"), OPTICAM_MX())
    assert len(result.table) == 0
    assert len(result.set_aside) == 6
    assert all("FILTER" in reason for _, reason in result.set_aside)


def table_at(seconds, key="1:g", night="2023-12-31"):
    names = [f"/d/{key[0]}_{index}.fits" for index in range(len(seconds))]
    times = 60310.0 + np.array(seconds, dtype=float) / 86400.0
    return pd.DataFrame({"key": key, "night": night, "file": names, "mjd_utc": times})


def test_time_gaps__names_the_frames_around_the_gap():
    table = table_at([3.0, 0.0, 1.0, 2.0, 25.0, 26.0, 27.0])  # the files are not in the order of time
    ((key, before, after, gap, median),) = time_gaps(table)
    assert (key, before, after) == ("1:g", "/d/1_0.fits", "/d/1_4.fits")
    assert gap == pytest.approx(22.0, abs=1e-5)
    assert median == pytest.approx(1.0, abs=1e-5)


def test_time_gaps__threshold_and_nights():
    assert len(time_gaps(table_at([0, 1, 2, 3, 12.9]))) == 0
    assert len(time_gaps(table_at([0, 1, 2, 3, 13.1]))) == 1
    next_night = table_at([90000, 90001, 90002], night="2024-01-01")
    assert time_gaps(pd.concat([table_at([0, 1, 2]), next_night])) == []
    both = pd.concat([table_at([0, 1, 2, 30]), table_at([0, 1, 2, 40], key="2:r")])
    assert [gap[0] for gap in time_gaps(both)] == ["1:g", "2:r"]


@pytest.mark.parametrize("seconds", [[], [0], [0, 5], [0, 0, 0]])
def test_time_gaps__few_frames(seconds):
    assert time_gaps(table_at(seconds)) == []


def test_time_gaps__repeated_times_do_not_hide_a_gap():
    assert len(time_gaps(table_at([0, 0, 0, 0, 1, 1, 1, 2, 2, 60]))) == 1


def test_scan__an_interrupt_does_not_wait_for_the_files_that_are_left(tmp_path, monkeypatch):
    first = tmp_path / "0.fits"
    write(first, header=good_header())
    for number in range(1, 1000):
        os.link(first, tmp_path / f"{number}.fits")
    n_read = []

    def slow(path, extension):
        n_read.append(time.sleep(0.01))
        return read_header(path, extension)

    def interrupt(done, total):
        raise KeyboardInterrupt

    monkeypatch.setattr("opticam_dask.frames.scanning.read_header", slow)
    with pytest.raises(KeyboardInterrupt):
        scan(find_files(tmp_path), OPTICAM_MX(), progress=interrupt)
    assert len(n_read) < 400


# ---------------------------------------------------------------- line lists (PLIO_1)


def line_lists(tmp_path, words=(), descriptor=None):
    """A mask in PLIO_1, its file and its pixels; words of the first line list, or where it lies, are changed."""
    mask = np.zeros((12, 16), np.int16)
    mask[3:5, 3:9] = 7
    path = tmp_path / "mask.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(mask, compression_type="PLIO_1")]).writeto(path)
    content = bytearray(path.read_bytes())
    with fits.open(path, disable_image_compression=True) as hdus:
        table = hdus[1].fileinfo()["datLoc"]
        heap = table + hdus[1].header["NAXIS1"] * hdus[1].header["NAXIS2"]
    for place, word in dict(words).items():
        content[heap + 2 * place : heap + 2 * place + 2] = int(word).to_bytes(2, "big", signed=True)
    if descriptor is not None:
        content[table : table + 8] = descriptor
    path.write_bytes(content)
    return path, mask


def test_read__line_lists(tmp_path):
    path, mask = line_lists(tmp_path)
    np.testing.assert_array_equal(FitsReader().read(path), mask)


@pytest.mark.parametrize("words", [{3: 32767}, {3: 0, 4: 9}, {1: -9}, {2: 30000}, {7: 0x1001}])
def test_read__line_list_that_leads_out_of_its_tile_is_refused(tmp_path, words):
    """The decoder of astropy and cfitsio reads on in memory, and now and then the program dies of it."""
    path, _ = line_lists(tmp_path, words)
    with pytest.raises(FrameError, match="line list"):
        FitsReader().read(path)


def test_read__other_tiles_are_no_line_lists_whatever_a_comment_says(tmp_path):
    pixels = np.random.default_rng(3).integers(0, 1000, (12, 16)).astype(np.int16)
    header = fits.Header([("COMMENT", "the mask of this image was in PLIO_1")])
    path = tmp_path / "rice.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(pixels, header, compression_type="RICE_1")]).writeto(path)
    np.testing.assert_array_equal(FitsReader().read(path), pixels)


def test_read__tile_without_a_line_list_is_refused(tmp_path):
    path, _ = line_lists(tmp_path, descriptor=bytes(8))
    with pytest.raises(FrameError, match="no line list"):
        FitsReader().read(path)
