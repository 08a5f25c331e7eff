"""Settings and results that every step of a frame shares, and the problems that a frame can have.

A bad frame gives a flag and a message; a bad call raises. Only the exceptions named here become flags:
``frames.FrameError``, the refusals of the kernels, and whatever a user's own background or finder raises on a
frame. Everything else stops the run.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from astropy.utils.exceptions import AstropyDeprecationWarning

from opticam_dask.flags import FrameFlag
from opticam_dask.frames.scanning import Reader
from opticam_dask.kernels.images.masters import Masters
from opticam_dask.kernels.images.sky import subtraction
from opticam_dask.methods.finders import DefaultFinder


class Background(Protocol):
    """Result of a background callable (photutils ``Background2D`` is one)."""

    background: np.ndarray
    background_rms: np.ndarray
    background_median: float
    background_rms_median: float


class FrameProblem(Exception):
    """A frame cannot be used; carries the flag and the message to store."""

    def __init__(self, flag: FrameFlag, message: str) -> None:
        super().__init__(message)
        self.flag = flag
        self.message = message


class FrameLost(OSError):
    """Frames that were there cannot be read any more: the run stops, and can be resumed."""


@dataclass(frozen=True)
class FrameSteps:
    """Settings of the steps from a raw frame to its sources, the same in every pass.

    Attributes
    ----------
    reader : Reader
        Reads the frames.
    shape : (int, int)
        Shape ``(ny, nx)`` of the frames as read.
    rebin_factor : int
        Pixels of the frame that are summed along each axis.
    remove_cosmic_rays : bool
        Replace cosmic rays (L.A.Cosmic) before anything else is measured.
    background : callable or None
        Own background ``image -> Background``; None is the sky mesh of this package.
    box_size : (int, int)
        Mesh box ``(ny, nx)`` in rebinned pixels.
    finder : callable
        ``(image, threshold) -> QTable``.
    threshold : float
        In units of the background RMS.
    n_slots : int
        Detected sources kept.
    masters : callable, optional
        Reads the master bias, dark and flat; called once in each process that calibrates frames.
    has_flat : bool
        Whether there is a flat among them.
    image_filter : callable, optional
        The user's own ``array -> array`` on the raw frame (ADU), before anything else.
    looks_for_pile_up : bool
        Whether the level at which the pixels of a frame pile up is looked for, and taken for its saturation.
    """

    reader: Reader
    shape: tuple[int, int]
    rebin_factor: int
    remove_cosmic_rays: bool
    background: Callable[[np.ndarray], Background] | None
    box_size: tuple[int, int]
    finder: Callable[[np.ndarray, np.ndarray], Any]
    threshold: float
    n_slots: int
    masters: Callable[[], Masters] | None = None
    has_flat: bool = False
    image_filter: Callable[[np.ndarray], np.ndarray] | None = None
    looks_for_pile_up: bool = False

    @property
    def image_shape(self) -> tuple[int, int]:
        """Shape ``(ny, nx)`` after rebinning."""
        return self.shape[0] // self.rebin_factor, self.shape[1] // self.rebin_factor

    @property
    def has_mesh(self) -> bool:
        """Whether the sky image is the zoom of a mesh that is stored."""
        return self.background is None

    @property
    def mesh_shape(self) -> tuple[int, int] | None:
        """Shape of the sky mesh, None without one; boxes at the far edges may be cut."""
        if not self.has_mesh:
            return None
        (ny, nx), (box_y, box_x) = self.image_shape, self.box_size
        return -(-ny // box_y), -(-nx // box_x)

    @property
    def is_plain(self) -> bool:
        """Whether a pixel of the calibrated frame depends on that raw pixel alone, unless a cosmic ray hit it."""
        return self.has_mesh and self.image_filter is None and self.rebin_factor == 1

    @property
    def is_local(self) -> bool:
        """Whether a pixel of the calibrated frame depends on that raw pixel alone."""
        return self.is_plain and not self.remove_cosmic_rays

    @property
    def finds_by_segments(self) -> bool:
        """Whether frames are searched by the kernel that gives what `DefaultFinder` gives, in a tenth of the time."""
        return type(self.finder) is DefaultFinder

    def read_masters(self) -> Masters:
        """Master frames; without any where there is no calibration."""
        return Masters() if self.masters is None else self.masters()


@dataclass
class FrameResult:
    """First-pass results of one frame."""

    flags: FrameFlag = FrameFlag.REDUCED
    message: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    meshes: dict[str, np.ndarray] = field(default_factory=dict)
    sources: dict[str, np.ndarray] = field(default_factory=dict)
    subtracted: np.ndarray | None = None
    saturated: np.ndarray | None = None
    #: the frame without its sky, where the sky is a mesh; and detections for which there is no slot
    frame: subtraction.SubtractedFrame | None = None
    beyond_slots: dict[str, np.ndarray] = field(default_factory=dict)
    #: which sources are whole stars, and which are saturated, by slot
    is_whole: np.ndarray | None = None
    is_saturated: np.ndarray | None = None
    #: semimajor_sigma, semiminor_sigma and orientation (radians) of the sources whose moments were measured, by slot
    moments: dict[int, np.ndarray] = field(default_factory=dict)

    def without_pixels(self) -> FrameResult:
        """The result without pixels: a block of results is in memory at once, its pixels are not."""
        return replace(self, subtracted=None, saturated=None, frame=None, is_whole=None, is_saturated=None)


@dataclass(frozen=True)
class BlockSummary:
    """Small result of a task: what to tell the user.

    Frames have problems when they are set aside; usable ones may still be unmeasured.
    """

    block: int
    n_frames: int
    problems: tuple[tuple[str, str], ...] = ()
    unmeasured: tuple[tuple[str, str], ...] = ()


@contextlib.contextmanager
def no_deprecation_warnings() -> Iterator[None]:
    """Spare the user one warning a frame about an old name in a function of their own."""
    with warnings.catch_warnings():
        for category in (AstropyDeprecationWarning, DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        yield


def error_text(error: Exception) -> str:
    """Type and text of an error, for a message."""
    return f"{type(error).__name__}: {error}"


def remembered(entry: Mapping[str, Any], name: str, make: Callable[[], Any]) -> Any:
    """A value of a frame that several steps need, computed once where the frame has a ``memory``.

    Parameters
    ----------
    entry : mapping
        Row of the manifest of the frame; with ``memory`` (an empty dict at first) where steps that follow each other
        share it.
    name : str
        What it is.
    make : callable
        Makes what is remembered, without arguments.
    """
    memory = entry.get("memory")
    if memory is None:
        return make()
    if name not in memory:
        memory[name] = make()
    return memory[name]


def entry_of(arrays: Mapping[str, np.ndarray], index: int) -> dict[str, Any]:
    """Values of one frame from arrays over the frames of a block."""
    return {name: values[index] for name, values in arrays.items()}


def summarise(block: int, messages: Sequence[str], files: np.ndarray, unmeasured: Sequence[str] = ()) -> BlockSummary:
    """Collect the messages of a block."""
    problems = [(str(file), message) for file, message in zip(files, messages, strict=True) if message]
    failed = [(str(file), message) for file, message in zip(files, unmeasured, strict=bool(unmeasured)) if message]
    return BlockSummary(block, len(files), tuple(problems), tuple(failed))
