"""Write the report of a reduction."""

from __future__ import annotations

from pathlib import Path

from opticam_dask.display.report.gathering import gather
from opticam_dask.display.report.page import render
from opticam_dask.locations import location, replacing
from opticam_dask.parameters import held_to
from opticam_dask.result_parameters import SHOWING

REPORT_NAME = "report.html"


@held_to(SHOWING)
def write_report(out_directory: str | Path, *, n_sources: int = 20) -> Path:
    """Write ``report.html``: one page about a reduction, which needs no other file and no network.

    It says what was reduced, how and with which versions, what was set aside and why, and shows observing conditions,
    catalogue, light curves, noise against theory and star profiles. A reduction that is not done has a report of what
    is there. The same store gives the same bytes.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    n_sources : int
        Sources of each camera with a light curve, the brightest first. Targets and comparisons of differential light
        curves come before them.

    Returns
    -------
    Path
        The page, which is complete or was not touched.

    Raises
    ------
    store.StoreError
        When there is no store, or it is damaged.
    ValueError
        When ``n_sources`` is negative.
    """
    text = render(gather(out_directory, n_sources))
    file = location(out_directory) / REPORT_NAME
    with replacing(file) as temporary:
        # a text that is no Unicode, as the name of a file can be, must not spoil the page
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))
    return file
