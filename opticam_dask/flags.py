"""Flags of frames and of single measurements: one bit for each reason, with its name and a sentence about it."""

from __future__ import annotations

from enum import IntFlag
from typing import TypedDict

import numpy as np


class FrameFlag(IntFlag):
    """State of one frame in one pass. Zero means: not reduced yet."""

    REDUCED = 1 << 0
    UNREADABLE = 1 << 1
    OTHER_SHAPE = 1 << 2
    NO_DATA = 1 << 3
    CONSTANT = 1 << 4
    SATURATED = 1 << 5
    NO_BACKGROUND = 1 << 6
    NO_SOURCES = 1 << 7
    NOT_ALIGNED = 1 << 8
    BEYOND_LIMIT = 1 << 9
    NO_POSITION = 1 << 10
    SUSPECT_TIME = 1 << 11
    FILE_CHANGED = 1 << 12
    STEP_FAILED = 1 << 13
    WORKER_LOST = 1 << 14
    SWAPPED = 1 << 15
    BORROWED = 1 << 16
    BY_HAND = 1 << 17


class SourceFlag(IntFlag):
    """State of one source in one frame. Zero means: not measured yet."""

    REDUCED = 1 << 0
    NO_TRANSFORM = 1 << 1
    OFF_FRAME = 1 << 2
    EDGE = 1 << 3
    NOT_DETECTED = 1 << 4
    NOT_RECENTRED = 1 << 5
    SATURATED = 1 << 6
    BAD_PIXEL = 1 << 7
    COSMIC_RAY = 1 << 8
    STEP_FAILED = 1 << 9
    WORKER_LOST = 1 << 10
    BLENDED = 1 << 11
    NON_LINEAR = 1 << 12
    OUTLIER = 1 << 13
    CONTAMINATED = 1 << 14
    FRAME_LOST = 1 << 15
    PLACED = 1 << 16


class QualityFlag(IntFlag):
    """Flags of a frame that take all frames of its night to find. Zero means: not computed yet."""

    COMPUTED = 1 << 0
    CLOUD = 1 << 1
    NO_TRANSPARENCY = 1 << 2
    NO_AIRMASS = 1 << 3


class Mark(IntFlag):
    """What an observer says about frames, measurements or comparisons."""

    CLOUD = 1 << 0
    JUNK = 1 << 1
    KEEP = 1 << 2


FRAME_SENTENCES: dict[FrameFlag, str] = {
    FrameFlag.REDUCED: "The frame went through this pass (also set when it was set aside).",
    FrameFlag.UNREADABLE: "The pixels could not be read.",
    FrameFlag.OTHER_SHAPE: "The frame has another shape or binning than most frames of its night.",
    FrameFlag.NO_DATA: "The frame holds no finite pixel.",
    FrameFlag.CONSTANT: "All pixels have the same value.",
    FrameFlag.SATURATED: "More than half of the pixels are saturated.",
    FrameFlag.NO_BACKGROUND: "The sky background could not be estimated.",
    FrameFlag.NO_SOURCES: "No source was detected.",
    FrameFlag.NOT_ALIGNED: "The sources could not be matched to the reference frame.",
    FrameFlag.BEYOND_LIMIT: "The transform exceeds a limit that was asked for.",
    FrameFlag.NO_POSITION: "No sky position is known, so there is no barycentric time.",
    FrameFlag.SUSPECT_TIME: "The time stamp is shared with, or lies far from, the other frames of the run.",
    FrameFlag.FILE_CHANGED: "The file is not the one that was scanned (other shape, size or type).",
    FrameFlag.STEP_FAILED: "A calibration, background, finder or photometer step raised an error.",
    FrameFlag.WORKER_LOST: "Workers died while they worked on this frame.",
    FrameFlag.SWAPPED: "The field's two stars have swapped their brightness: an eclipse, or the field turned around.",
    FrameFlag.BY_HAND: "The transform is that of an observer, who matched stars of the frame by eye.",
    FrameFlag.BORROWED: "Too few stars of its own: the transform is that of other cameras at the same moment.",
}

