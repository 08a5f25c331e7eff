"""Bad input: one test for each row of the table in docs/bad-input.md, on real files, with the real commands."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from privileges import ordinary_user

from opticam_dask import flags, light_curves, simulate_observations
from opticam_dask.api import reducer, session
from opticam_dask.cli.parser import main
from opticam_dask.console import Console
from opticam_dask.display import products
from opticam_dask.frames.instruments import OPTICAM_MX
from opticam_dask.frames.scanning import FitsReader, FrameError, read_header
from opticam_dask.pipeline import driver
from opticam_dask.store.groups import Group
from opticam_dask.store.store import Store
from opticam_dask.text import printable, shown

DOCUMENT = Path(__file__).parents[2] / "docs" / "bad-input.md"
NIGHT = "2023-12-31"
SHAPE = (96, 112)
OPTIONS = ("--n-pixels", "5", "--border-width", "4", "--cluster", "none")
CARD, BLOCK = 80, 2880


def read_table():
    """Rows of the document: case -> (what is seen, what is kept)."""
    lines = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]
    assert all(len(row) == 3 for row in rows), rows
    return {case: (re.fullmatch("`(.*?) ?`", seen)[1], kept) for case, seen, kept in rows}


TABLE = read_table()


@dataclass(frozen=True)
class Case:
    """How to spoil a night.

    ``make`` gets the directory with six good frames and gives the names that the row is about. ``n_sources`` is None
    where frames whose electrons mean nothing are in the stack, and with them their noise.
    """

    make: Callable[[Path], list[str]]
    options: tuple[str, ...] = ()
    as_nobody: bool = False
    also: Callable[[Path, list[str]], None] = lambda out, names: None
    n_good: int = 6
    n_sources: int | None = 6
    exit_status: int = 0


CASES: dict[str, Case] = {}


def case(name, **entries):
    def register(make):
        CASES[name] = Case(make, **entries)
        return make

    return register


# ---------------------------------------------------------------- files


def good_frames(directory):
    return sorted(directory.glob("2*.fits"))


def stamp(index):
    return f"2024-01-01 03:05:{index:02d}.000"


def spoil(directory, name, data=None, *, index=0, raw=(), **header):
    """Copy a good frame with other pixels, header values or raw texts of values, at a time of its own."""
    with fits.open(good_frames(directory)[index]) as hdus:
        image = hdus[0].copy() if data is None else fits.PrimaryHDU(data, header=hdus[0].header)
    for keyword, value in ({"UT": stamp(len(list(directory.iterdir())))} | header).items():
        if value is None:
            del image.header[keyword]
        else:
            image.header[keyword] = value
    stream = io.BytesIO()
    image.writeto(stream)
    content = stream.getvalue()
    for keyword, text in dict(raw).items():
        content = with_value(content, keyword, text)
    (directory / name).write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    return name


def with_value(content, keyword, text):
    start = content.index(f"{keyword:8s}=".encode())
    return content[: start + 10] + text.rjust(20).ljust(CARD - 10).encode() + content[start + CARD :]


def spoil_each(directory, keyword, values, **others):
    """One copy for each value of a keyword."""
    return [
        spoil(directory, f"{keyword.lower()}{number}.fits", **{keyword: value}, **others)
        for number, value in enumerate(values)
    ]


def write(directory, name, content):
    (directory / name).write_bytes(content)
    return [name]


def pixels(directory, index=0):
    return fits.getdata(good_frames(directory)[index])


def content_of(directory, index=0):
    return good_frames(directory)[index].read_bytes()


# ---------------------------------------------------------------- cases


@case("empty file")
def _(directory):
    return write(directory, "empty.fits", b"")


@case("cut short in the header")
def _(directory):
    return write(directory, "short.fits", content_of(directory)[:1000])


@case("cut short in the data")
def _(directory):
    return write(directory, "short.fits", content_of(directory)[: BLOCK + 7000])


@case("not FITS: text, picture")
def _(directory):
    write(directory, "text.fits", b"<html>404 not found</html>\n" * 200)
    write(directory, "picture.fits", b"\x89PNG\r\n\x1a\n" + bytes(5000))
    return ["text.fits", "picture.fits"]


@case("BITPIX of no type")
def _(directory):
    return [spoil(directory, "bitpix.fits", raw={"BITPIX": "17"})]


@case("axis that is no number")
def _(directory):
    return [spoil(directory, f"axis{n}.fits", raw={"NAXIS1": text}) for n, text in enumerate(["x", "-5", "1.5", "T"])]


@case("header of endless cards")
def _(directory):
    header = content_of(directory)[:BLOCK].replace(b"END".ljust(CARD), b"COMMENT".ljust(CARD))
    comments = b"COMMENT".ljust(CARD) * 36
    with gzip.open(directory / "endless.fits.gz", "wb", compresslevel=1) as file:
        file.write(header)
        for _ in range(210):
            file.write(comments * 50)
    return ["endless.fits.gz"]


@case("needed keyword missing")
def _(directory):
    return [spoil(directory, "missing.fits", EXPOSURE=None)]


@case("gain 0, negative, text or absurd")
def _(directory):
    return spoil_each(directory, "GAIN", [0, -1.5, "high", 1e300])


@case("exposure time negative, NaN, infinite or text")
def _(directory):
    names = [spoil(directory, f"raw{n}.fits", raw={"EXPOSURE": text}) for n, text in enumerate(["nan", "inf", "-inf"])]
    return names + spoil_each(directory, "EXPOSURE", [-1.0, "5 s"])


@case("exposure of more than a day")
def _(directory):
    return spoil_each(directory, "EXPOSURE", [1e5, 1e300])


@case("binning 0x0, 2x3 or beyond 1024")
def _(directory):
    return spoil_each(directory, "BINNING", ["0x0", "2x3", "-1x-1", "2000x2000", "1e30", "nan"])


@case("filter of no camera, or not printable")
def _(directory):
    names = spoil_each(directory, "FILTER", ["Q", "x" * 66])
    (directory / names[1]).write_bytes((directory / names[1]).read_bytes().replace(b"x" * 5, b"\x1b[31m"))
    return names


@case("date or time of day that does not exist")
def _(directory):
    return spoil_each(directory, "UT", ["2024-13-45 03:00:00", "2023-02-29 03:00:00", "2024-01-01 25:00:00", "03:00"])


@case("year 0 or 9999")
def _(directory):
    return spoil_each(directory, "UT", ["0000-01-01 03:00:00", "9999-12-31 03:00:00"])


@case("time zone in letters, a.m., p.m.")
def _(directory):
    zones = ["PST", "CET", "PM", "a.m.", "(CET)", "local"]
    return spoil_each(directory, "UT", [f"2024-01-01 03:05:00 {zone}" for zone in zones])


@case("offset that is no time zone")
def _(directory):
    return spoil_each(directory, "UT", ["2024-01-01T03:05:00+25:00", "2024-01-01T03:05:00-07:75"])


def times_are_utc(out, names):
    times = light_curves(out, "1:g")["mjd_utc"].to_numpy()
    expected = [60310 + (3 * 3600 + 5 * 60 + second + 2.5) / 86400 for second in (0, 30)]  # exposures of 5 s
    assert min(abs(times - expected[0])) < 1e-9
    assert min(abs(times - expected[1])) < 1e-9


@case("time in UTC that says so", also=times_are_utc)
def _(directory):
    return spoil_each(directory, "UT", ["2024-01-01T03:05:00Z", "2024-01-01 03:05:30.00 UTC"])


@case("time with an offset from UTC", also=times_are_utc)
def _(directory):
    return spoil_each(directory, "UT", ["2024-01-01T05:05:00+02:00", "2023-12-31 20:05:30-0700"])


@case("position absurd")
def _(directory):
    return [*spoil_each(directory, "RA", ["99:00:00", "nan"]), *spoil_each(directory, "DEC", [-91.0, "north"])]


def absurd_numbers_are_unknown(out, names):
    frames = frames_of(out)
    assert all(np.isnan(frames[names[0]]["airmass"]) for _ in names)
    assert all(np.isnan(frames[names[1]]["saturation"]) for _ in names)


@case("airmass, saturation absurd", also=absurd_numbers_are_unknown)
def _(directory):
    return [spoil(directory, "airmass.fits", AIRMASS=-7.0), spoil(directory, "saturation.fits", SATLEVEL="none")]


@case("a flat, a bias or a focus frame by IMGTYPE")
def _(directory):
    return spoil_each(directory, "IMGTYPE", ["flat", "SKYFLAT", "Bias Frame", "zero", "dark", "focus"])


@case("date without a time of day")
def _(directory):
    return spoil_each(directory, "UT", ["2024-01-01", "60310.0"])


def position_is_known(out, names):
    frames = frames_of(out)
    assert [round(float(frames[name]["dec"]), 6) for name in names] == [20.0, -0.5]


@case("declination rounded up to 60, or of minus zero", also=position_is_known)
def _(directory):
    return spoil_each(directory, "DEC", ["+19:59:60.0", "-00:30:00"], RA="00:00:01")


@case("gain that no detector has", n_sources=None)
def _(directory):
    return spoil_each(directory, "GAIN", [1390.0, 2000])


@case("time scale in TIMESYS that is not that of the definition")
def _(directory):
    return spoil_each(directory, "TIMESYS", ["TDB", "LOCAL"])


@case("two exposure times that differ")
def _(directory):
    return spoil_each(directory, "EXPTIME", [5000.0])


@case("a keyword that stands twice, with two values")
def _(directory):
    file = good_frames(directory)[0]
    content = file.read_bytes()
    end = content.index(b"END".ljust(80))
    again = b"EXPOSURE=                 50.0".ljust(80) + b"END".ljust(80)
    file.write_bytes(content[:end] + again + content[end + len(again) :])
    return [file.name]


@case("telescope elsewhere than the definition says")
def _(directory):
    return [spoil(directory, "site.fits", SITELAT=28.3, SITELONG=-16.51)]


@case("a frame that points elsewhere")
def _(directory):
    return [spoil(directory, "away.fits", RA="05:00:00", DEC="+10:00:00")]


@case("exposures that overlap")
def _(directory):
    return spoil_each(directory, "EXPOSURE", [30.0, 40.0])


def blanks_are_missing(out, names):
    for name in names:
        found = FitsReader().read(next(out.parent.rglob(name)))
        assert np.isnan(found[5, 5]), name
        assert np.isfinite(found).sum() > 0.9 * found.size


@case("overscan beside the image by TRIMSEC")
def _(directory):
    names = []
    for number, frame in enumerate(good_frames(directory)):
        wide = np.pad(pixels(directory, number), ((0, 0), (0, 12)))
        header = fits.getheader(frame)
        header["TRIMSEC"] = "[1:112,1:96]"
        fits.writeto(frame, wide, header, overwrite=True)
        names.append(frame.name)
    return names


@case("compressed or unsigned integers with BLANK")
def _(directory):
    header = fits.getheader(good_frames(directory)[0])
    names = []
    for number, kind in enumerate(["i2", "u2"]):
        data = np.clip(pixels(directory), 0, 30000).astype(kind)
        data[5, 5] = 20000
        image = fits.CompImageHDU(data, header, compression_type="RICE_1")
        image.header["UT"] = stamp(40 + number)
        hdus = fits.HDUList([fits.PrimaryHDU(), image])
        hdus.writeto(directory / f"blank{number}.fits")
        content = (directory / f"blank{number}.fits").read_bytes()
        # astropy would make other pixels of it
        card = f"BLANK   = {20000 - 32768 * (kind == 'u2'):20d}".ljust(CARD).encode()
        end = content.index(b"END".ljust(CARD), BLOCK)
        header_bytes = content[BLOCK:end] + card + b"END".ljust(CARD)
        rest = content[end + CARD + -(end + CARD) % BLOCK :]
        whole = content[:BLOCK] + header_bytes + b" " * (-len(header_bytes) % BLOCK) + rest
        (directory / f"blank{number}.fits").write_bytes(whole)
        names.append(f"blank{number}.fits")
    return names


@case("light curves that this program has exported")
def _(directory):
    table = fits.BinTableHDU.from_columns([fits.Column("mjd_utc", "D", array=[1.0, 2.0])])
    for keyword, value in (("CAMERA", "1:g"), ("LABEL", "aperture"), ("TIMECOL", "bmjd_tdb")):
        table.header[keyword] = value
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(directory / "1-g_source_1.fits")
    (directory / "before" / "reduction.zarr").mkdir(parents=True)
    (directory / "before" / "export").mkdir()
    write(directory, "before/export/table.fits", b"not looked at")
    return []


@case("cube that does not say when its planes were taken")
def _(directory):
    return [spoil(directory, "cube.fits", np.stack([pixels(directory)] * 3))]


@case("table")
def _(directory):
    table = fits.BinTableHDU.from_columns([fits.Column("a", "J", array=[1, 2])])
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(directory / "table.fits")
    return ["table.fits"]


def write_extensions(directory, name, source):
    """Several HDUs: a table, noise named SCI1 and a frame named SCI2."""
    data, header = fits.getdata(source, header=True)
    noise = np.random.default_rng(0).integers(100, 120, data.shape).astype("u2")
    table = fits.BinTableHDU.from_columns([fits.Column("a", "J", array=[1, 2])])
    images = [fits.ImageHDU(data, header, name="SCI2"), fits.ImageHDU(noise, header, name="SCI1")]
    return fits.HDUList([fits.PrimaryHDU(header=header), table, *images]), directory / name


@case("several extensions, of which only the first has a time")
def _(directory):
    hdus, path = write_extensions(directory, "several.fits", good_frames(directory)[0])
    for hdu in (hdus[0], hdus[2]):
        hdu.header["UT"] = stamp(1)
    hdus[3] = fits.ImageHDU(hdus[3].data, name="SCI1")  # without a time, filter or camera of its own
    hdus.writeto(path)
    return [path.name]


def chosen_extension_is_recorded(out, names):
    record = json.loads(Store.open(out).attributes["parameters"])
    assert "SCI2" in json.dumps(record["instrument"])


@case(
    "several extensions, one chosen with `--extension SCI2`",
    options=("--extension", "SCI2"),
    also=chosen_extension_is_recorded,
)
def _(directory):
    names = []
    for frame in good_frames(directory):
        hdus, path = write_extensions(directory, frame.name, frame)
        noise_first = fits.HDUList([hdus[0], hdus[1], hdus[3], hdus[2]])
        noise_first.writeto(path, overwrite=True)
        names.append(path.name)
    return names


@case("extension chosen that a file lacks", options=("--extension", "1"))
def _(directory):
    for frame in good_frames(directory):
        data, header = fits.getdata(frame, header=True)
        fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(data, header)]).writeto(frame, overwrite=True)
    fits.PrimaryHDU(data, header).writeto(directory / "plain.fits")
    return ["plain.fits"]


@case("other shape than its night")
def _(directory):
    return [spoil(directory, "shape.fits", pixels(directory)[:80, :90])]


@case("other shape, which the parameters do not fit", options=("--box-size", "12"))
def _(directory):
    return [spoil(directory, "tiny.fits", pixels(directory)[:8, :9])]


@case("all NaN")
def _(directory):
    return [spoil(directory, "nan.fits", np.full(SHAPE, np.nan, "f4"))]


@case("all zero")
def _(directory):
    return [spoil(directory, "zero.fits", np.zeros(SHAPE, "u2"))]


@case("saturated")
def _(directory):
    return [spoil(directory, "saturated.fits", np.full(SHAPE, 65535, "u2"))]


@case("NaN and infinite pixels here and there")
def _(directory):
    data = pixels(directory).astype("f4")
    data[5, 5:9] = np.nan
    data[90, 100:104] = np.inf, -np.inf, 3e38, -3e38
    return [spoil(directory, "holes.fits", data)]


@case("duplicated times")
def _(directory):
    first = good_frames(directory)[0]
    return [spoil(directory, "twin.fits", UT=fits.getval(first, "UT")), first.name]


def frames_are_in_order(out, names):
    assert np.all(np.diff(light_curves(out, "1:g")["mjd_utc"].to_numpy()) > 0)
    assert list(frames_of(out)) == names[::-1]


@case("times that are not in the order of names", also=frames_are_in_order)
def _(directory):
    frames = good_frames(directory)
    for frame, name in zip(frames, "fedcba", strict=True):
        frame.rename(directory / f"2{name}.fits")
    return [path.name for path in good_frames(directory)]


@case("clock that was years off")
def _(directory):
    return [spoil(directory, "future.fits", UT="2031-01-01 03:00:00")]


@case("symbolic link to itself or to nothing")
def _(directory):
    (directory / "self.fits").symlink_to("self.fits")
    (directory / "nothing.fits").symlink_to("nowhere.fits")
    return ["self.fits", "nothing.fits"]


@case("symbolic links in a loop, or to the same file")
def _(directory):
    (directory / "loop").symlink_to(directory)
    (directory / "again.fits").symlink_to(good_frames(directory)[0])
    return []


@case("unreadable file", as_nobody=True)
def _(directory):
    name = spoil(directory, "closed.fits")
    (directory / name).chmod(0)
    return [name]


@case("unreadable directory", as_nobody=True)
def _(directory):
    (directory / "closed").mkdir()
    write(directory, "closed/frame.fits", content_of(directory))
    (directory / "closed").chmod(0)
    return []


@case("pipe")
def _(directory):
    os.mkfifo(directory / "pipe.fits")
    return ["pipe.fits"]


@case("directory with the name of a frame")
def _(directory):
    (directory / "folder.fits").mkdir()
    return [spoil(directory, "folder.fits/frame.fits", UT=stamp(1))]


@case("gzip stream cut short")
def _(directory):
    name = spoil(directory, "cut.fits.gz")
    return write(directory, name, (directory / name).read_bytes()[:-100])


@case("gzip stream with a wrong checksum")
def _(directory):
    name = spoil(directory, "checksum.fits.gz")
    content = bytearray((directory / name).read_bytes())
    content[-6] ^= 1
    return write(directory, name, bytes(content))


def write_bomb(path, beginning, n_mebibytes):
    """Gzip stream that goes on with zeros."""
    zeros = gzip.compress(bytes(1 << 20), mtime=0)  # members of a stream follow each other
    path.write_bytes(gzip.compress(beginning, mtime=0) + zeros * n_mebibytes)
    return [path.name]


@case("gzip bomb after the image")
def _(directory):
    return write_bomb(directory / "after.fits.gz", (directory / spoil(directory, "2z.fits")).read_bytes(), 5000)


@case("gzip bomb before the image")
def _(directory):
    first = fits.BinTableHDU.from_columns([fits.Column("a", "J", array=np.zeros(2, "i4"))])
    stream = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), first]).writeto(stream)
    content = with_value(stream.getvalue(), "NAXIS2", str(1 << 29))
    return write_bomb(directory / "before.fits.gz", content[: 2 * BLOCK], 5000)


@case("50,000 x 50,000 pixels declared")
def _(directory):
    name = spoil(directory, "huge.fits.gz", raw={"NAXIS1": "50000", "NAXIS2": "50000"})
    content = gzip.decompress((directory / name).read_bytes())
    return write_bomb(directory / name, content, 5000)


def write_compressed(directory, name):
    data, header = fits.getdata(good_frames(directory)[0], header=True)
    header["UT"] = stamp(1)
    image = fits.CompImageHDU(data, header, compression_type="GZIP_1")
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(directory / name)
    return (directory / name).read_bytes()


@case("compressed image with fewer tiles than declared")
def _(directory):
    content = write_compressed(directory, "tiles.fits.fz")
    start = content.index(b"XTENSION")
    return write(directory, "tiles.fits.fz", content[:start] + with_value(content[start:], "NAXIS2", "95"))


@case("compressed image, damaged")
def _(directory):
    content = write_compressed(directory, "damaged.fits.fz")
    middle = len(content) // 2
    return write(directory, "damaged.fits.fz", content[:middle] + bytes(2000) + content[middle + 2000 :])


@case("names with blanks and unicode")
def _(directory):
    return [
        spoil(directory, name, UT=stamp(n)) for n, name in enumerate([" a b .fits", "été-星.fits", "#%20[1]'.FITS"])
    ]


@case("name with a line feed and terminal commands")
def _(directory):
    return write(directory, "two\nlines \x1b[31m\u202e.fits", b"")


@case("name that is not UTF-8")
def _(directory):
    shutil.copy(good_frames(directory)[0], os.fsencode(directory) + b"/\xff.fits")
    return ["\\xff.fits"]


@case("nothing but bad files", exit_status=1, n_good=0)
def _(directory):
    for frame in good_frames(directory):
        frame.unlink()
    write(directory, "text.fits", b"text")
    return write(directory, "empty.fits", b"")


# ---------------------------------------------------------------- the tests


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    directory = tmp_path_factory.mktemp("good")
    simulate_observations(
        directory, n_frames=6, shape=SHAPE, n_sources=6, filters=("g",), flux_range=(5e3, 1e5), fwhm=3.0,
        least_separation=6.0, seed=2,
    )  # fmt: skip
    return directory


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch):
    """Drawing takes longer than all the rest, and it is not what these tests are about."""
    for name, result in (("plot_header_times", None), ("plot_catalogs", None), ("plot_frames", [])):
        monkeypatch.setattr(products, name, lambda *args, result=result, **kwargs: result)


@contextlib.contextmanager
def open_directory():
    """Directory that everybody can enter; those of pytest belong to one user."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o777)
        yield directory
        for path in directory.rglob("closed*"):
            path.chmod(0o700)


