"""What the benchmarks share: frames, facts about the machine, and the table of results."""

from __future__ import annotations

import os
import platform
import re
import resource
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path

import numpy as np

from opticam_dask.frames.simulation.field_model import FieldModel
from opticam_dask.frames.simulation.simulated_fields import expected_electrons, field_truth
from opticam_dask.frames.simulation.synthetic import write_frame

RESULTS = Path(__file__).with_name("results.md")

#: Pixels by which the field of a made frame is moved: cheap to draw, and new to whoever aligns it.
_DITHER = 3


def write_frames(
    directory: Path, shape: tuple[int, int], n_sources: int, n_frames: int, *, compress: bool = False, seed: int = 0
) -> list[Path]:
    """Write frames of a field of Moffat stars, each with noise and a pointing of its own; those there are kept.

    Four pointings, apart by parts of a pixel, are drawn; frames are these, moved by whole pixels, with new noise.
    """
    directory.mkdir(parents=True, exist_ok=True)
    model = FieldModel(
        n_frames=4, shape=shape, n_sources=n_sources, filters=("g",), fwhm=4.0, flux_range=(1e3, 3e5),
        least_separation=1.5, jitter=0.7, sky=200.0, sky_gradient=0.2,
    )  # fmt: skip
    truth = field_truth(model, seed)
    pointings = [expected_electrons(model, truth, 0, index) for index in range(model.n_frames)]
    start = datetime(2024, 1, 1, 3, tzinfo=UTC)
    files = []
    for index in range(n_frames):
        path = directory / f"240101g{200_000_000 + index}o.fits{'.gz' if compress else ''}"
        files.append(path)
        if path.exists():
            continue
        rng = np.random.default_rng([seed, index])
        moved = np.roll(pointings[index % len(pointings)], rng.integers(-_DITHER, _DITHER + 1, 2), axis=(0, 1))
        # the normal approximation of some hundred photons and more is drawn three times as fast
        electrons = moved + np.sqrt(moved) * rng.standard_normal(shape, dtype=np.float32)
        image = np.clip(np.rint(electrons + 100.0), 0, 65535).astype(np.uint16)
        moment = start + timedelta(seconds=6.0 * index)
        header = {
            "FILTER": "g", "BINNING": f"{max(1, 2048 // shape[0])}x{max(1, 2048 // shape[0])}", "GAIN": 1.0,
            "EXPOSURE": 5.0, "DARKCURR": 0.0, "SATLEVEL": 65535.0, "INSTRUME": "OPTICAM", "RA": "03:30:00.0",
            "DEC": "+20:00:00.0", "UT": moment.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3],
        }  # fmt: skip
        write_frame(path, image, header)
    return files


def n_stars(side: int) -> int:
    """Stars of a square field: 500 in 2048 x 2048 pixels, and as dense in smaller ones, but enough to be aligned."""
    return max(20, round(500 * (side / 2048) ** 2))


def best_of(function: Callable[[], object], n_runs: int = 7) -> float:
    """Shortest time of several runs in seconds: what else the machine does only adds to it."""
    times = []
    for _ in range(n_runs):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def peak_memory(who: int = resource.RUSAGE_SELF) -> float:
    """Largest resident memory so far, in MB."""
    return resource.getrusage(who).ru_maxrss / 1024.0


def machine() -> str:
    """Processor, its number of cores, and the system, in one line."""
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            found = re.search(r"model name\s*:\s*(.+)", stream.read())
            name = found[1] if found else name
    return (
        f"{name}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def versions(packages: Iterable[str]) -> str:
    """Names and versions of packages, in one line."""
    return ", ".join(f"{name} {metadata.version(name)}" for name in packages)


def record(
    title: str,
    command: str,
    rows: list[Mapping[str, object]],
    packages: Iterable[str],
    notes: str = "",
    to: Path | None = RESULTS,
) -> None:
    """Print a table, and put it into the file of results in place of an earlier one of the same title."""
    names = list(rows[0])
    lines = [f"| {' | '.join(names)} |", f"|{'|'.join(' --- ' for _ in names)}|"]
    lines += [f"| {' | '.join(str(row[name]) for name in names)} |" for row in rows]
    facts = f"{datetime.now(UTC):%Y-%m-%d}, {machine()}; {versions(packages)}"
    text = "\n".join([f"## {title}", "", f"`{command}`", "", facts, "", *lines, *(["", notes] if notes else []), ""])
    print(text)
    if to is None:
        return
    before = (
        to.read_text(encoding="utf-8")
        if to.exists()
        else "# Measurements\n\nWritten by the benchmarks beside this file.\n"
    )
    parts = re.split(r"(?m)^(?=## )", before)
    kept = [part.rstrip() + "\n" for part in parts if not part.startswith(f"## {title}\n")]
    kept = [kept[0], *sorted([*kept[1:], text])]
    to.write_text("\n".join(kept), encoding="utf-8")