SOURCE_SENTENCES: dict[SourceFlag, str] = {
    SourceFlag.REDUCED: "The measurement was made (also set when it gave no number).",
    SourceFlag.NO_TRANSFORM: "The frame is set aside or not aligned: no flux.",
    SourceFlag.OFF_FRAME: "The source lies outside the frame: no flux.",
    SourceFlag.EDGE: "Part of the aperture lies outside the frame.",
    SourceFlag.NOT_DETECTED: "No detection of the frame matches: measured at the transformed catalogue position.",
    SourceFlag.NOT_RECENTRED: (
        "The centroid did not converge or is not where the transform puts the star: measured at the predicted position."
    ),
    SourceFlag.SATURATED: "A pixel of the aperture is saturated.",
    SourceFlag.BAD_PIXEL: "A pixel of the aperture holds no data; of pixels that are bad all night, 1 % of the light.",
    SourceFlag.COSMIC_RAY: "A pixel of the aperture was hit by a cosmic ray and replaced.",
    SourceFlag.STEP_FAILED: "The background or the photometer raised an error in this frame: no flux.",
    SourceFlag.WORKER_LOST: "Workers died while they measured this frame: no flux.",
    SourceFlag.BLENDED: "More than 1 % of the light in the aperture is that of neighbours (of the stack or frame).",
    SourceFlag.NON_LINEAR: "A pixel of the aperture is above the level up to which the detector is linear.",
    SourceFlag.CONTAMINATED: (
        "Light that is not the star's (a cosmic ray, a satellite, a hot pixel): its pixels do not fit the star profile."
    ),
    SourceFlag.OUTLIER: "Of light curves: the flux stands out from those before and after.",
    SourceFlag.FRAME_LOST: "The file is gone, unreadable or another one since the frame was aligned: no flux.",
    SourceFlag.PLACED: "The observer put the source there: measured at its place, whether there is light or not.",
}

MARK_SENTENCES: dict[Mark, str] = {
    Mark.CLOUD: "An observer says that there was cloud: the flux is left out.",
    Mark.JUNK: "An observer says that the measurement is no good: the flux is left out.",
    Mark.KEEP: "An observer says that the measurement is good, whatever else is said of it.",
}

QUALITY_SENTENCES: dict[QualityFlag, str] = {
    QualityFlag.COMPUTED: "The quality of the frame was computed.",
    QualityFlag.CLOUD: "The frame is darker than the clear sky by more than a tenth and by more than 5 sigma.",
    QualityFlag.NO_TRANSPARENCY: "Fewer than two sources of the frame can serve as a standard: no transparency.",
    QualityFlag.NO_AIRMASS: "Position or site is not known, or the field is below the horizon: no airmass.",
}

#: A frame with one of these bits has no photometry.
UNUSABLE = (
    FrameFlag.UNREADABLE
    | FrameFlag.NO_DATA
    | FrameFlag.CONSTANT
    | FrameFlag.SATURATED
    | FrameFlag.NO_BACKGROUND
    | FrameFlag.NO_SOURCES
    | FrameFlag.NOT_ALIGNED
    | FrameFlag.BEYOND_LIMIT
    | FrameFlag.FILE_CHANGED
    | FrameFlag.STEP_FAILED
    | FrameFlag.WORKER_LOST
)

#: A measurement with one of these bits says nothing of how bright its source is, whatever it is for.
USELESS = SourceFlag.OFF_FRAME | SourceFlag.EDGE | SourceFlag.SATURATED | SourceFlag.NON_LINEAR | SourceFlag.BAD_PIXEL


class FlagAttributes(TypedDict):
    """CF attributes of a flag variable."""

    flag_masks: list[int]
    flag_meanings: str


def flag_attributes(flag_type: type[IntFlag]) -> FlagAttributes:
    """CF ``flag_masks`` and ``flag_meanings`` of a flag variable."""
    members = list(flag_type)
    return {
        "flag_masks": [int(member) for member in members],
        "flag_meanings": " ".join(str(member.name).lower() for member in members),
    }


def flag_names(value: int, flag_type: type[IntFlag]) -> list[str]:
    """Names of the bits set in ``value``, lower case, without ``reduced``."""
    value = int(value)  # enumerations compute slowly
    return [str(member.name).lower() for member in flag_type if value & int(member) and int(member) != 1]


def count_flags(values: np.ndarray, flag_type: type[IntFlag]) -> dict[str, int]:
    """How many entries of ``values`` carry each bit; bits that never occur are left out."""
    flat = np.asarray(values, dtype=np.uint32).ravel()
    counts = {str(member.name).lower(): int(np.count_nonzero(flat & np.uint32(member))) for member in flag_type}
    return {name: count for name, count in counts.items() if count}
