"""Two workers against one, judged by what two independent serial processes gain in the same run.

    python benchmarks/workers.py

Four ways to reduce the same frames to light curves take turns, round after round: a cluster of one worker, a cluster of
two, one process without a cluster, and two such processes at once, each with all the frames. Two processes that know
nothing of each other gain what memory, caches and clock of the machine leave them; two workers should gain as much. All
times are slopes over the number of frames, so that nobody is charged for what is done once a night.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import common
import end_to_end
import numpy as np

from opticam_dask.cluster import connections

#: Numbers of frames, two for each side: whole blocks for every worker.
FRAMES = {512: (256, 1280), 1024: (64, 320), 2048: (64, 160)}


class Serial:
    """A process of its own that reduces what it is told to, without a cluster."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serial"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def begin(self, directory: Path, out: Path) -> None:
        """Tell it to reduce a directory."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{directory}\t{out}\n")
        self.process.stdin.flush()

    def wait(self) -> None:
        """Wait until it is done."""
        assert self.process.stdout is not None
        while (line := self.process.stdout.readline().strip()) != "done":
            if not line and self.process.poll() is not None:
                raise RuntimeError("a serial process has ended")

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def serve() -> None:
    """Reduce one directory after the other, as standard input says."""
    for line in sys.stdin:
        directory, out = line.rstrip("\n").split("\t")
        end_to_end.own(Path(directory), Path(out), "none")
        print("done", flush=True)


@contextlib.contextmanager
def _serial(number: int) -> Iterator[list[Serial]]:
    with contextlib.ExitStack() as opened:
        yield [opened.enter_context(contextlib.closing(Serial())) for _ in range(number)]


def _together(processes: list[Serial], directory: Path, out: Path) -> float:
    """Seconds until all processes have reduced the directory, each into a place of its own."""
    start = time.perf_counter()
    for index, process in enumerate(processes):
        process.begin(directory, out / f"serial-{index}")
    for process in processes:
        process.wait()
    return time.perf_counter() - start


def measure(side: int, numbers: tuple[int, int], n_rounds: int) -> dict[str, str]:
    """One row of the table."""
    with contextlib.ExitStack() as opened:
        directory = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        files = common.write_frames(directory / "frames", (side, side), common.n_stars(side), numbers[1])
        folders = [end_to_end._folder(directory, files[:number]) for number in numbers]
        clients = [opened.enter_context(connections.local_client(n, dashboard=False)) for n in (1, 2)]
        serial = opened.enter_context(_serial(2))
        ways = {
            "one worker": lambda folder: end_to_end.own(folder, directory / "out", clients[0]),
            "two workers": lambda folder: end_to_end.own(folder, directory / "out", clients[1]),
            "one process": lambda folder: _together(serial[:1], folder, directory),
            "two processes": lambda folder: _together(serial, folder, directory),
        }
        for run in list(ways.values())[:2] + list(ways.values())[3:]:
            run(folders[0])  # everybody imports what is needed
        seconds = {name: np.empty((n_rounds, 2)) for name in ways}
        for index in range(n_rounds):
            # every other round backwards: what the machine does meanwhile then falls on all alike
            for name in list(ways) if index % 2 == 0 else reversed(ways):
                seconds[name][index] = [ways[name](folder) for folder in folders]
    return _row(side, numbers, seconds)


def _row(side: int, numbers: tuple[int, int], seconds: dict[str, np.ndarray]) -> dict[str, str]:
    cost = {name: np.diff(values, axis=1)[:, 0] / (numbers[1] - numbers[0]) for name, values in seconds.items()}
    workers, processes = cost["one worker"] / cost["two workers"], 2.0 * cost["one process"] / cost["two processes"]
    return {
        "frames": f"{side} x {side}, {common.n_stars(side)} stars",
        **{f"{name}, ms a frame": f"{1e3 * np.median(values):.2f}" for name, values in cost.items()},
        "gain of two workers": f"{np.median(workers):.2f}",
        "gain of two processes": f"{np.median(processes):.2f}",
        "ratio": f"{np.median(workers / processes):.3f}",
        "ratio of each round": ", ".join(f"{value:.2f}" for value in workers / processes),
        "cluster overhead": f"{100.0 * (np.median(cost['one worker'] / cost['one process']) - 1.0):.1f} %",
    }


def main(arguments: list[str] | None = None) -> list[dict[str, str]]:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--frames", type=int, nargs=2, action="append", help="numbers of frames, for each side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serial", action="store_true", help="serve as one of the serial processes")
    parser.add_argument("--no-record", action="store_true", help="print only")
    chosen = parser.parse_args(arguments)
    if chosen.serial:
        serve()
        return []
    numbers = chosen.frames or [FRAMES[side] for side in chosen.sides]
    rows = [measure(side, (few, many), chosen.rounds) for side, (few, many) in zip(chosen.sides, numbers, strict=True)]
    common.record(
        "Two workers against one",
        "python benchmarks/workers.py",
        rows,
        ("opticam-dask", "dask", "distributed", "zarr", "numpy"),
        f"Medians of {chosen.rounds} rounds of slopes over the numbers of frames. Two processes reduce twice the "
        "frames; their cost is that of the pair. Ratio: gain of two workers over that of two processes. Cluster "
        "overhead: one worker, with client and scheduler, against one process.",
        to=None if chosen.no_record else common.RESULTS,
    )
    return rows


if __name__ == "__main__":
    main()
