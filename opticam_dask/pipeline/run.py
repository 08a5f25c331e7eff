"""A run and its passes: what all passes share, and the rescue of blocks whose tasks kill their workers."""

from __future__ import annotations

import functools
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from opticam_dask.cluster.executors import Executor, Work
from opticam_dask.cluster.rescue import rescue_block
from opticam_dask.methods.frame_view import Photometer
from opticam_dask.pipeline.reduction import Progress, Setup, Silent
from opticam_dask.steps.frame_steps import BlockSummary
from opticam_dask.store.camera import Camera, Part
from opticam_dask.store.ownership import check_owner

Found = TypeVar("Found")

#: Seconds between two looks at the owner of the output directory while blocks finish.
_BETWEEN_LOOKS = 1.0


class StarSums(Protocol):
    """Where jobs of one run keep their star measurements of a part, by camera key and night."""

    def __contains__(self, part: tuple[str, str]) -> bool: ...

    def __setitem__(self, part: tuple[str, str], found: Mapping[int, Any]) -> None: ...

    def __getitem__(self, part: tuple[str, str]) -> dict[int, Any]: ...


@dataclass
class Run:
    """Everything that the passes of a reduction work with.

    Attributes
    ----------
    setup : Setup
        What is reduced, and how.
    executor : Executor
        Where tasks run.
    progress : Progress
        Prints messages and progress; by default nothing is printed.
    photometers : dict of Photometer
        What is measured of each source, by label.
    whole_frames : bool
        Calibrate whole frames even where cut-outs are enough.
    planned : collection of (str, str)
        Key and night of the parts of a run that is shared by jobs.
    sums : StarSums, optional
        Where jobs that share the run keep what they find of stars; None where one process does all of it.
    facts : dict
        What the finish of a pass found out for the passes after it, as JSON can hold it.
    looked_at : set of (str, str)
        Key and night of the parts of which the run has looked at frames for the first time, beside those of the survey.
    prepared : dict of dict of Photometer
        The photometers as they are for the catalogue of each key, by label, as soon as one was asked for.
    """

    setup: Setup
    executor: Executor
    progress: Progress = field(default_factory=Silent)
    photometers: Mapping[str, Photometer] = field(default_factory=dict)
    whole_frames: bool = False
    planned: Collection[tuple[str, str]] = ()
    sums: StarSums | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    looked_at: set[tuple[str, str]] = field(default_factory=set)
    prepared: dict[str, dict[str, Photometer]] = field(default_factory=dict)

    def check_owner(self) -> None:
        """Raise when another run has taken the output directory over (``ownership.OwnershipLost``)."""
        check_owner(self.setup.out_directory)

    def while_owned(self, found: Iterable[Found]) -> Iterator[Found]:
        """Hand over what blocks found, as long as the output directory is this run's own.

        It is looked at once a second and at the end: a look at each block would take the client a fifth of the time
        that it has for a block, and where the directory is remote a request.

        Raises
        ------
        ownership.OwnershipLost
            When another run has taken it over.
        """
        next_look = -math.inf
        for one in found:
            if time.monotonic() >= next_look:
                self.check_owner()
                next_look = time.monotonic() + _BETWEEN_LOOKS
            yield one
        self.check_owner()


