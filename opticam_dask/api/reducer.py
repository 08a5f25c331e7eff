"""The notebook face: ``Reducer``, a thin layer over the pipeline with the vocabulary of the opticam package."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from opticam_dask import identities
from opticam_dask.api import arguments, summaries
from opticam_dask.api.correctors import BiasCorrector, DarkNoiseCorrector, FlatFieldCorrector, FringeCorrector
from opticam_dask.api.plots import Plots
from opticam_dask.api.scan_report import tell_scan
from opticam_dask.api.session import Session
from opticam_dask.cluster import connections, executors
from opticam_dask.cluster.connections import Connection
from opticam_dask.console import PREFIX, Console, is_notebook
from opticam_dask.display import run_files
from opticam_dask.frames.instruments import Instrument
from opticam_dask.frames.scanning import Scan, find_files, scan
from opticam_dask.lightcurves import light_curve_files
from opticam_dask.methods.backgrounds import DefaultBackground
from opticam_dask.methods.frame_view import Photometer
from opticam_dask.parameters import EXECUTION, REDUCTION, ReductionParameters, held_to
from opticam_dask.passes.calibration import PLURAL, Calibration
from opticam_dask.pipeline import driver
from opticam_dask.store.store import Store

if TYPE_CHECKING:
    from astropy.table import QTable

    from opticam_dask.cluster.executors import Client


class Reducer(Plots):
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
        Detection threshold, in units of the background RMS.
    barycenter : bool
        Compute barycentric times (TDB).
    instrument : Instrument, optional
        What the headers mean; by default ``OPTICAM_MX``.
    extension : int or str, optional
        Number or EXTNAME of the HDU that holds the image; by default that of the instrument.
    rebin_factor : int
        Sum N x N pixels to one.
    remove_cosmic_rays : bool
        Replace cosmic rays (L.A.Cosmic) before anything else is measured.
    biases, darks, flats, fringes : path or sequence of path, optional
        Directories of calibration frames, of all cameras together (headers say which is whose). Masters are made from
        them and kept in the store. Fringes are a map that is ready, or several exposures of the sky, for any filter.
    calibration : path or sequence of path, optional
        Directories of all kinds together, sorted by IMAGETYP and its like. What is given by itself goes first.
    flats_of_other_filters : bool
        Take the flats of another filter of the camera where a camera key has none of its own.
    bias_corrector, dark_corrector, flat_corrector : BiasCorrector, DarkNoiseCorrector, FlatFieldCorrector, optional
        Directories of calibration frames as objects, as the opticam package has them.
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
        Longest time that a frame may take before it is set aside (0 is no limit), in seconds. There is no limit without
        a cluster.
    break_lock : bool
        Take the output directory over from a run that is surely dead.
    sources : path, table or sequence of dict, optional
        Sources to measure beside those that are found (:func:`~opticam_dask.frames.placed_sources.read_sources`). Added
        to a reduction that is done, they alone are measured.
    moving : path or sequence of path, optional
        Ephemerides of moving targets (:func:`~opticam_dask.frames.placed_sources.read_track`).
    sky_catalog, wcs, sky_epoch : path, path or sequence of path, and float, optional
        Stars or plate-solved frames by which new catalogues are found on the sky (see :func:`find_sky`).
    target_coord : (float, float), optional
        Right ascension and declination of the target, which go before those of the headers, in degrees; by default the
        headers.
    figures : bool
        Draw figures of catalogues, sky, alignment and noise.
    show_plots : bool
        Show them in a notebook; they are saved in any case.
    verbose : bool
        Print what happens.
    prefix : str
        What every printed line starts with.
    session : Session, optional
        Hold on the output directory that is open already; by default each method opens one of its own.
    parameters : ReductionParameters, optional
        Those that :meth:`reduce` will be given: held against those of the store before any header is read.

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

    @held_to(REDUCTION, EXECUTION)
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
        fringes: str | Path | Sequence[str | Path] | None = None,
        calibration: str | Path | Sequence[str | Path] | None = None,
        flats_of_other_filters: bool = False,
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
        sources: str | Path | Sequence[Any] | None = None,
        moving: str | Path | Sequence[str | Path] = (),
        sky_catalog: str | Path | None = None,
        wcs: str | Path | Sequence[str | Path] = (),
        sky_epoch: float | None = None,
        target_coord: tuple[float, float] | None = None,
        figures: bool = True,
        show_plots: bool = True,
        verbose: bool = True,
        prefix: str = PREFIX,
        session: Session | None = None,
        parameters: ReductionParameters | None = None,
    ) -> None:
        arguments.require_callables(background=background, finder=finder, image_filter=image_filter)
        if not callable(aperture_selector):
            raise TypeError(f"aperture_selector must be callable, got {type(aperture_selector).__name__}")
        self.show_plots, self._draws = show_plots, figures
        if session is None:
            console = Console(verbose, prefix)
            how: dict[str, Any] = {"n_workers": number_of_processors, "frame_timeout": frame_timeout}
            place = connections.connect(client, tell=console.tell, **how)
            session = Session(out_directory, place, console, break_lock=break_lock)
        self._session, self._console = session, session.progress
        self.out_directory = session.out_directory
        self.instrument = driver.as_begun(self.out_directory, arguments.as_instrument(instrument, extension))
        self._background, self._finder = arguments.plain(background), finder
        self._aperture_selector, self._image_filter = aperture_selector, image_filter
        given: dict[Any, Any] = {BiasCorrector: (biases, bias_corrector)}
        given |= {DarkNoiseCorrector: (darks, dark_corrector), FlatFieldCorrector: (flats, flat_corrector)}
        given[FringeCorrector] = fringes, None
        self._correctors = arguments.correctors(given, calibration, self.instrument)
        self._frames_per_block = frames_per_block
        self._sources = arguments.placed_sources(sources, moving)
        self._sky = arguments.sky_query(sky_catalog, wcs, sky_epoch)
        self._options: dict[str, Any] = {
            "threshold": threshold,
            "barycenter": barycenter,
            "rebin_factor": rebin_factor,
            "remove_cosmic_rays": remove_cosmic_rays,
            "flats_of_other_filters": flats_of_other_filters,
            "target_coord": target_coord,
        }
        if isinstance(background, DefaultBackground):
            self._options["box_size"] = background.box_size
        ReductionParameters(**self._options)
        self._calibration: Calibration | None = None
        self._check_early(parameters)
        session.announce_directory()
        self.scan = self._read_headers(arguments.paths(data_directory, c1_directory, c2_directory, c3_directory))
        session.executor.n_pixels = int((self.scan.table["ny"] * self.scan.table["nx"]).sum())
        self._report_scan()
        self._calibration = self._find_calibration_frames()

    # ---------------------------------------------------------------- what was found in the headers

    def _check_early(self, parameters: ReductionParameters | None) -> None:
        """Refuse a store of other parameters before any header is read; with calibration frames they tell first."""
        if parameters is not None and not self._correctors and Store.at(self.out_directory).exists():
            driver.check_parameters(self.setup(parameters))

    def _read_headers(self, paths: Sequence[str | Path]) -> Scan:
        calibration = {file for entry in self._correctors for file in find_files(entry.directories)}
        files = [file for file in find_files(paths) if file not in calibration]
        with self._console.stage("Reading headers", len(files), "files"):
            workers = self._session.executor.opened
            return scan(files, self.instrument, progress=self._console.reach, executor=workers)

    def _find_calibration_frames(self) -> Calibration | None:
        found = [entry.frames(self.instrument) for entry in self._correctors]
        for entry in found:
            entry.require_window_of(self.scan.table)
            for key, rows in entry.table.groupby("key"):
                self._console.tell(f"{len(rows)} {key} {entry.kind} frames.")
            for file, reason in entry.set_aside:
                self._console.tell(f"Left out of the {PLURAL[entry.kind]}: {Path(file).name}: {reason}")
        return Calibration.of(*found)

    def _report_scan(self) -> None:
        """Say what was found, and draw the times; later, with all other figures, where processes have started."""
        tell_scan(self.scan, self.instrument, self._console.tell)
        table = self.scan.table
        times = {str(key): rows["mjd_utc"].to_numpy() for key, rows in table.groupby("key")}
        self._drawn_later = [run_files.of_headers(times)]
        if self._session.executor.opened is None:
            self._write_files(self._drawn_later)
            self._drawn_later = []

    @property
    def camera_files(self) -> dict[str, list[str]]:
        """Paths of the frames of each camera key, in time order."""
        return {str(key): rows["file"].tolist() for key, rows in self.scan.table.groupby("key")}

    @property
    def ignored_files(self) -> list[str]:
        """Files that cannot be used at all."""
        return [file for file, _ in self.scan.set_aside]

    # ---------------------------------------------------------------- passes

    @held_to(REDUCTION)
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
        setup = self.setup(ReductionParameters(**{**self._options, **options}))
        with self._session:
            self._drive(setup, driver.Changes(new, append, tuple(redo), rebuild_reference), {})
            self._write_files([*self._drawn_later, *run_files.OF_FRAMES])

    def _drive(
        self, setup: driver.Setup, changes: driver.Changes, photometers: Mapping[str, Photometer]
    ) -> driver.Outcome:
        """Run all passes, and say how many frames were aligned and set aside."""
        with self._session as session:
            driver.prepare(setup, self.scan, self._console, changes)
            self._console.tell("Creating source catalogs.")
            outcome = driver.drive(driver.Run(setup, session.executor, self._console, photometers))
            driver.finish(setup)
        self._report_alignment(outcome)
        return outcome

    def _write_files(self, files: Sequence[run_files.RunFile]) -> None:
        """Files for people, where the passes ran; in this process when they had nothing to do, or it shows figures."""
        shows = self.show_plots and is_notebook()
        place = (None if shows else self._session.executor.opened) or executors.InProcess()
        wanted = [file for file in files if self._draws or not file.is_figure]
        for file in run_files.write_run_files(self.out_directory, wanted, place, self._console, show=shows):
            if file.suffix == ".pdf":
                self._announce(file)

    def _report_alignment(self, outcome: driver.Outcome) -> None:
        tell = self._console.tell
        for key, (aligned, total) in summaries.aligned_counts(Store.open(self.out_directory)).items():
            tell(f"{key}: {aligned} image(s) aligned.")
            tell(f"{key}: {total - aligned} image(s) could not be aligned.")
        summaries.tell_of_frames(self._console, "Set aside", outcome.set_aside, self.out_directory)
        for camera in Store.open(self.out_directory).cameras:
            if camera.catalog.is_whole:
                tell(f"{camera.key}: {len(camera.catalog['source_id'])} source(s) in the catalogue.")

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
        by_label = arguments.photometers_by_label(photometer, label)
        setup = self._stored_setup()
        driver.check_parameters(setup)
        driver.require_catalog(setup)
        with self._session as session:
            setup.store.begin_changes()
            driver.place_sources(setup, self._console)
            run = driver.Run(setup, session.executor, self._console, by_label)
            outcome = driver.drive(run, driver.TO_LIGHT_CURVES)
            driver.finish(setup)
            summaries.tell_of_frames(self._console, "Set aside", outcome.set_aside, self.out_directory)
            self._write_light_curves(outcome, list(by_label))
            self._write_files(run_files.of_photometry(self.out_directory, by_label))

    def _write_light_curves(self, outcome: driver.Outcome, labels: Sequence[str]) -> None:
        """Files and diagrams of what was measured."""
        with self._session as session:
            folders = [
                light_curve_files.write_light_curves(
                    self.out_directory, name, session.executor, self._console, if_changed=True
                )
                for name in labels
            ]
        summaries.tell_of_frames(self._console, "Not measured", outcome.unmeasured, self.out_directory)
        for directory in folders:
            self._console.tell(f"Photometry results saved to {directory}.")

    def reduce(
        self,
        photometer: Photometer | Sequence[Photometer] | None = None,
        *,
        label: str | None = None,
        parameters: ReductionParameters | None = None,
        changes: driver.Changes | None = None,
    ) -> None:
        """Make catalogues and light curves: :meth:`create_catalogs` and :meth:`photometry`, with fewer reads of frames.

        Parameters
        ----------
        photometer : Photometer or sequence of Photometer, optional
            By default ``AperturePhotometer()``; several are measured on one read of each frame.
        label : str, optional
            Name of the result; by default that of the photometer.
        parameters : ReductionParameters, optional
            By default those of the constructor.
        changes : Changes, optional
            What to do to a reduction that is there already; by default it goes on.

        Raises
        ------
        pipeline.ReductionError, ownership.OwnedError, store.StoreError, ValueError
            For the reasons that :meth:`create_catalogs` and :meth:`photometry` name.
        """
        with self._session:
            setup = self.setup(parameters or ReductionParameters(**self._options))
            by_label = arguments.photometers_by_label(photometer, label)
            outcome = self._drive(setup, changes or driver.Changes(), by_label)
            has_catalog = any(camera.catalog.is_whole for camera in setup.store.cameras)
            if has_catalog:
                self._write_light_curves(outcome, list(by_label))
            of_photometry = run_files.of_photometry(self.out_directory, by_label)
            self._write_files([*self._drawn_later, *run_files.OF_FRAMES, *of_photometry])
            driver.require_catalog(setup)

    # ---------------------------------------------------------------- what was found

    @property
    def catalogs(self) -> dict[str, QTable]:
        """Source catalogue of each camera key that has one."""
        from opticam_dask.display import products  # with all that draws

        if not Store.at(self.out_directory).exists():
            return {}
        keys = [camera.key for camera in Store.open(self.out_directory).cameras if camera.catalog.is_whole]
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
        for camera in Store.open(self.out_directory).cameras:
            for part in camera.parts:
                values |= dict(zip(part.manifest()["file"], part.frames[name], strict=True))
        return values

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(files)} {key}" for key, files in self.camera_files.items())
        return f"<Reducer of {self.instrument.name}: {counts} frames -> {self.out_directory}>"

    def _repr_html_(self) -> str:
        return summaries.of_reduction(
            self.out_directory,
            self.instrument.name,
            self.camera_files,
            self.scan.set_aside,
            identities.describe(ReductionParameters(**self._options)),
        )

    # ---------------------------------------------------------------- inside

    def setup(self, parameters: ReductionParameters) -> driver.Setup:
        """Settings of the reduction with some parameters."""
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
            sources=self._sources,
            sky=self._sky,
        )

    def _stored_setup(self) -> driver.Setup:
        """Set-up with the parameters that the store was made with."""
        if not Store.at(self.out_directory).exists():
            raise driver.ReductionError(f"{self.out_directory} has no catalogue yet: run create_catalogs() first.")
        return self.setup(driver.stored_parameters(self.out_directory))
