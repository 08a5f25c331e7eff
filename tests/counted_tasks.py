"""Tasks that a scheduler of Dask hands out, counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import distributed


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
