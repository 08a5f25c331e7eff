"""A scheduler and workers as processes of their own, and what they use: the benchmarks of scaling share these."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from distributed import Client

from opticam_dask.cluster.cluster_settings import (
    MEMORY_ENVIRONMENT,
    SINGLE_THREAD_ENVIRONMENT,
    UPKEEP_SETTINGS,
    as_environment,
)

#: Seconds between looks at the memory of a process.
_LOOK = 0.1


@dataclass
class Usage:
    """Processor time (seconds) of a process from a moment on, and its largest resident memory (MB) since."""

    process: psutil.Process
    began: float = 0.0
    peak: float = 0.0

    def begin(self) -> None:
        """Forget what was before."""
        self.began, self.peak = self._seconds(), 0.0
        self.look()

    def look(self) -> None:
        """Look at the memory."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.peak = max(self.peak, self.process.memory_info().rss / 2**20)

    def seconds(self) -> float:
        """Processor time since `begin`."""
        return self._seconds() - self.began

    def _seconds(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)


@dataclass
class Cluster:
    """A scheduler with workers, and a client in this process."""

    client: Client
    scheduler: Usage
    workers: list[Usage]
    own: Usage = field(default_factory=lambda: Usage(psutil.Process()))

    def begin(self) -> None:
        """Count from now on."""
        for usage in self._all():
            usage.begin()

    def worker_seconds(self) -> float:
        """Processor time of all workers since `begin`."""
        return sum(worker.seconds() for worker in self.workers)

    def worker_memory(self) -> float:
        """Largest resident memory of any worker since `begin`, in MB."""
        return max(worker.peak for worker in self.workers)

    def look_until(self, stop: threading.Event) -> None:
        """Look at the memory of every process now and then."""
        while not stop.wait(_LOOK):
            for usage in self._all():
                usage.look()

    def _all(self) -> list[Usage]:
        return [self.scheduler, self.own, *self.workers]


@contextlib.contextmanager
def cluster(n_workers: int) -> Iterator[Cluster]:
    """Start a scheduler and workers of one thread, set up as this package does, and end them afterwards."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as opened:
        file = Path(name) / "scheduler.json"
        environment = {
            **os.environ, **SINGLE_THREAD_ENVIRONMENT, **MEMORY_ENVIRONMENT, **as_environment(UPKEEP_SETTINGS),
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        }  # fmt: skip
        where = ("--host", "127.0.0.1", "--scheduler-file", str(file), "--no-dashboard")
        scheduler = opened.enter_context(
            _program(("scheduler", *where, "--port", "0", "--idle-timeout", "15 minutes"), environment, name)
        )
        workers = [
            opened.enter_context(
                _program(
                    ("worker", "--scheduler-file", str(file), "--host", "127.0.0.1", "--nthreads", "1", "--no-nanny",
                     "--no-dashboard", "--memory-limit", "0", "--death-timeout", "60", "--local-directory", name),
                    environment, name,
                )
            )
            for _ in range(n_workers)
        ]  # fmt: skip
        _wait_for(file)
        client = opened.enter_context(Client(scheduler_file=str(file), timeout=60))
        client.wait_for_workers(n_workers, timeout=120)
        found = Cluster(client, Usage(scheduler), [Usage(worker) for worker in workers])
        stop = threading.Event()
        watcher = threading.Thread(target=found.look_until, args=(stop,), daemon=True)
        watcher.start()
        try:
            yield found
        finally:
            stop.set()
            watcher.join()


@contextlib.contextmanager
def _program(arguments: tuple[str, ...], environment: Mapping[str, str], directory: str) -> Iterator[psutil.Process]:
    """One Dask program, ended afterwards."""
    started = subprocess.Popen(
        [sys.executable, "-m", "dask", *arguments],
        env=dict(environment), cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield psutil.Process(started.pid)
    finally:
        started.terminate()
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def _wait_for(file: Path, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(OSError, ValueError):
            json.loads(file.read_text(encoding="utf-8"))
            return
        time.sleep(0.05)
    raise TimeoutError(f"no Dask scheduler wrote {file} within {seconds:.0f} s")


def run_alone(file: str, arguments: list[str]) -> dict[str, float]:
    """Run a benchmark file in a process of its own; the last line it prints is what it found, as JSON.

    Its peak of memory is then its own.
    """
    command = [sys.executable, file, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found
