"""The notebook face: ``Reducer``, a thin layer over the pipeline with the vocabulary of the opticam package."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import QTable

from opticam_dask import identities
from opticam_dask.api.correctors import BiasCorrector, Corrector, DarkNoiseCorrector, FlatFieldCorrector
from opticam_dask.cluster import executors
from opticam_dask.cluster.executors import Client, Connection
from opticam_dask.console import PREFIX, Console
from opticam_dask.display import diagnostics, products, report
from opticam_dask.flags import UNUSABLE
from opticam_dask.frames.instruments import OPTICAM_MX, Instrument
from opticam_dask.frames.scanning import Scan, find_files, scan, time_gaps
from opticam_dask.html_summaries import Fold, counted, definitions, table, wrap
from opticam_dask.lightcurves import light_curve_files
from opticam_dask.locations import is_remote, location, replacing
from opticam_dask.methods.backgrounds import DefaultBackground
from opticam_dask.methods.photometers import AperturePhotometer
from opticam_dask.parameters import ReductionParameters
from opticam_dask.passes.calibration import PLURAL, Calibration
from opticam_dask.passes.second_pass import Photometer
from opticam_dask.pipeline import driver
from opticam_dask.store import layout, ownership
from opticam_dask.text import printable

LOG_NAME = "opticam_dask.log"


class Reducer:
    """Reduce directories of frames to catalogues and light curves.

    The constructor reads the headers. :meth:`create_catalogs` runs the first pass and makes the catalogues,
    :meth:`photometry` measures every catalogue source in every frame. All results are in
    ``out_directory/reduction.zarr``; what is done already is not done again.

    Parameters
    ----------
    out_directory : path or URL
        Where results go; made if it does not exist. A URL such as ``s3://bucket/run`` is an object store.
    data_directory : path or URL, or sequence of them
        Directories of frames (searched with everything below them) or files, of this machine or remote.
    c1_directory, c2_directory, c3_directory : path, optional
        Further directories, one for each camera.
    background : callable, optional
        ``image -> Background2D``-like with ``background``, ``background_rms``, ``background_median`` and
        ``background_rms_median``; by default photutils' default estimators on a mesh of 1/32 of the frame.
        Functions of a notebook cell and lambdas work.
    finder : callable, optional
        ``(image, threshold) -> QTable`` with the columns of photutils' source catalogues; by default
        ``DefaultFinder``.
    threshold : float
        Detection threshold in units of the background RMS.
    barycenter : bool
        Compute barycentric times (TDB).
    instrument : Instrument, optional
        What the headers mean; by default ``OPTICAM_MX``.
    extension : int or str, optional
        Number or EXTNAME of the HDU that holds the image; by default that of the instrument.
    rebin_factor : int
        Sum ``rebin_factor`` x ``rebin_factor`` pixels.
    remove_cosmic_rays : bool
        Replace cosmic rays first.
    biases, darks, flats : path or sequence of path, optional
        Directories of calibration frames, of all cameras together (headers say which is whose). Masters are made from
        them and kept in the store.
    bias_corrector, dark_corrector, flat_corrector : BiasCorrector, DarkNoiseCorrector, FlatFieldCorrector, optional
        The same as objects.
    image_filter : callable, optional
        ``array -> array`` on every raw frame (ADU), before anything else.
    aperture_selector : callable
        Chooses the width of the aperture from the widths of the catalogue's brightest sources.
    client : Connection or distributed.Client or str, optional
        Where blocks run: what :func:`connect` gives, a Dask client, the address of a scheduler, ``"none"`` for this
        process; by default worker processes on this machine for as long as a method runs.
    number_of_processors : int, optional
        Worker processes on this machine; by default one a processor.
    frames_per_block : int, optional
        Frames of one task; by default from frame shape and pixel type.
    frame_timeout : float
        Seconds after which a frame that does not end is set aside; 0 is no limit. Not without a cluster.
    break_lock : bool
        Take the output directory over from a run that holds it.
    target_coord : (float, float), optional
        RA and DEC of the target in degrees; goes before the headers.
    show_plots : bool
        Show plots in a notebook; they are saved in any case.
    verbose : bool
        Print what happens.
    prefix : str
        What every printed line starts with.

    Raises
    ------
    pipeline.ReductionError
        When no frame can be used.
    FileNotFoundError
        When a directory does not exist.
    calibration.CalibrationError
        When there is no calibration frame in the directories given.
    TypeError
        When ``background``, ``finder``, ``image_filter`` or ``aperture_selector`` cannot be called.
    """

    def __init__(
        self,
        out_directory: str | Path,
        data_directory: str | Path | Sequence[str | Path] | None = None,
        *,
        c1_directory: str | Path | None = None,
        c2_directory: str | Path | None = None,
        c3_directory: str | Path | None = None,
        background: Callable[[np.ndarray], Any] | None = None,
        finder: Callable[[np.ndarray, np.ndarray], Any] | None = None,
        threshold: float = 5.0,
        barycenter: bool = True,
        instrument: Instrument | type[Instrument] | None = None,
        extension: int | str | None = None,
        rebin_factor: int = 1,
        remove_cosmic_rays: bool = False,
        biases: str | Path | Sequence[str | Path] | None = None,
        darks: str | Path | Sequence[str | Path] | None = None,
        flats: str | Path | Sequence[str | Path] | None = None,
        bias_corrector: BiasCorrector | None = None,
        dark_corrector: DarkNoiseCorrector | None = None,
        flat_corrector: FlatFieldCorrector | None = None,
        image_filter: Callable[[np.ndarray], np.ndarray] | None = None,
        aperture_selector: Callable[[np.ndarray], float] = np.median,
        client: Connection | Client | str | None = None,
        number_of_processors: int | None = None,
        frames_per_block: int | None = None,
        frame_timeout: float = executors.FRAME_TIMEOUT,
        break_lock: bool = False,
        target_coord: tuple[float, float] | None = None,
        show_plots: bool = True,
        verbose: bool = True,
        prefix: str = PREFIX,
    ) -> None:
        for name, value in (("background", background), ("finder", finder), ("image_filter", image_filter)):
            if value is not None and not callable(value):
                raise TypeError(f"{name} must be a callable or None, got {type(value).__name__}")
        if not callable(aperture_selector):
            raise TypeError(f"aperture_selector must be callable, got {type(aperture_selector).__name__}")
        self.out_directory = location(out_directory)
        self.instrument = _as_instrument(instrument, extension)
        self.show_plots = show_plots
        self._console = Console(verbose, prefix)
        self._client = client
        self._n_workers = number_of_processors
        self._background, self._finder = _plain(background), finder
        self._aperture_selector, self._image_filter = aperture_selector, image_filter
        self._correctors = (
            _corrector(BiasCorrector, biases, bias_corrector),
            _corrector(DarkNoiseCorrector, darks, dark_corrector),
            _corrector(FlatFieldCorrector, flats, flat_corrector),
        )
        self._frames_per_block = frames_per_block
        self._frame_timeout = frame_timeout
        self._break_lock = break_lock
        self._goes_on = False
        self._options: dict[str, Any] = {
            "threshold": threshold,
            "barycenter": barycenter,
            "rebin_factor": rebin_factor,
            "remove_cosmic_rays": remove_cosmic_rays,
            "target_coord": target_coord,
        }
        if isinstance(background, DefaultBackground):
            self._options["box_size"] = background.box_size
        ReductionParameters(**self._options)
        self._make_directory()
        self.scan = self._read_headers(_paths(data_directory, c1_directory, c2_directory, c3_directory))
        self._report_scan()
        self._calibration = self._find_calibration_frames()

    # ---------------------------------------------------------------- what was found in the headers

    def _make_directory(self) -> None:
        if is_remote(self.out_directory):
            self.out_directory.mkdir(parents=True, exist_ok=True)  # it must be reachable
        elif not self.out_directory.is_dir():
            self._console.tell(f"{self.out_directory} not found, attempting to create ...")
            try:
                self.out_directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise layout.StoreError(f"{self.out_directory} cannot be made: {error.strerror or error}") from error
            self._console.tell(f"{self.out_directory} created.")

    def _read_headers(self, paths: Sequence[str | Path]) -> Scan:
        with driver.stage(self._console, "Scanning data directory", 0):
            calibration = {file for entry in self._correctors if entry for file in find_files(entry.directories)}
            files = [file for file in find_files(paths) if file not in calibration]
            return scan(files, self.instrument)

    def _find_calibration_frames(self) -> Calibration | None:
        found = [None if entry is None else entry.frames(self.instrument) for entry in self._correctors]
        for entry in found:
            if entry is not None:
                for key, rows in entry.table.groupby("key"):
                    self._console.tell(f"{len(rows)} {key} {entry.kind} frames.")
                for file, reason in entry.set_aside:
                    self._console.tell(f"Left out of the {PLURAL[entry.kind]}: {Path(file).name}: {reason}")
        return Calibration.of(*found)

    def _report_scan(self) -> None:
        table, tell = self.scan.table, self._console.tell
        tell(f"Checking instrument {self.instrument.name}.")
        if not len(table):
            lines = [f"{Path(file).name}: {reason}" for file, reason in self.scan.set_aside[:5]]
            raise driver.ReductionError(
                f"no usable frame among {len(self.scan.set_aside)} file(s). " + "; ".join(lines)
            )
        tell(f"{self.instrument.name} successfully passed all checks.")
        for message in self.scan.warnings:
            tell(f"Note: {message}")
        binnings = sorted(set(table["binning"].tolist()))
        tell(f"Binning: {', '.join(f'{n}x{n}' for n in binnings)}")
        counts = table.groupby("key").size()
        tell(f"Filters: {', '.join(counts.index)}")
        for key, count in counts.items():
            tell(f"{count} {key} images.")
        for file, reason in self.scan.set_aside:
            tell(f"Set aside: {Path(file).name}: {reason}")
        for key, before, after, gap, median in time_gaps(table):
            tell(
                f"Large time gap in {key} between {Path(before).name} and {Path(after).name} "
                f"({gap:.1f} s; the median step is {median:.1f} s)."
            )
        times = {key: rows["mjd_utc"].to_numpy() for key, rows in table.groupby("key")}
        self._announce(products.plot_header_times(self.out_directory, times, show=self.show_plots))

    @property
    def camera_files(self) -> dict[str, list[str]]:
        """Paths of the frames of each camera key, in time order."""
        return {str(key): rows["file"].tolist() for key, rows in self.scan.table.groupby("key")}

    @property
    def ignored_files(self) -> list[str]:
        """Files that cannot be used at all."""
        return [file for file, _ in self.scan.set_aside]

    # ---------------------------------------------------------------- passes

    def create_catalogs(
        self,
        max_catalog_sources: int = 100,
        n_alignment_sources: int = 30,
        transform_type: str = "affine",
        rotation_limit: float | None = None,
        translation_limit: float | tuple[float, float] | None = None,
        scale_limit: float | None = None,
        *,
        stack_frames: int = 256,
        reference_night: str | None = None,
        box_size: int | tuple[int, int] | None = None,
        n_pixels: int | None = None,
        border_width: int | None = None,
        new: bool = False,
        append: bool = False,
        redo: Sequence[str] = (),
        rebuild_reference: bool = False,
    ) -> None:
        """Measure sky, sources and transform of every frame, stack, and make the catalogues.

        Parameters are those of :class:`~opticam_dask.parameters.ReductionParameters`. Frames that were reduced
        before with the same parameters are not reduced again. ``new`` begins again (the old store is kept under
        another name), ``append`` takes up frames of which the store has none, ``redo`` reduces nights again, and
        ``rebuild_reference`` chooses reference frames and catalogues again.

        Raises
        ------
        ownership.OwnedError
            When another run works on the output directory.
        pipeline.ReductionError
            When the output directory holds a reduction with other parameters or from other files.
        """
        options = {
            "max_catalog_sources": max_catalog_sources,
            "n_alignment_sources": n_alignment_sources,
            "transform_type": transform_type,
            "rotation_limit": rotation_limit,
            "translation_limit": translation_limit,
            "scale_limit": scale_limit,
            "stack_frames": stack_frames,
            "reference_night": reference_night,
            "n_pixels": n_pixels,
            "border_width": border_width,
        }
        if box_size is not None:
            options["box_size"] = box_size
        setup = self._setup(ReductionParameters(**{**self._options, **options}))
        changes = driver.Changes(new, append, tuple(redo), rebuild_reference)
        with self._owning(), self._logging():
            driver.prepare(setup, self.scan, self._console, changes)
            with self._executor() as executor:
                driver.make_masters(setup, executor, self._console)
                self._console.tell("Creating source catalogs.")
                driver.choose_references(setup, executor, self._console)
                outcome = driver.reduce_frames(setup, executor, self._console)
            driver.finish(setup, is_last=not self._goes_on)
        self._report_alignment(outcome)
        products.write_catalogs(self.out_directory)
        self._announce(products.plot_catalogs(self.out_directory, show=self.show_plots))
        for file in products.plot_frames(self.out_directory, show=self.show_plots):
            self._announce(file)

    def _report_alignment(self, outcome: driver.Outcome) -> None:
        tell = self._console.tell
        for key, (aligned, total) in self._aligned_counts().items():
            tell(f"{key}: {aligned} image(s) aligned.")
            tell(f"{key}: {total - aligned} image(s) could not be aligned.")
        for file, message in outcome.problems[:20]:
            tell(f"Set aside: {Path(file).name}: {message}")
        if len(outcome.problems) > 20:
            tell(f"... and {len(outcome.problems) - 20} more: opticam-dask status {self.out_directory}")
        for key, catalog in self.catalogs.items():
            tell(f"{key}: {len(catalog)} source(s) in the catalogue.")

    def _aligned_counts(self) -> dict[str, tuple[int, int]]:
        """Frames that are aligned and frames that were reduced, of each key."""
        path = layout.require_store(self.out_directory)
        counts = {}
        for key in layout.keys(path):
            flags = [layout.read_array(path, f"{part.group}/frames", "flags") for part in layout.parts(path, key)]
            reduced = np.concatenate([values[values != 0] for values in flags] or [np.empty(0, np.uint32)])
            counts[key] = int(np.count_nonzero(reduced & np.uint32(UNUSABLE) == 0)), len(reduced)
        return counts

    def photometry(
        self, photometer: Photometer | Sequence[Photometer] | None = None, *, label: str | None = None
    ) -> None:
        """Measure every catalogue source in every aligned frame.

        Parameters
        ----------
        photometer : Photometer or sequence of Photometer, optional
            By default ``AperturePhotometer()``; several are measured on one read of each frame.
        label : str, optional
            Name of the result; by default that of the photometer. Two variants of one photometer need two.

        Raises
        ------
        ValueError
            When a label is no name, or several photometers would have one.
        pipeline.ReductionError
            When there is no catalogue: run :meth:`create_catalogs` first; when the first pass was made with another
            background, finder, calibration or instrument.
        store.StoreError
            When the label is there with other parameters.
        """
        chosen = [photometer or AperturePhotometer()] if not isinstance(photometer, Sequence) else list(photometer)
        labels = [check_label(label or entry.label) for entry in chosen]
        if len(set(labels)) < len(labels):
            raise ValueError(f"several photometers would have one label: {', '.join(labels)}")
        by_label = dict(zip(labels, chosen, strict=True))
        setup = self._stored_setup()
        driver.check_parameters(setup)
        with self._owning(), self._logging():
            layout.begin_changes(setup.path)
            with self._executor() as executor:
                outcome = driver.measure_frames(setup, by_label, executor, self._console)
                driver.finish(setup)
                folders = [
                    light_curve_files.write_light_curves(self.out_directory, name, executor, self._console)
                    for name in labels
                ]
        for file, message in outcome.problems[:20]:
            self._console.tell(f"Not measured: {Path(file).name}: {message}")
        if len(outcome.problems) > 20:
            self._console.tell(f"... and {len(outcome.problems) - 20} more: opticam-dask status {self.out_directory}")
        for name, directory in zip(labels, folders, strict=True):
            self._console.tell(f"Photometry results saved to {directory}.")
            if layout.measured_keys(setup.path, name):
                self._plot(diagnostics.plot_rms_vs_flux, label=name)

    # ---------------------------------------------------------------- plots, see ``diagnostics``

    def plot_growth_curves(self, targets: diagnostics.Targets = None, save: bool = True, **options: Any) -> None:
        """Plot the flux of sources (all, or those of these ids) in growing apertures on the stacks."""
        self._plot(diagnostics.plot_growth_curves, targets=targets, save=save, **options)

    def plot_psfs(self, save: bool = True) -> None:
        """Plot contours and cuts of every source on the stacks; one PDF a camera."""
        self._plot(diagnostics.plot_psfs, save=save)

    def plot_snrs(self, save: bool = True, label: str = "aperture") -> None:
        """Plot the signal-to-noise ratio of every source."""
        self._plot(diagnostics.plot_snrs, label=label, save=save)

    def plot_noise(self, save: bool = True, label: str = "aperture") -> None:
        """Plot the scatter of the sources with what theory says it is made of."""
        self._plot(diagnostics.plot_noise, label=label, save=save)

    def plot_rms_vs_flux(self, save: bool = True, label: str = "aperture") -> None:
        """Plot the robust scatter of the sources against their median flux."""
        self._plot(diagnostics.plot_rms_vs_flux, label=label, save=save)

    def plot_apertures(
        self, photometer: Photometer | None = None, targets: diagnostics.Targets = None, save: bool = True
    ) -> None:
        """Plot the apertures of a photometer on the reference frames."""
        chosen = photometer or AperturePhotometer()
        self._plot(diagnostics.plot_apertures, photometer=chosen, targets=targets, save=save)

    def plot_background_meshes(self, save: bool = True) -> None:
        """Plot the sky meshes of the reference frames."""
        self._plot(diagnostics.plot_background_meshes, save=save)

    def plot_quality(self, save: bool = True) -> None:
        """Plot seeing, sky, transparency, airmass and number of sources against time."""
        self._plot(diagnostics.plot_quality, save=save)

    def create_gifs(self, max_frames: int = 200, overwrite: bool = True) -> None:
        """Animate the frames of each camera with circles where the transforms put the sources."""
        for file in diagnostics.create_gifs(self.out_directory, max_frames=max_frames, overwrite=overwrite):
            self._console.tell(f"Animation saved to {file.resolve()}.")

    def report(self, *, n_sources: int = 20) -> Path:
        """Write ``report.html``, one page about the reduction; see :func:`~opticam_dask.write_report`."""
        file = report.write_report(self.out_directory, n_sources=n_sources)
        self._console.tell(f"Report saved to {file.resolve()}.")
        return file

    def _plot(self, draw: Callable[..., list[Path]], **options: Any) -> None:
        for file in draw(self.out_directory, show=self.show_plots, **options):
            self._announce(file)

    # ---------------------------------------------------------------- what was found

    @property
    def catalogs(self) -> dict[str, QTable]:
        """Source catalogue of each camera key that has one."""
        if not layout.exists(self.out_directory):
            return {}
        path = layout.require_store(self.out_directory)
        keys = [key for key in layout.keys(path) if layout.has_product(path, f"{layout.group_name(key)}/catalog")]
        return {key: products.catalog_table(self.out_directory, key) for key in keys}

    @property
    def transforms(self) -> dict[str, np.ndarray]:
        """Transform (3 x 3, reference to frame) of each aligned frame, by path."""
        return {file: matrix for file, matrix in self._per_frame("transform").items() if np.all(np.isfinite(matrix))}

    @property
    def unaligned_files(self) -> list[str]:
        """Frames that were set aside in the first pass."""
        return [file for file, message in self._per_frame("message").items() if message]

    def _per_frame(self, name: str) -> dict[str, Any]:
        values: dict[str, Any] = {}
        path = layout.require_store(self.out_directory)
        for key in layout.keys(path):
            for part in layout.parts(path, key):
                files = layout.read_manifest(path, part)["file"]
                values |= dict(zip(files, layout.read_array(path, f"{part.group}/frames", name), strict=True))
        return values

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(files)} {key}" for key, files in self.camera_files.items())
        return f"<Reducer of {self.instrument.name}: {counts} frames -> {self.out_directory}>"

    def _repr_html_(self) -> str:
        facts: list[tuple[str, object]] = [("instrument", self.instrument.name), ("results", self.out_directory)]
        rows: list[tuple[object, ...]] = []
        is_there = layout.exists(self.out_directory)
        path = layout.store_path(self.out_directory)
        for key, files in self.camera_files.items():
            rows.append((key, f"{len(files):,}", *(_so_far(path, key) if is_there else ("0", "none", "none"))))
        columns = ("camera", "frames", "in the store", "sources", "photometry")
        folds = [
            Fold("parameters", definitions(sorted(identities.describe(ReductionParameters(**self._options)).items())))
        ]
        set_aside = self.scan.set_aside
        if set_aside:
            folds.append(Fold(f"{counted(len(set_aside), 'file')} set aside", table(("file", "why"), set_aside)))
        return wrap("Reducer", definitions(facts) + table(columns, rows), folds)

    # ---------------------------------------------------------------- inside

    def _setup(self, parameters: ReductionParameters) -> driver.Setup:
        return driver.Setup(
            out_directory=self.out_directory,
            instrument=self.instrument,
            parameters=parameters,
            background=self._background,
            finder=self._finder,
            aperture_selector=self._aperture_selector,
            frames_per_block=self._frames_per_block,
            calibration=self._calibration,
            image_filter=self._image_filter,
        )

    def _stored_setup(self) -> driver.Setup:
        """Set-up with the parameters that the store was made with."""
        if not layout.exists(self.out_directory):
            raise driver.ReductionError(f"{self.out_directory} has no catalogue yet: run create_catalogs() first.")
        return self._setup(driver.stored_parameters(self.out_directory))

    def _executor(self) -> Any:
        how: dict[str, Any] = {"n_workers": self._n_workers, "frame_timeout": self._frame_timeout}
        return executors.connect(self._client, tell=self._console.tell, **how)

    def _owning(self) -> Any:
        return ownership.own(self.out_directory, break_lock=self._break_lock)

    def _logging(self) -> Any:
        return log_to_file(self.out_directory / LOG_NAME)

    def _announce(self, file: Path | None) -> None:
        if file is not None:
            self._console.tell(f"Plot saved to {file.resolve()}.")


def _so_far(path: Path, key: str) -> tuple[str, str, str]:
    """Frames, sources and photometry labels of a key that are in the store, from its metadata alone."""
    if key not in layout.keys(path):
        return "0", "none", "none"
    parts = layout.parts(path, key)
    labels = sorted({label for part in parts for label in layout.photometry_labels(path, part)})
    group = f"{layout.group_name(key)}/catalog"
    n_sources = (
        str(layout.open_array(path, f"{group}/source_id").shape[0]) if layout.has_product(path, group) else "none"
    )
    return f"{sum(part.n_frames for part in parts):,}", n_sources, ", ".join(labels) or "none"


class _OneLine(logging.Formatter):
    """A message is one line of the log, whatever the names in it hold."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Format all but a traceback."""
        return printable(super().formatMessage(record))


