"""Bias, dark, flat and fringe correctors: where calibration frames are, and their use on single images in a notebook.

A reduction takes them as they are (``Reducer(flat_corrector=...)``); its masters are made on the cluster and kept in
the store. Used alone, a corrector makes its masters in this process when they are first needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from opticam_dask.cluster.executors import InProcess
from opticam_dask.frames.instruments import OPTICAM_MX, Instrument
from opticam_dask.frames.scanning import reader_of
from opticam_dask.kernels.images.fringes import FringeMap
from opticam_dask.kernels.images.masters import Masters
from opticam_dask.passes.calibration import (
    PLURAL,
    CalibrationError,
    CalibrationFrames,
    Detector,
    Kind,
    as_masters,
    find_calibration_frames,
    same_exposure,
)
from opticam_dask.pipeline.reduction import Silent
from opticam_dask.pipeline.stages.master_frames import combine_frames, describe_master, entries_of
from opticam_dask.pipeline.stages.master_strips import MasterJob
from opticam_dask.steps.frame_steps import FrameSteps

Directories = str | Path | Sequence[str | Path] | None


class Corrector:
    """Calibration frames of one kind; use one of its subclasses.

    Parameters
    ----------
    data_directory : path or sequence of path, optional
        Directories of the frames, of all cameras together.
    c1_directory, c2_directory, c3_directory : path, optional
        Further directories, one for each camera.
    instrument : Instrument, optional
        What the headers mean; by default ``OPTICAM_MX``. In a reduction it is that of the reduction.
    bias_corrector : BiasCorrector, optional
        Takes the bias off dark and flat frames when the corrector is used alone; a reduction knows all of them.
    dark_corrector, flat_corrector : DarkNoiseCorrector, FlatFieldCorrector, optional
        The same for the dark current in flats, and for the response in fringe frames.

    Raises
    ------
    ValueError
        Without any directory.
    """

    kind: ClassVar[Kind]

    def __init__(
        self,
        data_directory: Directories = None,
        *,
        c1_directory: str | Path | None = None,
        c2_directory: str | Path | None = None,
        c3_directory: str | Path | None = None,
        instrument: Instrument | None = None,
        bias_corrector: BiasCorrector | None = None,
        dark_corrector: DarkNoiseCorrector | None = None,
        flat_corrector: FlatFieldCorrector | None = None,
    ) -> None:
        given = [data_directory] if isinstance(data_directory, str | Path) else list(data_directory or ())
        given += [entry for entry in (c1_directory, c2_directory, c3_directory) if entry is not None]
        if not given:
            raise ValueError(f"give the directory that holds the {PLURAL[self.kind]} (data_directory)")
        self.directories = given
        self.instrument = OPTICAM_MX() if instrument is None else instrument
        before = (bias_corrector, dark_corrector, flat_corrector)
        self._before = [entry for entry in before if entry is not None]
        self._found: CalibrationFrames | None = None
        self._masters: dict[Detector, dict[str, np.ndarray]] = {}

    def frames(self, instrument: Instrument | None = None) -> CalibrationFrames:
        """Calibration frames in the directories, from their headers.

        Raises
        ------
        calibration.CalibrationError
            When there is none.
        FileNotFoundError
            When a directory does not exist.
        """
        return find_calibration_frames(self.kind, self.directories, instrument or self.instrument)

    def create_master_image(
        self, key: str, shape: tuple[int, ...], binning: int | None = None
    ) -> dict[str, np.ndarray]:
        """Master of a camera key in this process.

        Parameters
        ----------
        key : str
            Camera key such as ``1:g``.
        shape : (int, int)
            Shape ``(ny, nx)`` of the frames.
        binning : int, optional
            By default that of the frames of this shape.

        Returns
        -------
        dict of ndarray
            Master, its variance (``bias`` and ``bias_variance``, or dark, or flat) and the pixels that are bad by it.

        Raises
        ------
        calibration.CalibrationError
            When there are fewer than two frames that fit.
        """
        detector = self._detector(key, shape, binning)
        if detector not in self._masters:
            self._masters[detector] = self._make(self._known(), detector)
        return self._masters[detector]

    def _known(self) -> CalibrationFrames:
        if self._found is None:
            self._found = self.frames()
        return self._found

    def _detector(self, key: str, shape: tuple[int, ...], binning: int | None = None) -> Detector:
        """Detector of a camera key; unless given, its binning is that of the scanned frames of the same shape."""
        table = self._known().table
        same = table[(table["ny"] == shape[0]) & (table["nx"] == shape[1])]
        usual = int(same["binning"].iloc[0]) if len(same) else 1
        return Detector(key, (shape[0], shape[1]), usual if binning is None else binning)

    def _make(self, found: CalibrationFrames, detector: Detector) -> dict[str, np.ndarray]:
        arrays: dict[str, np.ndarray] = {}
        for corrector in self._before:
            arrays |= corrector.create_master_image(*detector)
        masters = Masters(
            bias=arrays.get("bias"),
            dark=arrays.get("dark"),
            flat=arrays.get("flat"),
            bad_pixels=arrays.get("bad_responses"),
        )
        entries = entries_of(found.select(detector))
        if self.kind == "dark" and "bias" not in arrays and not _is_one([entry["exposure_time"] for entry in entries]):
            raise CalibrationError("darks of several exposure times need biases: give a bias_corrector")
        job = MasterJob(self.kind, _reading_steps(self.instrument, detector.shape, masters), entries)
        return describe_master(combine_frames(job, InProcess(), Silent(), lambda file, reason: None), arrays)


class BiasCorrector(Corrector):
    """Bias frames of each camera; the master is their mean without outliers, in ADU."""

    kind = "bias"

    def correct(self, image: np.ndarray, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Take the bias off an image in ADU; pixels of bad columns become NaN.

        Returns
        -------
        image, variance : ndarray, shape (ny, nx)
            The variance is that of the master.
        """
        master = self.create_master_image(key, image.shape)
        bias = np.where(master["bad_levels"], np.nan, master["bias"])
        return np.asarray(image, dtype=float) - bias, master["bias_variance"]