def run(capsys, *arguments, code=0):
    """Run a command in this process; give what it printed."""
    capsys.readouterr()
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    text = captured.out + captured.err
    assert status == code, text
    assert "Traceback" not in text
    assert text.replace("\n", "").isprintable(), "something that a terminal would obey"
    return text


def frames_of(out):
    """Frames of the store in the order of time: name -> flags, flux and other values."""
    path = Store.open(out).path
    frames = {}
    for part in Store(path).camera("1:g").parts:
        manifest = part.manifest()
        values = Group(path, f"{part.group}/frames").read("flags")
        flux = Group(path, f"{part.group}/photometry/aperture").read("flux")
        for index, file in enumerate(manifest["file"]):
            entry = {name: manifest[name][index] for name in ("airmass", "saturation", "dec")}
            frames[Path(file).name] = entry | {
                "flags": flags.flag_names(values[index], flags.FrameFlag),
                "flux": flux[index],
            }
    return frames


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name, good, tmp_path, capsys, caplog):
    case = CASES[name]
    with contextlib.ExitStack() as stack:
        place = tmp_path if not case.as_nobody else stack.enter_context(open_directory())
        data, out = place / "data", place / "out"
        shutil.copytree(good, data)
        data.chmod(0o755)
        names = case.make(data)
        if case.as_nobody:
            stack.enter_context(ordinary_user())
        seen, kept = TABLE[name]
        text = run(capsys, "reduce", data, "--out", out, *OPTIONS, *case.options, code=case.exit_status)
        assert seen in text + caplog.text, text
        if kept == "set aside":
            checked = run(capsys, "check", data, *case.options[: 2 * ("--extension" in case.options)])
            assert f"{len(names)} set aside." in checked
            assert seen in checked
        if case.exit_status == 0:
            status = run(capsys, "status", out, "--problems", 0)
            check_good_frames(out, good, case)
            check_kept(out, names, seen, kept, status)
            check_nothing_is_dropped(out, {path.name for path in good_frames(data)} | set(names))
            case.also(out, names)


