"""Message about frames of a camera that the instrument does not know: one line in all, not one a file."""

from __future__ import annotations

import re

from opticam_dask.frames.definitions.library import recognised
from opticam_dask.frames.fits_files import FrameError, OwnProduct, file_of, read_headers
from opticam_dask.frames.guessing.writers import writer_of
from opticam_dask.frames.instruments import Instrument
from opticam_dask.frames.scanning import Scan

#: Reasons that come from what a definition expects of a header.
_BY_DEFINITION = re.compile(r"(?:^|; )(filter|time|exposure_time|gain|binning|dark_current): ")


def unknown_camera(scan: Scan, instrument: Instrument) -> tuple[str, list[tuple[str, str]]]:
    """Message for the case that no frame is one of the instrument.

    Parameters
    ----------
    scan : Scan
        Of all files.
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
        f"{len(by_definition)} file(s) are no frames of {instrument.name}{whose}: it does not find "
        f"{', '.join(name.replace('_', ' ') for name in lacking)} in their headers. {advice[0].upper()}{advice[1:]}; "
        "opticam-dask instrument guess DATA proposes a definition."
    )
    return sentence, others


def _origin(name: str) -> tuple[str, str]:
    """What the header of a file says about its camera, and the definition that knows it."""
    try:
        frames, _ = read_headers(file_of(name))
    except (FrameError, OwnProduct):
        return "", ""
    header = frames[0].header.values
    words = [str(header[key]).strip() for key in ("TELESCOP", "INSTRUME") if str(header.get(key, "")).strip()]
    writer = writer_of(header)
    told = [" ".join(words)] * bool(words) + ([f"written by {writer.name}"] if writer is not None else [])
    return f" ({', '.join(told)})" if told else "", recognised(header)
