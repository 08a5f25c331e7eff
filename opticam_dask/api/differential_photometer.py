"""The notebook face of differential light curves, with the vocabulary of the opticam package."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from opticam_dask.console import PREFIX, Console
from opticam_dask.lightcurves import differential, targets
from opticam_dask.lightcurves.reading.columns import CurveArrays
from opticam_dask.lightcurves.targets import Target
from opticam_dask.locations import location
from opticam_dask.store import ownership
from opticam_dask.store.store import Store
from opticam_dask.text import Fold, definitions, sparkline, table, wrap

if TYPE_CHECKING:
    import xarray as xr

    from opticam_dask.api.analysis.analyzer import Analyzer

Comparisons = Target | Sequence[Target] | Literal["auto"]


@dataclass(frozen=True, eq=False)
class DifferentialLightCurves(Mapping[str, "xr.Dataset"]):
    """Light curves of one target by camera key, as from :func:`~opticam_dask.relative_light_curve`."""

    curves: Mapping[str, xr.Dataset]

    def __getitem__(self, key: str) -> xr.Dataset:
        return self.curves[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.curves)

    def __len__(self) -> int:
        return len(self.curves)

    def __repr__(self) -> str:
        lines = [f"{key}: {told}" for key, told in ((key, _one_line(curve)) for key, curve in self.curves.items())]
        return "\n".join(["<DifferentialLightCurves>", *lines])

    def _repr_html_(self) -> str:
        folds = [Fold(key, _curve_html(curve), is_open=True) for key, curve in self.curves.items()]
        return wrap("Differential light curves", "", folds)

    def to_analyzer(self, out_directory: str | Path | None = None, **options: Any) -> Analyzer:
        """:class:`~opticam_dask.Analyzer` of these light curves; with an output directory its plots are saved there."""
        from opticam_dask.api.analysis.analyzer import Analyzer  # a second

        return Analyzer(out_directory, light_curves=self.curves, **options)

    def to_timeseries(self) -> dict[str, Any]:
        """Astropy ``TimeSeries`` by camera key."""
        from opticam_dask.lightcurves import conversions

        return {key: conversions.to_timeseries(curve) for key, curve in self.curves.items()}

    def to_lightkurve(self) -> dict[str, Any]:
        """``lightkurve.LightCurve`` by camera key."""
        from opticam_dask.lightcurves import conversions

        return {key: conversions.to_lightkurve(curve) for key, curve in self.curves.items()}

    def to_stingray(self) -> dict[str, Any]:
        """``stingray.Lightcurve`` by camera key, in seconds."""
        from opticam_dask.lightcurves import conversions

        return {key: conversions.to_stingray(curve) for key, curve in self.curves.items()}


def _one_line(curve: xr.Dataset) -> str:
    attributes = curve.attrs
    comparisons = ", ".join(map(str, attributes["comparisons"]))
    return (
        f"source {attributes['target']} against {comparisons}, {attributes['label']}, {curve.sizes['frame']:,} frames"
    )


def _curve_html(curve: xr.Dataset) -> str:
    """Facts and a small picture of a light curve: one number a frame, which is in memory or small."""
    flux = curve["relative_flux"].to_numpy()
    known = flux[np.isfinite(flux)]
    facts: list[tuple[str, object]] = [("what", _one_line(curve)), ("frames with a flux", f"{len(known):,}")]
    if len(known):
        middle = float(np.median(known))
        facts += [("median", f"{middle:.6g}"), ("scatter", f"{100 * float(np.std(known)) / abs(middle):.3g} %")]
    facts += [(name, str(curve.attrs[name])) for name in ("weighting", "detrend") if curve.attrs.get(name)]
    return definitions(facts) + sparkline(flux)


class DifferentialPhotometer:
    """Differential light curves of a reduction.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    show_plots : bool
        Show plots in a notebook; they are saved in any case.
    verbose : bool
        Print what happens.

    Raises
    ------
    store.StoreError
        When there is no store.
    """

    def __init__(self, out_directory: str | Path, show_plots: bool = True, *, verbose: bool = True) -> None:
        Store.open(out_directory)
        self.out_directory = location(out_directory)
        self.show_plots = show_plots
        self._console = Console(verbose, PREFIX)

    def __repr__(self) -> str:
        return f"<DifferentialPhotometer of {self.out_directory}: {', '.join(self._labels()) or 'no photometry'}>"

    def _repr_html_(self) -> str:
        rows = [(label, ", ".join(keys)) for label, keys in self._labels().items()]
        facts = [("reduction", self.out_directory)]
        return wrap("Differential photometer", definitions(facts) + table(("photometry", "cameras"), rows))

    def _labels(self) -> dict[str, list[str]]:
        """Cameras of each photometry label, from the metadata of the store."""
        found: dict[str, list[str]] = {}
        for camera in Store.open(self.out_directory).cameras:
            for label in camera.labels:
                found.setdefault(label, []).append(camera.key)
        return found

    def get_relative_light_curve(
        self,
        filter_name: str,
        target: Target,
        comparisons: Comparisons,
        phot_label: str = "aperture",
        prefix: str | None = None,
        match_other_cameras: bool = False,
        show_diagnostics: bool = True,
        **options: Any,
    ) -> DifferentialLightCurves:
        """Light curve of a target against comparison sources, saved as a table, a plot, and in the store.

        Parameters
        ----------
        filter_name : str
            Camera key (``1:g``), or filter (``g``, ``g-band``) where one camera has it.
        target : int, str, (float, float) or SkyCoord
            Number of the source in the catalogue of this camera, name, or RA and Dec (ICRS, degrees).
        comparisons : the same, a sequence of them, or "auto"
            The comparison sources; ``"auto"`` chooses them.
        phot_label : str
            Photometry label.
        prefix : str, optional
            Name of the result, by default ``target_<target>``.
        match_other_cameras : bool
            Find target and comparisons in the other cameras, and make their light curves too.
        show_diagnostics : bool
            Plot the target against each comparison, and the comparisons against each other.
        **options
            ``weighting``, ``radius``, ``detrend``, ``detrend_without`` and ``outliers`` of
            :func:`~opticam_dask.relative_light_curve`.

        Returns
        -------
        DifferentialLightCurves
            By camera key.

        Raises
        ------
        ValueError
            When there is no such filter, label or source; the message names those there are.
        """
        from opticam_dask.display import products

        key = self._key_of(filter_name)
        name = targets.kept_name(prefix, target)
        first = differential.relative_light_curve(self.out_directory, key, target, comparisons, phot_label, **options)
        curves = {key: first}
        if match_other_cameras:
            for camera, numbers in in_other_cameras(self.out_directory, first, self._console.tell).items():
                curves[camera] = differential.relative_light_curve(
                    self.out_directory, camera, *numbers, phot_label, **options
                )
        for camera, curve in curves.items():
            for line in curve.attrs.get("choice", "").splitlines():
                self._console.tell(f"{camera}: {line}")
            file = differential.write_relative_light_curve(curve, self.out_directory, name)
            self._console.tell(f"{camera}: light curve saved to {file.resolve()}.")
        keep_in_store(self.out_directory, curves.values(), name, self._console.tell)
        shown = {"show": self.show_plots}
        self._announce(products.plot_relative_light_curve(self.out_directory, curves, name, **shown))
        if show_diagnostics:
            for curve in curves.values():
                self._announce(products.plot_comparisons(self.out_directory, curve, name, **shown))
        return DifferentialLightCurves(curves)

    def _key_of(self, filter_name: str) -> str:
        return Store.open(self.out_directory).camera(filter_name.removesuffix("-band")).key

    def _announce(self, file: Path) -> None:
        self._console.tell(f"Plot saved to {file.resolve()}.")


def keep_in_store(
    out_directory: str | Path, curves: Iterable[xr.Dataset | CurveArrays], name: str, tell: Callable[[str], None]
) -> None:
    """Keep light curves in the store, unless a run is writing to it, which is reported through ``tell``."""
    try:
        with ownership.own(out_directory):
            differential.keep_relative_light_curves(curves, out_directory, name)
    except ownership.OwnedError as error:
        tell(f"Not kept in the store: {error}")
    except OSError as error:
        tell(f"Not kept in the store: {error.strerror or error}")


def in_other_cameras(
    out_directory: str | Path, curve: xr.Dataset | CurveArrays, tell: Callable[[str], None]
) -> dict[str, tuple[int, list[int]]]:
    """Target and comparisons of a light curve in the other cameras.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    curve : xarray.Dataset or CurveArrays
        Light curve of the camera that the numbers of the sources are known for.
    tell : callable
        Called with a line for each camera that does not have all of the sources.

    Returns
    -------
    dict of (int, list of int)
        Numbers by camera key, without the one that is known.
    """
    from opticam_dask.passes.camera_matching import match_cameras

    found = {}
    key, label = curve.attrs["key"], curve.attrs["label"]
    wanted = [curve.attrs["target"], *curve.attrs["comparisons"]]
    for camera in Store.open(out_directory).measured_keys(label):
        if camera == key:
            continue
        try:
            target, *others = match_cameras(out_directory, key, camera).numbers(wanted)
        except ValueError as error:
            tell(f"{camera}: no light curve: {error}.")
            continue
        tell(f"{camera}: target {target}, comparisons {', '.join(map(str, others))}.")
        found[camera] = target, others
    return found
