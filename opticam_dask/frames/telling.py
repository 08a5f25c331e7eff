"""Notes about files that differ: which image is the frame, where a window lies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opticam_dask.text import printable

_IMAGE_OF = "the only image of a file is that of extension "
_LIES_AT = ": the image lies at "


def image_of(own: Mapping[str, Any]) -> tuple[str, ...]:
    """Sentence of which extension the only image of a file is, by its own header; none where it has no name."""
    name = own.get("EXTNAME", "COMPRESSED_IMAGE")
    return () if name == "COMPRESSED_IMAGE" else (f"{_IMAGE_OF}{printable(str(name))}",)


def window_of(values: Mapping[str, Any]) -> str:
    """Which part of the detector was read out, by DETSEC or XORGSUBF and YORGSUBF; empty where no header says so."""
    section = values.get("DETSEC")
    if isinstance(section, str):
        return "DETSEC " + printable("".join(section.split()))
    corner = [values.get(name) for name in ("XORGSUBF", "YORGSUBF")]
    if all(isinstance(value, int | float) for value in corner):
        return f"XORGSUBF {corner[0]:g}, YORGSUBF {corner[1]:g}"
    return ""


def place_of(key: str, window: str) -> tuple[str, ...]:
    """Sentence of where the window of a frame lies on the detector of a camera; none where it does not say."""
    return (f"{key}{_LIES_AT}{window} of the detector",) if window else ()


def worth_telling(warned: Mapping[str, tuple[int, str]], n_frames: int) -> dict[str, tuple[int, str]]:
    """Sentences with their counts and examples, without those in which all files agree.

    Parameters
    ----------
    warned : mapping of str to (int, str)
        Number of files that a sentence holds for, and one of them.
    n_frames : int
        Number of frames that can be used.
    """
    keys = [text.partition(_LIES_AT)[0] for text in warned if _LIES_AT in text]
    moved = {key for key in keys if keys.count(key) > 1}
    return {
        text: found
        for text, found in warned.items()
        if not (text.startswith(_IMAGE_OF) and found[0] >= n_frames)
        and not (_LIES_AT in text and text.partition(_LIES_AT)[0] not in moved)
    }