def check_good_frames(out, good, case):
    frames = frames_of(out)
    usable = [name for name in frames if name.startswith("2") and np.isfinite(frames[name]["flux"]).all()]
    assert len(usable) >= case.n_good
    found = {len(frames[name]["flux"]) for name in usable}
    assert case.n_sources is None or found == {case.n_sources}


def check_nothing_is_dropped(out, names):
    set_aside = Group(Store.open(out).path, "set_aside").read_all()["file"].tolist()
    listed = [*frames_of(out), *map(os.path.basename, set_aside)]
    assert sorted(listed) == sorted(map(os.path.basename, names))


def check_kept(out, names, seen, kept, status):
    path = Store.open(out).path
    listed = Group(path, "set_aside").read_all()
    reasons = {Path(file).name: reason for file, reason in zip(listed["file"], listed["reason"], strict=True)}
    frames = frames_of(out)
    expected = re.findall("`(.*?)`", kept)
    if kept.startswith("set aside"):
        assert set(reasons) == set(names)
        lines = [line for line in status.splitlines() if line.startswith("  /")]
        for name in names:
            assert any(f"/{printable(name)}: {printable(reasons[name])}" in line for line in lines), status
            assert seen in f"{printable(name)}: {reasons[name]}"
        return
    assert not reasons
    for name in map(os.path.basename, names):
        found = [flag for flag in frames[name]["flags"] if flag != "no_position" or flag in expected]
        assert set(expected) <= set(found), frames[name]
        assert expected or not found, found
        assert np.isfinite(frames[name]["flux"]).all() or not kept.startswith("measured")
        assert np.isnan(frames[name]["flux"]).all() or "no flux" not in kept
        assert all(flag in status for flag in expected)


