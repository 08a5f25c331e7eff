"""Images written as FITS files for other programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from opticam_dask import locations


def write_images(file: Path, images: Sequence[tuple[str | None, np.ndarray, Mapping[str, Any]]]) -> None:
    """Write images as the HDUs of one file; a reader never sees a part of the file.

    Parameters
    ----------
    file : Path
        Replaced when it is there.
    images : sequence of (str, ndarray, dict)
        Name of the extension, pixels, and entries of the header: values, or values with comments. The first is the
        primary image, which needs no name. Characters that headers cannot hold become question marks.
    """
    from astropy.io import fits

    hdus: list[Any] = []
    for name, pixels, entries in images:
        header = fits.Header()
        header.update({keyword: _plain(value) for keyword, value in entries.items()})
        hdus.append(fits.ImageHDU(pixels, header, name) if hdus else fits.PrimaryHDU(pixels, header))
    with locations.replacing(file) as temporary:
        fits.HDUList(hdus).writeto(temporary, overwrite=True)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return _plain(value[0]), value[1]
    return value.encode("ascii", "replace").decode() if isinstance(value, str) else value
