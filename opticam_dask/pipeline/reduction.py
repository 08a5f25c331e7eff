"""Settings of a reduction: directories, instrument, parameters, and where progress is reported."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from opticam_dask import identities
from opticam_dask.frames import scanning
from opticam_dask.frames.instruments import Instrument
from opticam_dask.kernels.images.sky import background as background_kernel
from opticam_dask.methods.finders import default_finder
from opticam_dask.parameters import ReductionParameters
from opticam_dask.passes.calibration import Calibration, Detector
from opticam_dask.steps.frame_steps import BlockSummary, FrameSteps
from opticam_dask.store.camera import Part
from opticam_dask.store.store import Store
from opticam_dask.text import printable

if TYPE_CHECKING:  # they know astropy, which takes half a second
    from opticam_dask.cluster.executors import Executor, Work
    from opticam_dask.frames.placed_sources import PlacedSource
    from opticam_dask.passes.sky_search import SkyQuery


class ReductionError(Exception):
    """Nothing can be reduced, or the store does not fit the call; the message says why and what to do."""

    def __str__(self) -> str:
        """Message in one line, whatever the names of files in it hold."""
        return printable(super().__str__())


class WrongParameters(ReductionError, ValueError):
    """The parameters do not fit the frames or the store."""


@dataclass(frozen=True)
class Changes:
    """Changes to an existing reduction: frames to add, nights to reduce again, a new reference, or a new store.

    Parameters
    ----------
    new : bool
        Begin again; the old store is kept under another name.
    append : bool
        Take frames of which the store has none.
    redo : tuple of str
        Nights (``YYYY-MM-DD``) to reduce again, from the files that are there now.
    rebuild_reference : bool
        Choose reference frames and catalogues again; all nights are reduced again.
    """

    new: bool = False
    append: bool = False
    redo: tuple[str, ...] = ()
    rebuild_reference: bool = False


class Progress(Protocol):
    """Receiver of the progress of a run: a progress bar, a log, or nobody."""

    def begin(self, stage: str, total: int, unit: str = "frames") -> None:
        """A stage of ``total`` frames, or of what else it counts, begins."""
        ...

    def advance(self, n_frames: int) -> None:
        """Count further frames as done."""
        ...

    def end(self) -> None:
        """The stage is over."""
        ...

    def tell(self, message: str) -> None:
        """Tell the user something."""
        ...


class Silent:
    """Progress that nobody watches."""

    def begin(self, stage: str, total: int, unit: str = "frames") -> None:
        """Do nothing."""

    def advance(self, n_frames: int) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""

    def tell(self, message: str) -> None:
        """Do nothing."""


@contextlib.contextmanager
def stage(progress: Progress, name: str, total: int, unit: str = "frames") -> Iterator[None]:
    """One stage of a run, which also ends when it fails."""
    progress.begin(name, total, unit)
    try:
        yield
    finally:
        progress.end()


def counted_results(
    executor: Executor, work: Sequence[Work], progress: Progress, name: str, total: int, unit: str
) -> dict[int, Any]:
    """Results of tasks that give their number and one each, by number, while a stage counts them."""
    found: dict[int, Any] = {}
    with stage(progress, name, total, unit):
        for number, result in executor.run(work):
            found[number] = result
            progress.advance(1)
    return found


@dataclass(frozen=True)
class Setup:
    """Settings of a reduction: what is reduced, and with which parameters.

    Parameters
    ----------
    out_directory : path
        Holds the store and the files for people.
    instrument : Instrument
        What the headers mean.
    parameters : ReductionParameters
        Everything that the first pass and the catalogue depend on.
    background : callable, optional
        ``image -> Background2D``-like; by default the sky mesh of this package.
    finder : callable, optional
        ``(image, threshold) -> QTable``; by default ``DefaultFinder``.
    aperture_selector : callable
        Chooses the width that apertures are scaled to from the FWHM of the catalogue's brightest sources.
    reader : Reader, optional
        By default the FITS reader.
    frames_per_block : int, optional
        By default from frame shape and pixel type.
    calibration : Calibration, optional
        Bias, dark and flat frames.
    image_filter : callable, optional
        ``array -> array`` on raw frames (ADU), before anything else.
    sources : tuple of PlacedSource
        What is measured beside the sources that are found. No parameter: they may be added at any time.
    sky : SkyQuery, optional
        Stars and plate-solved frames by which new catalogues are found on the sky.
    """

    out_directory: Path
    instrument: Instrument
    parameters: ReductionParameters = field(default_factory=ReductionParameters)
    background: Callable[[np.ndarray], Any] | None = None
    finder: Callable[[np.ndarray, np.ndarray], Any] | None = None
    aperture_selector: Callable[[np.ndarray], float] = np.median
    reader: scanning.Reader | None = None
    frames_per_block: int | None = None
    calibration: Calibration | None = None
    image_filter: Callable[[np.ndarray], np.ndarray] | None = None
    sources: tuple[PlacedSource, ...] = ()
    sky: SkyQuery | None = None

    @property
    def path(self) -> Path:
        """Path of the store."""
        return self.store.path

    @property
    def store(self) -> Store:
        """The store, whether it is there yet or not."""
        return Store.at(self.out_directory)

    def record(self) -> dict[str, Any]:
        """Everything that the first pass and the catalogue depend on, as JSON can hold it."""
        optional = {} if self.calibration is None else self.calibration.record()
        if self.image_filter is not None:
            optional["image_filter"] = identities.describe(self.image_filter)
        return {
            **identities.describe(self.parameters),
            "background": identities.describe(self.background),
            "finder": identities.describe(self.finder),
            "aperture_selector": identities.describe(self.aperture_selector),
            "instrument": identities.describe(self.instrument),
            **optional,
        }

    def steps_of(self, part: Part) -> FrameSteps:
        """Steps for the frames of one part, with its calibration."""
        steps = self.steps(part.shape, part.binning)
        if self.calibration is None:
            return steps
        masters = self.calibration.reader(self.store, Detector(part.key, part.shape, part.binning))
        return replace(steps, masters=masters, has_flat="flat" in self.calibration.kinds)

    def steps(self, shape: tuple[int, int], binning: int) -> FrameSteps:
        """Steps for frames of one shape, without calibration frames."""
        chosen, rebin = self.parameters, self.parameters.rebin_factor
        _check_rebin(shape, rebin)
        image_shape = (shape[0] // rebin, shape[1] // rebin)
        box = chosen.box_size or background_kernel.default_box_size(image_shape)
        box = box if isinstance(box, tuple) else (box, box)
        if box[0] > image_shape[0] or box[1] > image_shape[1]:
            raise WrongParameters(
                f"box_size {box} is larger than a frame of {image_shape[0]} x {image_shape[1]} pixels."
            )
        usual = default_finder(image_shape, binning, rebin, self.instrument.source_pixels)
        finder = self.finder or usual.replace(n_pixels=chosen.n_pixels, border_width=chosen.border_width)
        return FrameSteps(
            reader=self.reader or scanning.reader_of(self.instrument),
            shape=shape,
            rebin_factor=rebin,
            remove_cosmic_rays=chosen.remove_cosmic_rays,
            background=self.background,
            box_size=box,
            finder=finder,
            threshold=chosen.threshold,
            n_slots=3 * chosen.max_catalog_sources,
            image_filter=self.image_filter,
        )


def _check_rebin(shape: tuple[int, int], factor: int) -> None:
    if shape[0] % factor or shape[1] % factor:
        raise WrongParameters(
            f"rebin_factor must divide the frame: got frames of {shape[0]} x {shape[1]} pixels and factor {factor}."
        )


#: Frames of which an outcome keeps what was wrong.
_MOST_PROBLEMS = 1000


@dataclass
class Outcome:
    """Result of a pass over all camera keys: counts and problems.

    Attributes
    ----------
    n_frames : dict of int
        Frames that the pass went over.
    set_aside, unmeasured : list of (str, str)
        Frames that cannot be used, and usable ones that could not be measured, with the reason.
    """

    n_frames: dict[str, int] = field(default_factory=dict)
    set_aside: list[tuple[str, str]] = field(default_factory=list)
    unmeasured: list[tuple[str, str]] = field(default_factory=list)

    @property
    def problems(self) -> list[tuple[str, str]]:
        """Frames that were set aside or could not be measured, with the reasons."""
        return self.set_aside + self.unmeasured

    def without_counts(self) -> Outcome:
        """The outcome with the frames set aside alone."""
        return Outcome(set_aside=self.set_aside, unmeasured=self.unmeasured)

    def add(self, key: str, summary: BlockSummary) -> None:
        """Count one block."""
        self.n_frames[key] = self.n_frames.get(key, 0) + summary.n_frames
        self._tell(summary.problems, summary.unmeasured)

    def merge(self, other: Outcome) -> None:
        """Add the counts of another outcome."""
        for key, number in other.n_frames.items():
            self.n_frames[key] = self.n_frames.get(key, 0) + number
        self._tell(other.set_aside, other.unmeasured)

    def _tell(self, set_aside: Iterable[tuple[str, str]], unmeasured: Iterable[tuple[str, str]]) -> None:
        for mine, theirs in ((self.set_aside, set_aside), (self.unmeasured, unmeasured)):
            if len(mine) < _MOST_PROBLEMS:
                mine.extend(theirs)
