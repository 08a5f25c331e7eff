"""What was done to the pixels of a frame before, as programs that calibrate frames write it into headers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

#: Letters of CALSTAT, MaxIm DL and those that follow it.
_LETTERS = {"bias": "B", "dark": "D", "flat": "F"}
#: Keywords that stand in a header once the step is done: IRAF (ccdproc), LCO (BANZAI), astropy's ccdproc.
_DONE = {
    "bias": ("ZEROCOR", "BIASCOR", "L1IDBIAS", "SUBBIAS"),
    "dark": ("DARKCOR", "L1IDDARK", "SUBDARK"),
    "flat": ("FLATCOR", "L1IDFLAT", "FLATCORRECT"),
}
#: Values of such keywords that say that it is not.
_NOT_DONE = re.compile(r"\s*(|no|none|n/?a|false|f|0|omit|perform|skipped)\s*", re.IGNORECASE)


def steps_done(header: Mapping[str, Any]) -> dict[str, str]:
    """Calibration that a frame has had: "bias", "dark" and "flat", each with the keyword that says so.

    Parameters
    ----------
    header : mapping of str to object
        Keywords and values of one frame.
    """
    letters = str(header.get("CALSTAT", "")).strip().upper()
    found = {}
    for kind, letter in _LETTERS.items():
        if re.fullmatch(r"[A-Z]{1,5}", letters) and letter in letters:
            found[kind] = "CALSTAT"
            continue
        said = (name for name in _DONE[kind] if not _NOT_DONE.fullmatch(str(header.get(name, ""))))
        if name := next(said, ""):
            found[kind] = name
    return found
