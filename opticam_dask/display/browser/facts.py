"""Texts of the browser about a frame and a source, as HTML."""

from __future__ import annotations

import html
import os

import numpy as np

from opticam_dask.display.browser.camera_view import STRIPS, CameraView
from opticam_dask.display.browser.figures import CHOSEN
from opticam_dask.display.browser.frame_picture import FramePicture
from opticam_dask.lightcurves.targets import rows_of_sources
from opticam_dask.text import printable


def warning(text: str) -> str:
    """A sentence in red."""
    return f'<p style="color:{CHOSEN};margin:4px 0">{html.escape(printable(text))}</p>'


def facts_of(picture: FramePicture, view: CameraView, source_id: int) -> str:
    """Facts about a frame and the chosen source in it, as HTML."""
    rows = [("file", os.path.basename(picture.file)), ("night", picture.night)]
    rows.append(("MJD (UTC)", f"{picture.mjd_utc:.8f}"))
    names = {"exposure_time": "exposure (s)", **STRIPS, "airmass": "airmass"}
    rows += [(told, f"{picture.values[name]:.5g}") for name, told in names.items() if np.isfinite(picture.values[name])]
    rows.append(("frame flags", ", ".join(picture.flags) or "none"))
    if source_id:
        flux, flags = float(view.light_curve(source_id)[0][picture.index]), view.source_flags(picture.index, source_id)
        rows.append((f"source {source_id}", f"{flux:.6g} electrons" if np.isfinite(flux) else "no flux"))
        rows.append(("its flags", ", ".join(flags) or "none"))
        rows += _on_the_sky(view, source_id)
    if picture.apertures:
        sizes = ", ".join(f"{shape.semimajor_axis:.2f}" for shape in picture.apertures)
        rows.append(("aperture (pixel)" if picture.has_aperture else "circle: one FWHM", sizes))
    told = [text for text in (picture.message and f"Set aside: {picture.message}", picture.problem) if text]
    warnings = "".join(warning(text) for text in told)
    cells = "".join(
        f'<tr><td style="color:#666;padding-right:8px">{html.escape(name)}</td>'
        f'<td style="word-break:break-all">{html.escape(printable(value))}</td></tr>'
        for name, value in rows
    )
    return f'{warnings}<table style="font-size:11px;line-height:1.15">{cells}</table>'


def _on_the_sky(view: CameraView, source_id: int) -> list[tuple[str, str]]:
    """Name, right ascension and declination of a source, as far as the catalogue has them."""
    row = int(rows_of_sources(view.source_ids, [source_id], view.key)[0])
    found = []
    if name := str(view.catalog["name"][row] if "name" in view.catalog else ""):
        found.append(("its name", name))
    if "ra" in view.catalog and np.isfinite(view.catalog["ra"][row]):
        found.append(("RA, Dec (deg)", f"{view.catalog['ra'][row]:.6f} {view.catalog['dec'][row]:+.6f}"))
    return found
