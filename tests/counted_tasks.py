"""Tasks that a scheduler of Dask hands out, and reads of frames, counted."""

from __future__ import annotations

import collections
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import distributed

from opticam_dask import FitsReader


class CountTasks(distributed.SchedulerPlugin):
    """Remembers the tasks that were begun."""

    def __init__(self) -> None:
        self.seen = set()

    def transition(self, key, start, finish, *args, **kwargs) -> None:
        if finish == "processing":
            self.seen.add(key)


@contextmanager
def tasks_of(client: distributed.Client) -> Iterator[set]:
    """Keys of the tasks that are begun within the block; they are known at its end."""
    seen = set()
    client.register_plugin(CountTasks(), name="count-tasks")
    yield seen
    seen |= client.run_on_scheduler(lambda dask_scheduler: set(dask_scheduler.plugins["count-tasks"].seen))
    client.unregister_scheduler_plugin("count-tasks")


@dataclass(frozen=True)
class LoggingReader:
    """Reads frames and notes each read in a file, from whatever process it runs in."""

    log: str

    def read(self, path):
        handle = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{os.path.basename(path)}\n".encode())
        os.close(handle)
        return FitsReader().read(path)

    @property
    def reads(self) -> collections.Counter:
        """How often each frame was read."""
        return (
            collections.Counter(Path(self.log).read_text().split())
            if os.path.exists(self.log)
            else collections.Counter()
        )
