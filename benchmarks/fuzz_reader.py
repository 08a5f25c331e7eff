"""Feed damaged FITS files to the reader and the header scan, and keep every input that breaks a promise.

    python benchmarks/fuzz_reader.py --minutes 60 --seed 1 --findings findings

Promises: whatever the bytes of a file, only `FrameError` is raised, no warning is given, an answer comes within
seconds, memory stays below 1 GB, and header and pixels agree. Inputs are mutations of good files of every kind
(plain, gzipped, tile-compressed, several extensions, all pixel types): cards edited, added, moved and removed, bytes
flipped, data cut and doubled, gzip streams inflated, changed and deflated again. With atheris (``pip install atheris``)
inputs that reach new lines are mutated further; without it all mutations start from the good files.

A process that dies, hangs or grows is started again by the one that watches it; the input to blame is in a file at any
time. Each finding is kept once a place in the code: the bytes (``.bin``) and what happened (``.txt``).
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib
import io
import mmap
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np

try:
    import atheris
except ImportError:
    atheris = None

_SECONDS, _SILENCE = 3.0, 60.0
_MEMORY = 1 << 30
_LARGEST_INPUT = 1 << 17
_CARD, _BLOCK = 80, 2880

_VALUES = (
    "0", "1", "2", "3", "-1", "-5", "8", "16", "-32", "-64", "17", "T", "F", "nan", "inf", "-inf", "1e400", "1E30",
    "2147483647", "2147483648", "4294967296", "9223372036854775807", "9223372036854775808", "9" * 60, "1_000", "0x10",
    "1.5", "-0.0", "5e-324", "50000", "1D3", "''", "'", "'&'", "'   '", "'2x2'", "'0x0'", "'1e30'", "'-1'", "'\u0663'",
    "'2024-01-01T00:00:00Z'", "'2024-01-01 00:00:00+25:99'", "'2024-13-45'", "'0000-01-01'", "'9999-12-31 23:59:60'",
    "'2024-01-01 00:00:00 PM'", "'12:00:00'", "'90:00:00'", "'-99'", "'nan'", "'inf'", "(1, 2)", "/", "= =",
    "'RICE_1'", "'GZIP_1'", "'GZIP_2'", "'PLIO_1'", "'HCOMPRESS_1'", "'NOCOMPRESS'", "'SUBTRACTIVE_DITHER_1'",
    "'IMAGE'", "'BINTABLE'", "'TABLE'", "'1PB(999)'", "'1QB'", "'1J'", "'g'", "'SCI'", "'/../x'", "'\x00\x1b[31m'",
)  # fmt: skip
_KEYWORDS = (
    "SIMPLE", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "PCOUNT", "GCOUNT", "GROUPS", "XTENSION", "EXTNAME",
    "BZERO", "BSCALE", "BLANK", "EXTEND", "END", "ZIMAGE", "ZBITPIX", "ZNAXIS", "ZNAXIS1", "ZNAXIS2", "ZTILE1",
    "ZTILE2", "ZCMPTYPE", "ZQUANTIZ", "ZDITHER0", "ZNAME1", "ZVAL1", "ZNAME2", "ZVAL2", "ZSCALE", "ZZERO", "ZBLANK",
    "TFIELDS", "TFORM1", "TTYPE1", "TFORM2", "TTYPE2", "THEAP", "FILTER", "BINNING", "GAIN", "EXPOSURE", "DARKCURR",
    "RA", "DEC", "UT", "GPSTIME", "DATE-OBS", "AIRMASS", "SATLEVEL", "RDNOISE", "CONTINUE", "HIERARCH", "COMMENT",
)  # fmt: skip


# ---------------------------------------------------------------- good files


def good_files() -> dict[str, bytes]:
    """Good files of every kind that the reader takes, by name."""
    from astropy.io import fits

    header = _good_header()
    rng = np.random.default_rng(0)
    files = {}
    for kind in ("u1", "i1", "u2", "i2", "u4", "i4", "i8", "f4", "f8"):
        pixels = rng.integers(0, 100, (12, 16)).astype(kind)
        files[kind] = _bytes_of(fits.HDUList([fits.PrimaryHDU(pixels, header)]))
        for compression in ("RICE_1", "GZIP_1", "GZIP_2", "HCOMPRESS_1", "PLIO_1"):
            try:
                image = fits.CompImageHDU(pixels, header, compression_type=compression)
                files[f"{kind} {compression}"] = _bytes_of(fits.HDUList([fits.PrimaryHDU(), image]))
            except Exception:  # noqa: BLE001 - not every compression takes every type, and each says so in its own way
                continue
    table = fits.BinTableHDU.from_columns([fits.Column("a", "J", array=np.arange(9))], name="LIST")
    cube = fits.ImageHDU(np.zeros((2, 3, 4), "i2"), name="CUBE")
    image = fits.ImageHDU(pixels.astype("u2"), header, name="SCI")
    files["several"] = _bytes_of(fits.HDUList([fits.PrimaryHDU(header=header), table, cube, image]))
    scaled = files["i2"].replace(b"END".ljust(_CARD), b"BSCALE  =                  0.5".ljust(_CARD), 1)
    files["scaled"] = scaled[: scaled.index(b"BSCALE  =") + _CARD] + b"END".ljust(_CARD) + scaled[-_BLOCK:]
    for name in ("u2", "f4", "several", "u2 RICE_1"):
        files[f"{name} gz"] = gzip.compress(files[name], mtime=0)
    return files


def _good_header() -> Any:
    from astropy.io import fits

    values = {
        "FILTER": "g", "BINNING": "4x4", "GAIN": 1.5, "EXPOSURE": 2.0, "DARKCURR": 0.1, "AIRMASS": 1.2,
        "RA": "02:05:15", "DEC": "-00:30:14.7", "UT": "2024-01-01 03:04:05.678", "SATLEVEL": 65535,
    }  # fmt: skip
    return fits.Header(list(values.items()))


def _bytes_of(hdus: Any) -> bytes:
    stream = io.BytesIO()
    hdus.writeto(stream)
    return stream.getvalue()


# ---------------------------------------------------------------- mutations


def mutate(data: bytes, rng: random.Random, further: Any = None) -> bytes:
    """Change a file in one to four ways; a gzipped one usually inside.

    Parameters
    ----------
    data : bytes
    rng : random.Random
    further : callable, optional
        ``bytes -> bytes``: one more way to change bytes.
    """
    packed = data[:2] == b"\x1f\x8b"
    if packed and rng.random() < 0.7:
        data = _inflated(data) or data
    for _ in range(rng.randint(1, 4)):
        by_atheris = further is not None and rng.random() < 0.2
        data = further(data) if by_atheris else rng.choice(_WAYS)(bytearray(data), rng)
    if data[:2] != b"\x1f\x8b" and (packed or rng.random() < 0.05):
        data = gzip.compress(data, compresslevel=rng.choice([0, 1, 9]), mtime=0)
    return data


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompressobj(31).decompress(data, 1 << 20)
    except zlib.error:
        return b""


def _card_at(data: bytearray, rng: random.Random) -> int:
    """Beginning of a card of one of the headers."""
    starts = [0, *(i for i in range(0, len(data), _BLOCK) if data[i : i + 8] in (b"XTENSION", b"SIMPLE  "))]
    start = rng.choice(starts)
    end = data.find(b"END     ", start)
    n_cards = max(1, ((end if end > 0 else len(data)) - start) // _CARD + 1)
    return start + _CARD * rng.randrange(n_cards)


def _edit_value(data: bytearray, rng: random.Random) -> bytes:
    start = _card_at(data, rng)
    value = rng.choice(_VALUES) if rng.random() < 0.8 else str(rng.randint(-(2**34), 2**34))
    data[start + 10 : start + _CARD] = value.rjust(20).ljust(_CARD - 10).encode("latin-1", "replace")
    return bytes(data)


def _add_card(data: bytearray, rng: random.Random) -> bytes:
    start = _card_at(data, rng)
    card = f"{rng.choice(_KEYWORDS):8s}= {rng.choice(_VALUES):>20s}".ljust(_CARD)[:_CARD].encode("latin-1", "replace")
    replaced = rng.random() < 0.7
    data[start : start + _CARD * replaced] = card
    return bytes(data)


def _move_card(data: bytearray, rng: random.Random) -> bytes:
    one, other = _card_at(data, rng), _card_at(data, rng)
    card = data[one : one + _CARD]
    if rng.random() < 0.5:
        data[one : one + _CARD] = data[other : other + _CARD]
    data[other : other + _CARD] = card
    return bytes(data)


def _remove(data: bytearray, rng: random.Random) -> bytes:
    unit = rng.choice([1, 2, _CARD, _BLOCK])
    start = unit * rng.randrange(max(1, len(data) // unit))
    del data[start : start + unit * rng.randint(1, 3)]
    return bytes(data)


def _repeat(data: bytearray, rng: random.Random) -> bytes:
    unit = rng.choice([1, 7, _CARD, _BLOCK])
    start = unit * rng.randrange(max(1, len(data) // unit))
    data[start:start] = data[start : start + unit] * rng.choice([1, 2, 20])
    return bytes(data[:_LARGEST_INPUT])


def _flip(data: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.choice([1, 1, 2, 8])):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _overwrite(data: bytearray, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    n_bytes = rng.choice([1, 4, 8, 100])
    data[start : start + n_bytes] = rng.choice([bytes(n_bytes), b"\xff" * n_bytes, rng.randbytes(n_bytes)])
    return bytes(data)


def _cut(data: bytearray, rng: random.Random) -> bytes:
    return bytes(data[: rng.randrange(len(data) + 1)])


def _grow_axis(data: bytearray, rng: random.Random) -> bytes:
    keyword = rng.choice([b"NAXIS1  ", b"NAXIS2  ", b"NAXIS   ", b"PCOUNT  ", b"ZNAXIS1 ", b"ZNAXIS2 ", b"ZTILE1  "])
    start = data.find(keyword + b"=")
    if start >= 0:
        data[start + 10 : start + 30] = b"%20d" % rng.choice([0, 1, 500, 2**15, 50000, 2**31 - 1, 2**31, 2**62, 10**19])
    return bytes(data)


_WAYS = (
    _edit_value, _edit_value, _edit_value, _add_card, _add_card, _move_card, _remove, _repeat, _flip, _flip,
    _overwrite, _cut, _grow_axis,
)  # fmt: skip


# ---------------------------------------------------------------- one input


class _Slow(BaseException):
    """Raised by the alarm; no handler of the package catches it."""


class Trial:
    """Runs the reader on one input and keeps what breaks a promise.

    Parameters
    ----------
    findings : path
        Directory of findings.
    work : path
        Directory for the file under test, in memory for speed.
    """

    def __init__(self, findings: Path, work: Path) -> None:
        from opticam_dask.frames.instruments import OPTICAM_MX, Instrument

        self.findings, self.file, self.n_inputs = findings, work / "x.fits", 0
        other = Instrument(
            name="other", time_keywords=(("DATE-OBS", "UT"), "UT", "MJD"), time_marks="end", cameras={"1": ()},
            time_scale="gps", ra_unit="deg", default_gain=1.0, default_filter="g", default_binning=1, extension="SCI",
        )  # fmt: skip
        self.instruments = OPTICAM_MX(), other, OPTICAM_MX(extension=1)
        with (work / "current").open("w+b") as file:
            file.truncate(_LARGEST_INPUT + 64)
            self.current = mmap.mmap(file.fileno(), 0)

    def __call__(self, data: bytes) -> None:
        """Run one input."""
        data = bytes(data[:_LARGEST_INPUT])
        self.n_inputs += 1
        # The watching process reads these bytes when this one dies: count, length, input.
        self.current[:16] = self.n_inputs.to_bytes(8, "little") + len(data).to_bytes(8, "little")
        self.current[16 : 16 + len(data)] = data
        self.file.write_bytes(data)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, _SECONDS)
        try:
            self._try(self.instruments[sum(data[-500:]) % len(self.instruments)])
        except (Exception, _Slow) as error:  # noqa: BLE001 - that is what is looked for
            _keep(self.findings, data, _place(error), traceback.format_exc())
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if time.monotonic() - began > _SECONDS:
            _keep(self.findings, data, "slow", f"{time.monotonic() - began:.1f} s")
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if after - before > 1 << 18:
            _keep(self.findings, data, "memory", f"{after - before} kB more than before")

    def _try(self, instrument: Any) -> None:
        from opticam_dask.frames.scanning import FitsReader, FrameError, read_header, scan

        found = scan([self.file], instrument, n_threads=1)
        assert len(found.table) + len(found.set_aside) >= 1
        if len(found.table):
            names = ["mjd_utc", "exposure_time", "gain", "dark_current", "binning"]
            mjd, *numbers = (float(found.table[name].to_numpy()[0]) for name in names)
            assert np.isfinite(numbers).all(), f"a usable frame without {numbers}"
            assert numbers[1] > 0, "a usable frame without gain"
            assert 40586 < mjd < 88071, mjd
            assert 1 <= numbers[3] < 10000, numbers[3]
        reasons = [reason for _, reason in found.set_aside]
        try:
            header = read_header(self.file, instrument.extension)
            pixels = FitsReader(instrument.extension).read(self.file)
            assert pixels.shape == header.shape, (pixels.shape, header.shape)
            assert pixels.dtype == header.dtype, (pixels.dtype, header.dtype)
            assert pixels.dtype.isnative
        except FrameError as error:
            reasons.append(error.reason)
        for reason in reasons:
            assert 5 < len(reason) < 3000, "a reason that nobody can read"
            assert reason.isprintable(), "a reason that does not fit into a line"


def _place(error: BaseException) -> str:
    """Type of an error and the last line of this package that it came through."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "opticam_dask" in f.filename]
    last = frames[-1] if frames else traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} {Path(last.filename).name} {last.lineno}"