def check_label(label: str) -> str:
    """Refuse a name of a photometry that cannot be the name of a group and of a folder.

    Raises
    ------
    ValueError
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", label):
        raise ValueError(f"a label must be letters, digits, '_', '.', '+' or '-', got {label!r}")
    return label


class log_to_file:
    """Append the log of this package to a file while the block runs."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.logger = logging.getLogger("opticam_dask")

    def __enter__(self) -> None:
        self.local = replacing(self.file) if is_remote(self.file) else contextlib.nullcontext(self.file)
        file = self.local.__enter__()
        if is_remote(self.file) and self.file.exists():
            file.write_bytes(self.file.read_bytes())  # an object cannot be appended to
        self.handler = logging.FileHandler(file, encoding="utf-8", delay=not is_remote(self.file))
        self.handler.setFormatter(_OneLine("%(asctime)s %(name)s %(levelname)s %(message)s"))
        self.logger.addHandler(self.handler)
        self.before = self.logger.level
        self.logger.setLevel(logging.INFO)

    def __exit__(self, *_: object) -> None:
        self.logger.removeHandler(self.handler)
        self.logger.setLevel(self.before)
        self.handler.close()
        self.local.__exit__(None, None, None)  # the log of a run that failed is kept as well


def _as_instrument(instrument: Instrument | type[Instrument] | None, extension: int | str | None) -> Instrument:
    chosen = OPTICAM_MX() if instrument is None else instrument() if isinstance(instrument, type) else instrument
    return chosen if extension is None else replace(chosen, extension=extension)


def _corrector(kind: type[Corrector], directories: Any, given: Corrector | None) -> Corrector | None:
    """Corrector that was given, or one for the directories that were."""
    if given is None:
        return None if directories is None else kind(data_directory=directories)
    if directories is not None:
        raise ValueError(f"{kind.kind} frames are given twice: as directories, and by a {kind.__name__}")
    if not isinstance(given, kind):
        raise TypeError(f"expected a {kind.__name__}, got {type(given).__name__}")
    return given


def _plain(background: Callable[[np.ndarray], Any] | None) -> Callable[[np.ndarray], Any] | None:
    """The default background is this package's own mesh, equal to photutils' and faster; only its box size counts."""
    return None if type(background) is DefaultBackground else background


def _paths(*directories: Any) -> list[str | Path]:
    paths: list[str | Path] = []
    for entry in directories:
        if isinstance(entry, (str, Path)):
            paths.append(entry)
        elif entry is not None:
            paths.extend(entry)
    if not paths:
        raise ValueError("data_directory is missing: give the directory that holds the frames")
    return paths