class DarkNoiseCorrector(Corrector):
    """Dark frames of each camera; the master is a rate in ADU per second.

    With biases it is scaled to any exposure time; without, the darks must be exposed as long as the frames.
    """

    kind = "dark"

    def correct(self, image: np.ndarray, key: str, exposure_time: float) -> tuple[np.ndarray, np.ndarray]:
        """Take the dark current off an image in ADU; pixels whose dark current is noisier than the sky become NaN.

        Returns
        -------
        image, variance : ndarray, shape (ny, nx)
            The image and the variance of its pixels.
        """
        master = self.create_master_image(key, image.shape)
        darks = self._known().select(self._detector(key, image.shape))
        gain, dark_time = float(darks["gain"].iloc[0]), float(darks["exposure_time"].mean())
        masters = as_masters(master, dark_time, gain)
        layers = masters.layers_of(np.asarray(image), gain=gain, exposure_time=exposure_time, read_noise=np.nan)
        corrected = np.asarray(image, dtype=float) - master["dark"] * exposure_time
        return np.where(layers["bad_pixels"], np.nan, corrected), master["dark_variance"] * exposure_time**2


class FlatFieldCorrector(Corrector):
    """Flats of each camera and filter; the master is the response of the pixels, 1 on average."""

    kind = "flat"

    def correct(self, image: np.ndarray, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Divide an image by the response; pixels whose response is too far from the others become NaN.

        Returns
        -------
        image, variance : ndarray, shape (ny, nx)
            ``(image / flat)^2 flat_variance / flat^2``.
        """
        master = self.create_master_image(key, image.shape)
        flat = np.where(master["bad_responses"], np.nan, master["flat"])
        corrected = np.asarray(image, dtype=float) / flat
        return corrected, corrected**2 * master["flat_variance"] / flat**2


class FringeCorrector(Corrector):
    """Fringe frames of a camera and filter: a map that is ready, or exposures of a sky with few stars."""

    kind = "fringe"

    def correct(self, image: np.ndarray, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Take fringes off an image that was divided by its flat, scaled to it.

        Returns
        -------
        image, variance : ndarray, shape (ny, nx)
            The variance is that of the map, scaled.
        """
        master, image = self.create_master_image(key, image.shape), np.asarray(image, dtype=float)
        fringes = FringeMap.of(master["fringe"])
        scale = fringes.scale(image[fringes.rows])
        return image - scale * fringes.waves, scale**2 * master["fringe_variance"]


def _is_one(exposure_times: Sequence[float]) -> bool:
    return all(same_exposure(exposure_times[0], other) for other in exposure_times)


def _reading_steps(instrument: Instrument, shape: tuple[int, int], masters: Masters) -> FrameSteps:
    """Steps that only read frames."""
    return FrameSteps(
        reader=reader_of(instrument),
        shape=shape,
        rebin_factor=1,
        remove_cosmic_rays=False,
        background=None,
        box_size=shape,
        finder=_no_finder,
        threshold=np.inf,
        n_slots=1,
        masters=lambda: masters,
    )


def _no_finder(image: np.ndarray, threshold: np.ndarray) -> None:
    return None
