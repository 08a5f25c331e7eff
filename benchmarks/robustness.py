"""What a run survives: workers killed at random, and kill -9 of everything, each checked bit for bit.

    python benchmarks/robustness.py workers --frames 4000 --kills 20
    python benchmarks/robustness.py everything --frames 4000 --kills 20

``workers`` kills a worker process of a running reduction again and again; ``everything`` kills the client and all its
workers, and starts the same reduction again each time. The moments are random, but spread over the frames of the run,
so that a fast machine is tried as often as a slow one. Both compare the store with that of an unbroken run and count
the frames that were read more often than there.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import random
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil

from opticam_dask import simulate_observations
from opticam_dask.cluster import connections, executors
from opticam_dask.frames import scanning
from opticam_dask.frames.instruments import OPTICAM_MX
from opticam_dask.methods.photometers import AperturePhotometer
from opticam_dask.parameters import ReductionParameters
from opticam_dask.pipeline import driver
from opticam_dask.store import integrity, ownership
from opticam_dask.store.store import Store

#: Small blocks: what a kill costs is the blocks under way.
FRAMES_PER_BLOCK = 8


@dataclass(frozen=True)
class CountingReader:
    """Reads frames, and adds a byte to a file for each, from whatever process it runs in."""

    log: str

    def read(self, path):
        """Read the pixels of one frame."""
        handle = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, b".")
        os.close(handle)
        return scanning.FitsReader().read(path)


def reduce(data: Path, out: Path, log: Path, n_workers: int, killer=None) -> None:
    """Reduce on a local cluster, and count the frames read."""
    parameters = ReductionParameters(n_pixels=5, border_width=4)
    setup = driver.Setup(
        out, OPTICAM_MX(), parameters, reader=CountingReader(str(log)), frames_per_block=FRAMES_PER_BLOCK
    )
    out.mkdir(exist_ok=True)
    with ownership.own(out), connections.local_client(n_workers, dashboard=False) as client:
        executor = executors.OnCluster(client, is_local=True)
        driver.prepare(setup, scanning.scan(scanning.find_files(data), setup.instrument))
        with killer(client) if killer else contextlib.nullcontext():
            driver.drive(driver.Run(setup, executor), driver.TO_CATALOGS)
            driver.drive(
                driver.Run(setup, executor, photometers={"aperture": AperturePhotometer()}), driver.TO_LIGHT_CURVES
            )
        driver.finish(setup)


class WorkerKiller:
    """Kills a worker process each time a goal of frames was read while the block runs; its nanny starts another."""

    def __init__(self, log: Path, goals: list[float], chance: random.Random) -> None:
        self.log, self.goals, self.chance, self.n_kills = log, goals, chance, 0

    @contextlib.contextmanager
    def __call__(self, client):
        """Kill while the block runs."""
        stop = threading.Event()
        thread = threading.Thread(target=self._kill_until, args=(stop,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _kill_until(self, stop):
        while self.n_kills < len(self.goals) and not stop.wait(0.02):
            if _n_reads(self.log) >= self.goals[self.n_kills] and (workers := _worker_processes()):
                with contextlib.suppress(psutil.NoSuchProcess):
                    self.chance.choice(workers).kill()
                    self.n_kills += 1


def _worker_processes():
    """Processes that compute: children of the nannies, which are programs started by this process."""
    found = []
    for program in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [child for child in program.children() if "spawn_main" in " ".join(child.cmdline())]
    return found


def kill_workers(options) -> dict[str, float]:
    """Workers killed at random through one run."""
    with _unbroken_run(options) as (data, unbroken, out):
        chance, begun = random.Random(options.seed), time.monotonic()
        killer = WorkerKiller(_reads(out), _goals(unbroken, options.kills, chance), chance)
        reduce(data, out, _reads(out), options.workers, killer)
        return _judge(unbroken, out, options.frames, killer.n_kills, time.monotonic() - begun)


def kill_everything(options) -> dict[str, float]:
    """The whole run killed at random moments, and started again."""
    with _unbroken_run(options) as (data, unbroken, out):
        command = [sys.executable, __file__, "reduce", data, out, _reads(out), "--workers", str(options.workers)]
        chance, n_kills, begun = random.Random(options.seed), 0, time.monotonic()
        goals = [*_goals(unbroken, options.kills, chance), None]
        while True:
            process = subprocess.Popen(command)
            if not _wait(process, _reads(out), goals[n_kills], chance):
                if process.returncode:
                    raise SystemExit(f"the run ended with exit status {process.returncode}")
                break
            _kill_tree(process)
            n_kills += 1
        return _judge(unbroken, out, options.frames, n_kills, time.monotonic() - begun)


def _goals(unbroken: Path, n_kills: int, chance: random.Random) -> list[float]:
    """Numbers of frames read at which to kill: one at random in each of equal parts of what an unbroken run reads."""
    return [_n_reads(_reads(unbroken)) * (i + chance.random()) / n_kills for i in range(n_kills)]


def _wait(process, log, goal, chance) -> bool:
    """Wait until the run has read so many frames and a moment more; say whether it is still alive to be killed."""
    while process.poll() is None:
        if goal is not None and _n_reads(log) >= goal:
            time.sleep(chance.uniform(0.0, 0.5))
            return process.poll() is None
        time.sleep(0.02)
    return False


def _kill_tree(process) -> None:
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()


@contextlib.contextmanager
def _unbroken_run(options):
    """Frames, an unbroken reduction of them, and a place for one that is broken; a directory that is given is kept."""
    with tempfile.TemporaryDirectory(prefix="robustness-") as temporary:
        directory = options.directory or Path(temporary)
        data, unbroken = directory / "data", directory / "unbroken"
        if not data.exists():
            simulate_observations(
                data, n_frames=options.frames, shape=(96, 112), n_sources=6, filters=("g",), flux_range=(4e3, 1e5),
                fwhm=3.0, least_separation=6.0, seed=5,
            )  # fmt: skip
            reduce(data, unbroken, _reads(unbroken), options.workers)
        yield data, unbroken, directory / options.command


def _reads(out: Path) -> Path:
    """File with a byte for each frame that was read for a reduction."""
    return out.with_name(f"{out.name}-reads")


def _n_reads(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def _judge(unbroken, out, n_frames, n_kills, seconds):
    differences = integrity.compare(Store.at(unbroken).path, Store.at(out).path)
    redone = _n_reads(_reads(out)) / _n_reads(_reads(unbroken)) - 1.0
    print(f"python {platform.python_version()}, dask {metadata.version('dask')}, {os.cpu_count()} cores")
    print(f"{n_frames} frames, {n_kills} kills survived in {seconds:.0f} s, {100 * redone:.2f} % of the reads redone")
    print("the store is bit for bit that of an unbroken run" if not differences else "\n".join(differences))
    if differences:
        raise SystemExit(1)
    return {"frames": n_frames, "kills": n_kills, "redone": redone}


def main(arguments=None) -> dict[str, float] | None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function in (("workers", kill_workers), ("everything", kill_everything)):
        command = commands.add_parser(name)
        command.set_defaults(function=function)
        command.add_argument("--frames", type=int, default=4000)
        command.add_argument("--workers", type=int, default=2)
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--directory", type=Path, help="where frames and an unbroken run of before are, or go")
        command.add_argument("--kills", type=int, default=20, help="kills through the run")
    one_run = commands.add_parser("reduce", help="one run, as it is killed by 'everything'")
    for name in ("data", "out", "log"):
        one_run.add_argument(name, type=Path)
    one_run.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    if options.command == "reduce":
        reduce(options.data, options.out, options.log, options.workers)
        return None
    return options.function(options)


if __name__ == "__main__":
    main()
