"""Fixed costs: a night of three cameras, the same again, and the commands that read what is there, side by side.

python benchmarks/small_night.py --record

Wall and processor time of whole commands as a person starts them, with all their processes, medians of some rounds.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from common import record

from opticam_dask import generate_observations

#: What the kernel calls the wish to adopt processes whose parents have ended (prctl, PR_SET_CHILD_SUBREAPER).
_ADOPT = 36


class Cost(NamedTuple):
    """Seconds on the clock, and of processors in all processes of a command."""

    wall: float
    processor: float


def adopt() -> None:
    """Become the parent of processes whose own has ended: what the workers of a command took is counted as well."""
    ctypes.CDLL(None).prctl(_ADOPT, 1, 0, 0, 0)


def cost_of(*arguments: object) -> Cost:
    """Run a command to its end and that of all its processes.

    Raises
    ------
    RuntimeError
        When it fails.
    """
    before, began = os.times(), time.perf_counter()
    command = [sys.executable, "-m", "opticam_dask.cli", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, said = process.communicate()
    wall = time.perf_counter() - began
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: {said.decode()}")
    while _has_child():
        time.sleep(0.01)
    after = os.times()
    return Cost(wall, after.children_user + after.children_system - before.children_user - before.children_system)


def _has_child() -> bool:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def commands(frames: Path, out: Path, demo: Path, n_demo: int) -> dict[str, tuple[object, ...]]:
    """Arguments of each command by its name in the table, in the order in which they run."""
    night = ("reduce", frames, "--out", out, "--workers", 2)
    return {
        "help": ("--help",),
        "check": ("check", frames),
        "reduce, two workers": night,
        "reduce, nothing to do": night,
        "reduce --cluster none": ("reduce", frames, "--out", f"{out}-none", "--cluster", "none"),
        "status": ("status", out),
        "verify": ("verify", out),
        "lightcurve": ("lightcurve", out, "--target", 2, "--comparisons", 1, 3),
        "export": ("export", out, "--format", "csv"),
        f"demo, {n_demo} frames a camera": ("demo", demo, "--n-images", n_demo),
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, Cost]:
    """Run all commands some times, each time on directories of its own; medians by name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=91, help="frames of each of the three cameras")
    parser.add_argument("--binning", type=int, default=4, help="of 2048 x 2048 pixels")
    parser.add_argument("--demo", type=int, default=100, help="frames of each camera in the demonstration")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, of which the median counts")
    parser.add_argument("--commands", nargs="+", help="names of the table that are run (all of them)")
    parser.add_argument("--record", action="store_true", help="put the table into results.md")
    chosen = parser.parse_args(arguments)
    adopt()
    found: dict[str, list[Cost]] = {}
    with tempfile.TemporaryDirectory() as folder:
        frames = Path(folder, "frames")
        generate_observations(frames, chosen.frames, binning_scale=chosen.binning)
        for number in range(chosen.rounds):
            place = Path(folder, f"round{number}")
            place.mkdir()
            for name, given in commands(frames, place / "out", place / "demo", chosen.demo).items():
                if chosen.commands and name.partition(",")[0] not in chosen.commands:
                    continue
                found.setdefault(name, []).append(cost_of(*given))
            shutil.rmtree(place)
    medians = {name: Cost(*map(statistics.median, zip(*costs, strict=True))) for name, costs in found.items()}
    side = 2048 // chosen.binning
    rows = [
        {"command": name, "wall, s": f"{cost.wall:.2f}", "processor, s": f"{cost.processor:.2f}"}
        for name, cost in medians.items()
    ]
    record(
        "Fixed costs of a small night",
        "python benchmarks/small_night.py --record",
        rows,
        ("opticam-dask", "numpy", "scipy", "astropy", "dask", "distributed", "zarr", "matplotlib"),
        f"{3 * chosen.frames} frames of {side} x {side}, three cameras; figures and files included; medians of "
        f"{chosen.rounds} rounds; processor time is that of all processes of a command.",
        **({} if chosen.record else {"to": None}),
    )
    return medians


if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    main()
