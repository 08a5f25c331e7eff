"""What is told of files only where not all of them say the same: which image is the frame, where a window lies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opticam_dask.text import printable

_IMAGE_OF = "the only image of a file is that of extension "
_LIES_AT = ": the image lies at DETSEC "


def image_of(own: Mapping[str, Any]) -> tuple[str, ...]:
    """Sentence of which extension the only image of a file is, by its own header; none where it has no name."""
    name = own.get("EXTNAME", "COMPRESSED_IMAGE")
    return () if name == "COMPRESSED_IMAGE" else (f"{_IMAGE_OF}{printable(str(name))}",)


def place_of(key: str, values: Mapping[str, Any]) -> tuple[str, ...]:
    """Sentence of where the window of a frame lies on the detector of a camera; none where it does not say."""
    section = values.get("DETSEC")
    return (f"{key}{_LIES_AT}{printable(section)} of the detector",) if isinstance(section, str) else ()


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
