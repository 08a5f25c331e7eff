"""The command that reduces frames at once: reduce."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from opticam_dask import console
from opticam_dask.cli import options as given
from opticam_dask.cli.exit_codes import DONE, UsageError
from opticam_dask.cluster.cluster_settings import INSIDE, SYSTEMS
from opticam_dask.console import tell
from opticam_dask.parameters import ReductionParameters

if TYPE_CHECKING:
    from opticam_dask.api.reducer import Reducer
    from opticam_dask.api.session import Session
    from opticam_dask.cluster.connections import Connection
    from opticam_dask.methods.photometers import BasePhotometer


def reduce(options: argparse.Namespace) -> int:
    """Reduce frames to catalogues and light curves."""
    parameters = given.parameters(options)
    if is_to_submit(options):
        given.photometers(options)
        return submit_inside(options)
    # the rooms of a reduction take a second or two to import: nobody is to wonder whether anything happens
    begun = f"Reducing {', '.join(options.data)} to {options.out}."
    tell(begun)
    photometers = given.photometers(options)
    with contextlib.closing(given.connect(options, options.out)) as place:
        if place.is_local:  # before the session, whose threads a process that forks must not have
            _begin(options, place)
        with given.session(options, place) as session:
            console.logger.info(begun)  # the log is opened with the session
            _begin(options, place)
            return run_reduction(options, session, parameters, photometers)


def _begin(options: argparse.Namespace, place: Connection) -> None:
    """Start workers while rooms are imported and headers are read; with a store there may be no work for them."""
    from opticam_dask.store.store import Store

    if options.new or not Store.at(options.out).exists():
        place.begin()


def run_reduction(
    options: argparse.Namespace,
    session: Session,
    parameters: ReductionParameters,
    photometers: Sequence[BasePhotometer],
) -> int:
    """Reduce the frames of a command, and say how far the reduction is."""
    from opticam_dask.display import status
    from opticam_dask.pipeline.driver import Changes

    changes = Changes(options.new, options.append, tuple(options.redo), options.rebuild_reference)
    reduction = reducer(options, parameters, session)
    reduction.reduce(photometers, label=options.label, parameters=parameters, changes=changes)
    for line in status.describe_reduction(options.out, n_problems=5):
        tell(line)
    return DONE


#: Parameters of the reduction that the constructor of ``Reducer`` takes.
_CONSTRUCTOR = (
    "threshold",
    "barycenter",
    "rebin_factor",
    "remove_cosmic_rays",
    "target_coord",
    "flats_of_other_filters",
)


#: Where on the sky the cameras looked.
_SKY = ("sky_catalog", "sky_epoch", "wcs")


def sky_files(options: argparse.Namespace) -> dict[str, Any]:
    """Files by which catalogues are found on the sky, as far as they were given."""
    return {name: value for name in _SKY if (value := getattr(options, name))}


def reducer(options: argparse.Namespace, parameters: ReductionParameters, session: Session) -> Reducer:
    """Reduction of the frames of a command."""
    from opticam_dask.api.reducer import Reducer
    from opticam_dask.passes.calibration import KINDS, PLURAL

    instrument = given.instrument(options)
    given.sort_calibration(options, instrument)
    return Reducer(
        options.out,
        options.data,
        instrument=instrument,
        session=session,
        frames_per_block=options.frames_per_block,
        figures=getattr(options, "figures", None) is not False,  # plan, which draws nothing, has no such option
        show_plots=False,
        parameters=None if options.new else parameters,
        sources=options.sources,
        moving=options.moving,
        **sky_files(options),
        **{PLURAL[kind]: getattr(options, PLURAL[kind]) for kind in KINDS},
        **{name: getattr(parameters, name) for name in _CONSTRUCTOR},
    )


def is_to_submit(options: argparse.Namespace) -> bool:
    """Whether a command is to run as a job of its own, and does not yet."""
    return bool(options.inside) and not os.environ.get(INSIDE)


def submit_inside(options: argparse.Namespace) -> int:
    """Submit this very command as a job."""
    from opticam_dask.cluster import job_queues, job_scripts

    settings = given.settings(options)
    if not settings.is_batch:
        raise UsageError(f"--inside needs a batch system ({', '.join(SYSTEMS)}), got {settings.cluster!r}")
    job_queues.JobQueue(settings)  # refuses now what the job would refuse
    command = [sys.executable, "-m", "opticam_dask.cli", *options.arguments]
    _, lines = job_scripts.submit_inside(settings, command, given.job_logs(options.out))
    for line in lines:
        tell(line)
    tell(f"How far?    opticam-dask status {shlex.quote(options.out)}")
    return DONE


#: Commands of this module by name.
COMMANDS = {"reduce": reduce}