def test_table__each_row_is_a_case():
    assert set(TABLE) == {*CASES, "100,000 files in one directory"}


@pytest.mark.parametrize(
    "name",
    ["header of endless cards", "gzip bomb after the image", "gzip bomb before the image",
     "50,000 x 50,000 pixels declared"],
)  # fmt: skip
def test_bombs__cost_no_more_memory_than_a_frame(name, good, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(good, data)
    (file,) = CASES[name].make(data)
    FitsReader().read(good_frames(good)[0])  # what is loaded once does not count
    tracemalloc.start()
    try:
        with pytest.raises(FrameError, match=re.escape(TABLE[name][0])):
            FitsReader().read(data / file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1e8


def test_bombs__value_that_goes_on_over_all_cards(good, tmp_path):
    header = content_of(good)[:BLOCK]
    end = header.index(b"END     ")
    first = b"LONG    = '" + b"x" * 67 + b"&'"
    more = b"CONTINUE  '" + b"x" * 67 + b"&'"
    cards = header[:end] + first.ljust(CARD) + more.ljust(CARD) * 36 * 5000 + b"END".ljust(CARD)
    (tmp_path / "a.fits").write_bytes(cards + b" " * (-len(cards) % BLOCK) + content_of(good)[BLOCK:])
    assert len(read_header(tmp_path / "a.fits").values["LONG"]) < 1e5
    np.testing.assert_array_equal(FitsReader().read(tmp_path / "a.fits"), pixels(good))


def test_pipe__is_refused_at_once_even_when_somebody_writes(tmp_path):
    os.mkfifo(tmp_path / "pipe.fits")
    ours = os.open(tmp_path / "pipe.fits", os.O_RDWR)
    os.write(ours, b"SIMPLE  =")
    with pytest.raises(FrameError, match="expected a regular file, found a pipe"):
        FitsReader().read(tmp_path / "pipe.fits")
    os.close(ours)
    with pytest.raises(FrameError, match="expected a regular file, found a device"):
        FitsReader().read("/dev/zero")


@pytest.mark.parametrize("value", ["-1", " "])
def test_extension__that_no_file_can_have_is_wrong_usage(good, capsys, value):
    assert "extension must be the number of an HDU" in run(capsys, "check", good, f"--extension={value}", code=2)


def test_extension__of_the_reducer_goes_before_the_instrument(good, tmp_path):
    arguments = {"instrument": OPTICAM_MX(extension=4), "verbose": False}
    with pytest.raises(driver.ReductionError, match="expected the image of HDU 4"):
        reducer.Reducer(tmp_path / "out", good, **arguments)
    taken = reducer.Reducer(tmp_path / "out", good, extension=0, **arguments)
    assert len(taken.camera_files["1:g"]) == 6
    assert taken.instrument.extension == 0


def test_reduce__again_with_another_extension_is_refused(good, tmp_path, capsys):
    run(capsys, "reduce", good, "--out", tmp_path / "out", *OPTIONS)
    text = run(capsys, "reduce", good, "--out", tmp_path / "out", *OPTIONS, "--extension", 0, code=2)
    assert "instrument.extension: null before, 0 now" in text


def test_reduce__again_after_frames_that_no_parameter_fits(good, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(good, data)
    case = CASES["other shape, which the parameters do not fit"]
    case.make(data)
    for _ in range(2):
        run(capsys, "reduce", data, "--out", tmp_path / "out", *OPTIONS, *case.options)
        assert "tiny.fits: box_size (12, 12)" in run(capsys, "status", tmp_path / "out")


# ---------------------------------------------------------------- what a person sees


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b.fits", "a b.fits"),
        ("été-星 ' \\", "été-星 ' \\"),
        ("two\nlines\r\t", "two\\nlines\\r\\t"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("\u202egnp.exe\u200b", "\\u202egnp.exe\\u200b"),
        (os.fsdecode(b"\xff.fits"), "\\xff.fits"),
        ("\ud800", "\\ud800"),
        ("", ""),
    ],
)
def test_printable(text, expected):
    assert printable(text) == expected
    assert printable(text).isprintable()


def test_shown__long_values_are_cut():
    assert shown("x\n") == "'x\\n'"
    assert len(shown("x" * 10**6)) == 80


def test_tell__output_that_knows_ascii_only(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    Console(prefix="").tell("été\n.fits")
    stream.seek(0)
    assert stream.buffer.read() == b"\\xe9t\\xe9\\n.fits\n"


def test_tell__beside_a_bar_nothing_is_taken_for_markup_or_pictures(monkeypatch):
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("TERM", "xterm")
    console = Console(prefix="")
    console.begin("Aligning", 2)
    console.tell("1:o: [red]x\x1b[2J.fits")
    console.end()
    assert "1:o: [red]x\\x1b[2J.fits" in stream.getvalue()


def test_error__names_are_shown_in_one_line(tmp_path, capsys):
    text = run(capsys, "check", tmp_path / "no\nsuch\x1b[31m", code=2)
    assert "no\\nsuch\\x1b[31m" in text
    assert text.count("\n") == 1
    (tmp_path / "two\nlines").mkdir()
    (tmp_path / "two\nlines" / "a\n.fits").write_bytes(b"")
    text = run(capsys, "reduce", tmp_path / "two\nlines", "--out", tmp_path / "out\n", code=1)
    assert "a\\n.fits: the file is empty" in text


def test_log__a_message_is_one_line(tmp_path):
    with session.log_to_file(tmp_path / "log"):
        logging.getLogger("opticam_dask.frames.scanning").warning("%s cannot be searched", "a\nb\x1b[31m")
    assert (tmp_path / "log").read_text().endswith("a\\nb\\x1b[31m cannot be searched\n")


_CHECK = """
import resource, sys
from opticam_dask.cli import main
status = main(["check", *sys.argv[1:]])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(status)
"""


def test_100_000_files_in_one_directory(good, tmp_path):
    frames = good_frames(good)
    originals = []
    for index in range(400):
        content = frames[index % 6].read_bytes()
        start = content.index(b"UT      =") + 11
        time = f"2024-01-01 03:{10 + index // 60:02d}:{index % 60:02d}.000"
        originals.append(tmp_path / f"{index}.fits")
        originals[-1].write_bytes(content[:start] + time.encode() + content[start + 23 :])
    data = tmp_path / "data"
    data.mkdir()
    for number in range(100_000):
        os.link(originals[number % 400], data / f"{number:06d}.fits")
    done = subprocess.run([sys.executable, "-c", _CHECK, data], capture_output=True, text=True, check=False)
    shutil.rmtree(data)  # pytest would keep it for days
    assert done.returncode == 0, done.stderr
    assert TABLE["100,000 files in one directory"][0] in done.stdout
    assert "100000 frames share their time stamp with another frame" in done.stdout
    peak = int(done.stdout.split()[-1]) * (1 if sys.platform == "darwin" else 1024)
    assert peak < 1e9
