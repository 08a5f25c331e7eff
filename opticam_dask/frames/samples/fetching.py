"""Sample frames: fetched once from where they are published, checked, and kept; simulated where there is no network."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from opticam_dask import locations
from opticam_dask.frames.simulation import synthetic

#: Directory that fetched frames are kept in, where it is set.
CACHE_VARIABLE = "OPTICAM_DASK_SAMPLES"
#: What is made where nothing can be fetched.
SIMULATED = "simulated"
_TIMEOUT = 30.0  # s without an answer
_LARGEST_FILE = 1 << 27  # bytes; no sample has a larger one
_N_SIMULATED = 20  # frames of each camera


class PublishedFrames(NamedTuple):
    """Published frames.

    Attributes
    ----------
    url : str
        Directory that the files are below, at one state of them.
    instrument : str
        Definition that reads them.
    sentence : str
        What the frames show, and who took them.
    """

    url: str
    instrument: str
    sentence: str


SAMPLES = {
    "hat-p-32": PublishedFrames(
        "https://raw.githubusercontent.com/rzellem/EXOTIC_sampledata/e48fda38ff0d245d961369528f1ab71cd643de22/"
        "HatP32Dec202017",
        "microobservatory",
        "a transit of HAT-P-32 b, 142 frames of 2017-12-20 by the 6-inch MicroObservatory telescope (93 MB; sample "
        "data of the EXOTIC code, whose they are).",
    )
}


class SampleError(OSError):
    """Sample frames cannot be fetched, or are not those that were published."""


def fetch_sample(
    name: str = "hat-p-32",
    directory: str | Path | None = None,
    *,
    url: str | None = None,
    simulate: bool = True,
    tell: Callable[[str], None] = print,
) -> Path:
    """Fetch sample frames, or find them where they were fetched before.

    Every file is held against its SHA-256, so that what comes is what was published, and what was cut short is fetched
    again.

    Parameters
    ----------
    name : str
        ``hat-p-32``, or ``simulated``, which needs no network.
    directory : path, optional
        Where frames are kept, in a directory of the name; by default that of the variable ``OPTICAM_DASK_SAMPLES``,
        else the user's cache.
    url : str, optional
        Another place with the same files.
    simulate : bool
        Whether frames are simulated where these cannot be fetched; that is told.
    tell : callable
        Called with each line of what happens.

    Returns
    -------
    pathlib.Path
        Directory with the frames.

    Raises
    ------
    ValueError
        When there is no sample of this name.
    SampleError
        When a file is not the one that was published, or cannot be fetched and none are to be simulated.
    """
    root = _cache() if directory is None else Path(directory)
    if name == SIMULATED:
        return _simulated(root)
    if name not in SAMPLES:
        raise ValueError(f"expected one of {', '.join((*SAMPLES, SIMULATED))}, got {name!r}")
    wanted, place = _wanted(name), root / name
    missing = [file for file, digest in wanted.items() if _digest_of(place / file) != digest]
    if not missing:
        return place
    tell(f"Fetching {len(missing)} file(s) to {place}: {SAMPLES[name].sentence}")
    try:
        for file in missing:
            _fetch(f"{url or SAMPLES[name].url}/{file}", place / file, wanted[file])
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = f"{name} cannot be fetched ({getattr(error, 'reason', None) or error})"
        if not simulate:
            raise SampleError(f"{reason}; what came is kept, and the same call goes on") from error
        tell(f"{reason}: simulated frames take their place.")
        return _simulated(root)
    return place


def _cache() -> Path:
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "opticam_dask"


def _wanted(name: str) -> dict[str, str]:
    """SHA-256 of each file of a sample, by its name."""
    lines = resources.files("opticam_dask.frames.samples").joinpath(f"{name}.txt").read_text(encoding="utf-8")
    pairs = (line.split() for line in lines.splitlines())
    return {file: digest for digest, file in pairs}


def _digest_of(file: Path) -> str:
    """SHA-256 of a file; empty where there is none."""
    with contextlib.suppress(FileNotFoundError), file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
    return ""


def _fetch(url: str, file: Path, digest: str) -> None:
    """Fetch one file; it gets its name once it is complete."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
        content = answer.read(_LARGEST_FILE)
        if answer.length and len(content) < _LARGEST_FILE:  # what is still to come of it
            raise http.client.IncompleteRead(content, answer.length)
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise SampleError(
            f"{url} is not the file that was published: SHA-256 {digest[:12]}... expected, {found[:12]}..."
        )
    with locations.replacing(file) as temporary:
        temporary.write_bytes(content)


def _simulated(root: Path) -> Path:
    """Simulated frames, made unless they are there."""
    place = root / SIMULATED
    if len(list(place.glob("*.fit*"))) < 3 * _N_SIMULATED:
        root.mkdir(parents=True, exist_ok=True)
        # frames that are still being written never count
        with tempfile.TemporaryDirectory(prefix=f".{SIMULATED}-", dir=root) as partial:
            synthetic.generate_observations(partial, n_images=_N_SIMULATED)
            place.mkdir(exist_ok=True)
            for file in sorted(Path(partial).iterdir()):
                os.replace(file, place / file.name)
    return place