def _keep(findings: Path, data: bytes, place: str, text: str) -> None:
    """Save one input of each place, the smallest that was seen."""
    name = place.replace(" ", "_").strip("_")
    file = findings / f"{name}.bin"
    if file.exists() and file.stat().st_size <= len(data):
        return
    file.write_bytes(data)
    file.with_suffix(".txt").write_text(f"{place}\nsha256 {hashlib.sha256(data).hexdigest()}\n{text}\n")
    print(f"finding: {name}", flush=True)


# ---------------------------------------------------------------- processes


def work_on(options: argparse.Namespace) -> None:
    """Run inputs until the time is over; the process that is watched."""
    resource.setrlimit(resource.RLIMIT_AS, (6 * _MEMORY, 6 * _MEMORY))
    warnings.simplefilter("error")
    signal.signal(signal.SIGALRM, _raise_slow)
    if atheris is not None:
        with atheris.instrument_imports(include=["opticam_dask.frames.fits_files", "opticam_dask.frames.instruments"]):
            import opticam_dask.frames.scanning
        atheris.instrument_func(opticam_dask.frames.scanning._scan_file)
    for name in ("pandas", "opticam_dask.frames.scanning"):  # which are no part of the time of the first input
        importlib.import_module(name)
    trial = Trial(options.findings, options.work)
    files = good_files()
    for data in files.values():
        trial(data)
    if atheris is None or options.inputs:
        _plain_loop(trial, list(files.values()), options)
        return
    corpus = options.work / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, data in enumerate(files.values()):
        (corpus / f"good{number}").write_bytes(data)

    def custom_mutator(data: bytes, max_size: int, seed: int) -> bytes:
        return mutate(data, random.Random(seed), lambda part: atheris.Mutate(part, _LARGEST_INPUT))[:max_size]

    arguments = [f"-max_len={_LARGEST_INPUT}", "-len_control=0", "-rss_limit_mb=0", "-timeout=0", "-verbosity=0"]
    arguments += [f"-max_total_time={max(1, int(options.minutes * 60))}", f"-seed={options.seed}", str(corpus)]
    atheris.Setup([sys.argv[0], *arguments], trial, custom_mutator=custom_mutator)
    atheris.Fuzz()


