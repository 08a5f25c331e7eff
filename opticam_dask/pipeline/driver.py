"""The driver of a reduction: its passes in order, and the one function that runs them.

Each pass reads from the store what is done and does the rest, so that the same call resumes.
"""

from __future__ import annotations

from collections.abc import Sequence

from opticam_dask.pipeline import frozen, nights
from opticam_dask.pipeline.preparation import as_begun, check_parameters, prepare, stored_parameters
from opticam_dask.pipeline.reduction import (
    Changes,
    Outcome,
    Progress,
    ReductionError,
    Setup,
    Silent,
    WrongParameters,
    stage,
)
from opticam_dask.pipeline.run import Pass, Run
from opticam_dask.pipeline.stages.catalogs import find_places, place_sources
from opticam_dask.pipeline.stages.master_frames import make_masters
from opticam_dask.pipeline.stages.photometry import MeasurePass, live_jobs
from opticam_dask.pipeline.stages.profiles import StarProfiles
from opticam_dask.pipeline.stages.references import References
from opticam_dask.pipeline.stages.survey import SurveyPass
from opticam_dask.store.camera import Part
from opticam_dask.store.ownership import check_owner

__all__ = [
    "PASSES",
    "TO_CATALOGS",
    "TO_LIGHT_CURVES",
    "Changes",
    "Outcome",
    "Pass",
    "Progress",
    "ReductionError",
    "Run",
    "Setup",
    "Silent",
    "WrongParameters",
    "as_begun",
    "check_parameters",
    "drive",
    "find_places",
    "finish",
    "live_jobs",
    "make_masters",
    "place_sources",
    "prepare",
    "require_catalog",
    "stage",
    "stored_parameters",
    "undone",
]

#: All passes of a reduction, in order. A further pass is one more object here.
PASSES: tuple[Pass, ...] = (References(), SurveyPass(), StarProfiles(), MeasurePass())

#: The passes that end with catalogues.
TO_CATALOGS = PASSES[:2]
#: The passes that go on from catalogues to light curves.
TO_LIGHT_CURVES = PASSES[2:]

#: Units of some parts; a part may be there with several ranges.
Chosen = Sequence[tuple[Part, range]]


def drive(run: Run, passes: Sequence[Pass] = PASSES, chosen: Chosen | None = None) -> Outcome:
    """Take a run through some passes: do what is not done of each, and finish it.

    Parameters
    ----------
    run : Run
        What the passes work with.
    passes : sequence of Pass
        By default all of them.
    chosen : sequence of (Part, range), optional
        The share of one of several jobs: these units alone are done, and no pass is finished. By default everything is.

    Returns
    -------
    Outcome
        How many frames the last of the passes went over, and what was wrong with frames in any of them.

    Raises
    ------
    ReductionError
        When a pass has nothing to go on from.
    ownership.OwnershipLost
        When another run has taken over the output directory.
    """
    outcome = Outcome()
    for one in passes:
        todo = undone(run, one, chosen)
        outcome = outcome.without_counts()
        with stage(run.progress, one.title, sum(one.n_frames(run, part, units) for part, units in todo)):
            for key, summary in run.while_owned(one.work(run, todo)):
                outcome.add(key, summary)
        if chosen is None:
            for part, units in todo:
                one.finish_part(run, part, is_new=bool(units) or (part.key, part.night) in run.planned)
            one.finish(run)
    return outcome


def undone(run: Run, one: Pass, chosen: Chosen | None = None) -> list[tuple[Part, list[int]]]:
    """Units that a pass has not done, by part, in cameras that it is ready for; of those in ``chosen`` where given."""
    ready = [camera for camera in run.setup.store.cameras if one.is_ready(run, camera)]
    if chosen is None:
        return [(part, one.undone(run, part)) for camera in ready for part in camera.parts]
    return [(part, one.undone(run, part, among)) for part, among in chosen if part.camera in ready]


def require_catalog(setup: Setup) -> None:
    """Refuse photometry where no camera has a catalogue.

    Raises
    ------
    ReductionError
        When there is none; the message says why.
    """
    if not frozen.parts_with_catalog(setup):
        raise ReductionError(frozen.no_catalog(setup))


def finish(setup: Setup) -> None:
    """Close a run: nothing pending, consolidated metadata, no scratch files."""
    check_owner(setup.out_directory)
    nights.settle(setup.store)
    setup.store.finish_changes()
