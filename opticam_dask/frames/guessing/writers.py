"""Programs and observatories that write headers: how to recognise them, and what their headers have in common.

Sources: N.I.N.A., "FITS keywords" of its manual; SharpCap, user manual, "FITS header"; MaxIm DL, "Standard FITS header
keywords"; ACP, "FITS header"; Sequence Generator Pro, "Data stored in the FITS header"; LCO, "BANZAI data products";
ESO, "Data interface control document"; NOIRLab, "FITS keyword dictionary"; SAAO, instrument manuals of SHOC and STE;
INDI, "CCD drivers"; POCS of PANOPTES; HiPERCAM pipeline, "hcm file format".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from opticam_dask.frames.headers import keywords


class Writer(NamedTuple):
    """A program or observatory that writes headers, and how to recognise it.

    Attributes
    ----------
    name : str
        Name of the program or observatory, for messages.
    signs : tuple of (str, pattern)
        Keywords, and a pattern that the value of one of them matches in frames of this writer.
    marks : str
        What its times mark: start, middle, end, or empty where that is not documented.
    """

    name: str
    signs: tuple[tuple[str, re.Pattern[str]], ...]
    marks: str = "start"


def _signs(*pairs: tuple[str, str]) -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple((keyword, re.compile(words, re.IGNORECASE)) for keyword, words in pairs)


#: The first whose sign is there counts: ACP drives MaxIm, which signs as well.
WRITERS = (
    Writer("HiPERCAM, ULTRACAM or ULTRASPEC", _signs(("HIPERCAM", r"^M?CCD$")), "middle"),
    Writer("MUFFIN (OPTICAM)", _signs(("CREATOR", r"^MUFFIN"), ("INSTRUME", r"^OPTICAM"))),
    Writer("N.I.N.A.", _signs(("SWCREATE", r"n\.?i\.?n\.?a"), ("CREATOR", r"n\.?i\.?n\.?a\."))),
    Writer("SharpCap", _signs(("SWCREATE", "sharpcap"), ("CREATOR", "sharpcap"), ("PROGRAM", "sharpcap"))),
    Writer("ACP", _signs(("TELESCOP", "^ACP->"), ("SWCREATE", r"\bACP\b"), ("CREATOR", r"\bACP\b"))),
    Writer("MaxIm DL", _signs(("SWCREATE", "maxim"), ("SWMODIFY", "maxim"), ("PROGRAM", "maxim"))),
    Writer("ASIAIR", _signs(("CREATOR", r"\bASIAIR\b")), ""),
    Writer("Sequence Generator Pro", _signs(("CREATOR", r"^Sequence Generator")), ""),
    Writer("INDIGO", _signs(("SWCREATE", r"\bINDIGO\b"), ("CREATOR", r"\bINDIGO\b")), ""),  # the end, before 2020
    Writer("LCO", _signs(("ORIGIN", r"^LCO(GT)?\b"), ("TELID", r"^[0-9]m[0-9]"))),
    Writer("ESO", _signs(("ORIGIN", r"^ESO\b"), ("ESO DET ID", r"."), ("ESO OBS ID", r"."))),
    Writer("NOIRLab", _signs(("OBSERVAT", r"^(CTIO|KPNO|NOAO|NOIRLab|Gemini)"), ("ORIGIN", "NOAO|NOIRLab"))),
    Writer("SAAO", _signs(("OBSERVAT", "^SAAO"), ("TELESCOP", "^SAAO"), ("INSTRUME", "^SHOC"), ("ORIGIN", "^SAAO"))),
    Writer("PANOPTES", _signs(("CREATOR", "^POCS"), ("ORIGIN", "PANOPTES"))),
    Writer("MicroObservatory", _signs(("CREATOR", "^MicroObservatory"))),
    Writer("INDI", (("FRAME", keywords.INDI_FRAME),)),
)


def writer_of(header: Mapping[str, Any]) -> Writer | None:
    """Writer of a header; None where it is not known."""
    for writer in WRITERS:
        for keyword, words in writer.signs:
            value = header.get(keyword)
            if value is not None and words.search(str(value).strip()):
                return writer
    return None