def _plain_loop(trial: Trial, files: list[bytes], options: argparse.Namespace) -> None:
    rng = random.Random(options.seed)
    end = time.monotonic() + 60 * options.minutes
    n_inputs = 0
    while time.monotonic() < end and n_inputs != options.inputs:
        trial(mutate(rng.choice(files), random.Random(rng.getrandbits(32))))
        n_inputs += 1


def _raise_slow(*_: object) -> None:
    raise _Slow


def watch(options: argparse.Namespace) -> int:
    """Start the working process again and again until the time is over; return the number of findings."""
    for directory in (options.findings, options.work):
        directory.mkdir(parents=True, exist_ok=True)
    end, n_inputs, seed = time.monotonic() + 60 * options.minutes, 0, options.seed
    while (left := end - time.monotonic()) > 1:
        current = options.work / "current"
        current.unlink(missing_ok=True)
        command = [sys.executable, __file__, "--child", "--minutes", str(left / 60), "--seed", str(seed)]
        command += ["--findings", str(options.findings), "--work", str(options.work), "--inputs", str(options.inputs)]
        child = subprocess.Popen(command)
        died = _wait(child, current, left + 60)
        count, data = _read_current(current)
        n_inputs, seed = n_inputs + count, seed + 1
        if died:
            _keep(options.findings, data, died, f"input {count} of the run with seed {seed - 1}")
        elif options.inputs:
            break
        print(f"{n_inputs} inputs, {max(0.0, end - time.monotonic()) / 60:.1f} minutes left", flush=True)
    shutil.rmtree(options.work)
    n_findings = len(list(options.findings.glob("*.bin")))
    print(f"{n_inputs} inputs, seed {options.seed}: {n_findings} finding(s)")
    return n_findings