class Pass:
    """One pass of a reduction: its units, which of them are not done, the work on them, and the finish.

    This base class has no units of work: everything happens in ``finish``.

    Attributes
    ----------
    word : str
        What it is called in commands.
    name : str
        What it makes, in a few words.
    title : str
        What its progress is called.
    unit : {"block", "part"} or None
        What is shared out among workers and jobs: blocks of frames, or parts (a camera key and night each).
    """

    word: ClassVar[str]
    name: ClassVar[str]
    title: ClassVar[str] = ""
    unit: ClassVar[Literal["block", "part"] | None] = None

    def is_ready(self, run: Run, camera: Camera) -> bool:
        """Whether the earlier passes have made what this one needs of a camera; cameras that are not ready wait."""
        return False

    def undone(self, run: Run, part: Part, among: range | None = None) -> list[int]:
        """Units of a part (of those in ``among``) that are not done."""
        return []

    def n_frames(self, run: Run, part: Part, todo: Sequence[int]) -> int:
        """Frames that are read for some units of a part."""
        return 0

    def work(self, run: Run, todo: Sequence[tuple[Part, Sequence[int]]]) -> Iterator[tuple[str, BlockSummary]]:
        """Do some units of some parts; yield the camera key and a summary of each as they end."""
        yield from ()

    def finish_part(self, run: Run, part: Part, *, is_new: bool) -> None:
        """Do what needs all units of a part; ``is_new`` when some of them were done in this run."""

    def finish(self, run: Run) -> None:
        """Do what needs all units of all parts, so that the next pass can begin."""

    def dead_end(self, run: Run) -> str:
        """Reason why no later pass can go on; empty when one can."""
        return ""


class BlockPass(Pass, ABC):
    """A pass over blocks of frames, each of which is one task on a worker."""

    unit = "block"

    @abstractmethod
    def tasks(self, run: Run, part: Part, todo: Sequence[int]) -> Work:
        """Tasks for some blocks of a part."""

    def n_frames(self, run: Run, part: Part, todo: Sequence[int]) -> int:
        """Frames of some blocks."""
        return sum(map(functools.partial(frames_in, part), todo))

    def work(self, run: Run, todo: Sequence[tuple[Part, Sequence[int]]]) -> Iterator[tuple[str, BlockSummary]]:
        """Run the blocks of all parts, a window at a time."""
        for key, summary in run.executor.run([self.tasks(run, part, some) for part, some in todo if some]):
            run.progress.advance(summary.n_frames)
            yield key, summary


def frames_in(part: Part, block: int) -> int:
    """Number of frames in a block of a part."""
    start, stop = part.block_range(block)
    return stop - start


def guarded_work(
    tag: Any,
    name: str,
    run: Callable[..., Any],
    todo: Sequence[int],
    try_frame: Callable[[int, int], Any],
    n_frames: Callable[[int], int],
    before: tuple[Callable[..., Any], Callable[[int, int], Any]] | None = None,
) -> Work:
    """Blocks of one part to run, with a rescue for those that kill their workers; summaries come back with a tag.

    Parameters
    ----------
    tag : object
        Comes back with each summary, to tell from which part it is: mostly the camera key.
    name : str
        What the tasks are called.
    run : callable
        ``run(block)``, or ``run(block, lost)`` without the frames in ``lost`` (reason by index).
    todo : sequence of int
        Numbers of the blocks.
    try_frame : callable
        ``try_frame(block, index)`` does the work on one frame and writes nothing.
    n_frames : callable
        ``n_frames(block)`` gives the number of frames of a block.
    before : (callable, callable), optional
        ``run`` and ``try_frame`` of the first half of what ``run`` does. In a rescue the halves are tried one after the
        other, so that a frame is blamed for the half in which it does harm.
    """
    tagged = functools.partial(_tagged, tag, run)
    steps = [(run, try_frame)] if before is None else [before, (run, try_frame)]
    return Work(tagged, todo, name, functools.partial(_rescue, tag, steps, n_frames))


def _rescue(
    tag: Any, steps: Sequence[tuple[Any, Any]], n_frames: Callable[[int], int], frame_timeout: float, block: int
) -> tuple[Any, Any]:
    """Rescue a block, step by step; the summary of the last step with the problems of all."""
    summaries = [rescue_block(n_frames, try_frame, run, frame_timeout, block) for run, try_frame in steps]
    *before, last = summaries
    problems = tuple(problem for one in before for problem in one.problems)
    return tag, replace(last, problems=problems + last.problems) if problems else last


def _tagged(tag: Any, run: Callable[..., Any], block: int, *lost: Any) -> tuple[Any, Any]:
    return tag, run(block, *lost)
