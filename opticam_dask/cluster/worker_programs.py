"""Workers of a local cluster as separate programs, neither forked nor spawned from the user's script."""

from __future__ import annotations

import asyncio
import json
import os
import sys

import dask
from distributed.deploy.subprocess import SubprocessWorker

from opticam_dask.cluster.cluster_settings import MEMORY_ENVIRONMENT, import_environment


class WorkerProgram(SubprocessWorker):
    """A worker as a separate program in a separate session: Ctrl-C reaches this process only, which ends the worker."""

    async def _start(self) -> None:
        spec = json.dumps({"cls": self.worker_class, "opts": self.worker_kwargs})
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dask", "spec", self.scheduler, "--spec", spec),
            env=_program_environment(),
            start_new_session=True,
        )


def _program_environment() -> dict[str, str]:
    """Environment of a worker program: it imports what this process can, and has the same Dask configuration."""
    before_start = {**dask.config.get("distributed.nanny.pre-spawn-environ"), **MEMORY_ENVIRONMENT}
    with dask.config.set({"distributed.nanny.pre-spawn-environ": before_start}):
        configuration = dask.config.serialize(dask.config.global_config)
    return {
        **os.environ,
        **import_environment(),
        "DASK_INTERNAL_INHERIT_CONFIG": configuration,
    }