def _wait(child: subprocess.Popen[bytes], current: Path, seconds: float) -> str:
    """Wait for the process; a word for how it died, empty when it ended well."""
    seen, since = -1, time.monotonic()
    end = since + seconds
    while child.poll() is None:
        time.sleep(0.5)
        count, _ = _read_current(current)
        if count != seen:
            seen, since = count, time.monotonic()
        if time.monotonic() - since > _SILENCE or time.monotonic() > end:
            child.kill()
            child.wait()
            return "hang"
        if _resident(child.pid) > _MEMORY:
            child.kill()
            child.wait()
            return "too much memory"
    return "" if child.returncode == 0 else f"died with {child.returncode}"


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _read_current(current: Path) -> tuple[int, bytes]:
    """How many inputs were run, and the last one."""
    content = current.read_bytes() if current.exists() else bytes(16)
    size = int.from_bytes(content[8:16], "little")
    return int.from_bytes(content[:8], "little"), content[16 : 16 + size]


def main() -> int:
    """Run the command line; exit status 1 when something was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--inputs", type=int, default=0, help="so many inputs, without atheris: the same ones each time"
    )
    parser.add_argument("--findings", type=Path, default=Path("findings"))
    parser.add_argument("--work", type=Path, help="scratch directory (in memory when possible)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work is None:
        options.work = Path("/dev/shm" if os.path.isdir("/dev/shm") else ".") / f"fuzz_reader.{os.getpid()}"
    if options.child:
        work_on(options)
        return 0
    return 1 if watch(options) else 0


if __name__ == "__main__":
    sys.exit(main())
