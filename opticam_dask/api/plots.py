"""Plots of a reduction as methods of the ``Reducer``; ``display.diagnostics`` draws them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from opticam_dask.console import Console
from opticam_dask.methods.frame_view import Photometer
from opticam_dask.methods.photometers import AperturePhotometer

if TYPE_CHECKING:
    from opticam_dask.display.diagnostics import Targets


class Plots:
    """Plots of the reduction in an output directory; saved below ``diag``, and shown in a notebook.

    Attributes
    ----------
    out_directory : Path
        Output directory of the reduction.
    show_plots : bool
        Show them in a notebook as well.
    """

    out_directory: Path
    show_plots: bool
    _console: Console

    def plot_growth_curves(self, targets: Targets = None, save: bool = True, **options: Any) -> None:
        """Plot the flux of sources (all, or those of these ids) in growing apertures on the stacks."""
        self._plot("plot_growth_curves", targets=targets, save=save, **options)

    def plot_psfs(self, save: bool = True) -> None:
        """Plot contours and cuts of every source on the stacks; one PDF a camera."""
        self._plot("plot_psfs", save=save)

    def plot_snrs(self, save: bool = True, label: str = "aperture") -> None:
        """Plot the signal-to-noise ratio of every source."""
        self._plot("plot_snrs", label=label, save=save)

    def plot_noise(self, save: bool = True, label: str = "aperture") -> None:
        """Plot the scatter of the sources with what theory says it is made of."""
        self._plot("plot_noise", label=label, save=save)

    def plot_rms_vs_flux(self, save: bool = True, label: str = "aperture") -> None:
        """Plot the robust scatter of the sources against their median flux."""
        self._plot("plot_rms_vs_flux", label=label, save=save)

    def plot_apertures(self, photometer: Photometer | None = None, targets: Targets = None, save: bool = True) -> None:
        """Plot the apertures of a photometer on the reference frames."""
        chosen = photometer or AperturePhotometer()
        self._plot("plot_apertures", photometer=chosen, targets=targets, save=save)

    def plot_background_meshes(self, save: bool = True) -> None:
        """Plot the sky meshes of the reference frames."""
        self._plot("plot_background_meshes", save=save)

    def plot_quality(self, save: bool = True) -> None:
        """Plot seeing, sky, transparency, airmass and number of sources against time."""
        self._plot("plot_quality", save=save)

    def create_gifs(self, max_frames: int = 200, overwrite: bool = True) -> None:
        """Animate the frames of each camera with circles where the transforms put the sources."""
        from opticam_dask.display import diagnostics

        for file in diagnostics.create_gifs(self.out_directory, max_frames=max_frames, overwrite=overwrite):
            self._console.tell(f"Animation saved to {file.resolve()}.")

    def report(self, *, n_sources: int = 20) -> Path:
        """Write ``report.html``, one page about the reduction; see :func:`~opticam_dask.write_report`."""
        from opticam_dask.display import report  # with all that fits need, for this alone

        file = report.write_report(self.out_directory, n_sources=n_sources)
        self._console.tell(f"Report saved to {file.resolve()}.")
        return file

    def _plot(self, name: str, **options: Any) -> None:
        from opticam_dask.display import diagnostics  # with all that draws, which a reduction leaves to its tasks

        for file in getattr(diagnostics, name)(self.out_directory, show=self.show_plots, **options):
            self._announce(file)

    def _announce(self, file: Path | None) -> None:
        if file is not None:
            self._console.tell(f"Plot saved to {file.resolve()}.")
