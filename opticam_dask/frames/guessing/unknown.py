"""Message about frames of a camera that the instrument does not know: one line in all, not one a file."""

from __future__ import annotations

import os
import re
import textwrap

from opticam_dask.frames.definitions.library import load_instrument, recognised
from opticam_dask.frames.fits_files import FrameError, OwnProduct, file_of, read_headers
from opticam_dask.frames.guessing.writers import writer_of
from opticam_dask.frames.instruments import Instrument
from opticam_dask.frames.scanning import Scan

#: Reasons that come from what a definition expects of a header.
_BY_DEFINITION = re.compile(r"(?:^|; )(filter|time|exposure_time|gain|binning|dark_current): ")

#: Characters of a reason that are told as an example.
_LONGEST_REASON = 240


def unknown_camera(scan: Scan, instrument: Instrument) -> tuple[str, list[tuple[str, str]]]:
    """Message for the case that no frame is one of the instrument.

    Parameters
    ----------
    scan : Scan
        Headers of all files.
    instrument : Instrument
        The definition in use.

    Returns
    -------
    str
        One sentence; empty where frames can be used, or files are set aside for other reasons.
    list of (str, str)
        Files that are set aside for other reasons.
    """
    by_definition = [(file, reason) for file, reason in scan.set_aside if _BY_DEFINITION.search(reason)]
    if len(scan.table) or not by_definition:
        return "", scan.set_aside
    others = [entry for entry in scan.set_aside if not _BY_DEFINITION.search(entry[1])]
    lacking = sorted({found for _, reason in by_definition for found in _BY_DEFINITION.findall(reason)})
    whose, known = _origin(by_definition[0][0])
    is_known = known and known != "opticam"
    advice = f"--instrument {known} reads them" if is_known else "give --instrument FILE"
    sentence = (
        f"{len(by_definition)} file(s) are no frames of {instrument.name}{whose}: it finds no usable "
        f"{', '.join(name.replace('_', ' ') for name in lacking)} in their headers ({_shortened(*by_definition[0])}). "
        f"{advice[0].upper()}{advice[1:]}; opticam-dask instrument guess DATA proposes a definition."
    )
    return sentence, others


def _shortened(file: str, reason: str) -> str:
    """One file and the beginning of its reason."""
    return f"e.g. {os.path.basename(file)}: {textwrap.shorten(reason, _LONGEST_REASON, placeholder=' ...')}"


def _origin(name: str) -> tuple[str, str]:
    """What the header of a file says about its camera, and the definition that reads it."""
    try:
        frames, _ = read_headers(file_of(name))
    except (FrameError, OwnProduct):
        return "", ""
    header = frames[0].header.values
    words = [str(header[key]).strip() for key in ("TELESCOP", "INSTRUME") if str(header.get(key, "")).strip()]
    writer = writer_of(header)
    told = [" ".join(words)] * bool(words) + ([f"written by {writer.name}"] if writer is not None else [])
    known = recognised(header)
    reads = bool(known) and not load_instrument(known).interpret(header).problems
    return f" ({', '.join(told)})" if told else "", known if reads else ""
