"""Search for the sky coordinates of the catalogues of a reduction, which are kept beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.wcs import WCS

from opticam_dask.frames import fits_files, sky_coordinates
from opticam_dask.frames.fits.names import FrameName
from opticam_dask.frames.instruments import Instrument
from opticam_dask.frames.sky_catalogs import SkyCatalog
from opticam_dask.kernels.images.matching import align
from opticam_dask.passes import sky_solution
from opticam_dask.passes.sky_solution import NoSolution, SkySolution
from opticam_dask.store.camera import Camera, Part
from opticam_dask.store.store import Store

#: Keywords of the arcseconds of a pixel of the file.
_SCALE_KEYWORDS = ("PIXSCALE", "SECPIX", "SECPIX1", "PIXELSCL", "CCDSCALE", "SCALE")
#: Points along each side of a frame through which coordinates are carried from one frame to another.
_GRID = 30


@dataclass(frozen=True)
class SkyQuery:
    """Prior knowledge of the field on the sky: stars, pointing, pixel scale, plate-solved frame.

    Attributes
    ----------
    catalog : SkyCatalog, optional
        Stars around the field; without it the coordinates of headers serve.
    wcs_files : sequence of path
        Plate-solved copies of frames.
    pixel_scale : float, optional
        Arcseconds of a reduced pixel, before header and instrument.
    pointing : (float, float), optional
        Right ascension and declination, degrees, before those of the headers.
    """

    catalog: SkyCatalog | None = None
    wcs_files: Sequence[str | Path] = ()
    pixel_scale: float | None = None
    pointing: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class _SkyView:
    """A camera of the store with a catalogue, and what its reference frame says of the sky."""

    camera: Camera
    instrument: Instrument
    rebin_factor: int
    part: Part
    catalog: dict[str, np.ndarray]  # of the sources that were found
    reference: int
    mjd: float
    pointing: tuple[float, float]

    @property
    def key(self) -> str:
        """Camera key such as ``1:g``."""
        return self.camera.key

    @property
    def shape(self) -> tuple[int, int]:
        """Shape ``(ny, nx)`` of the frames after rebinning."""
        return self.part.shape[0] // self.rebin_factor, self.part.shape[1] // self.rebin_factor

    def keep(self, solution: SkySolution) -> None:
        """Write the coordinates beside the catalogue in the store; sources of the observer keep their names."""
        group, n_found = self.camera.catalog, self.camera.n_found
        every = {name: group[name] for name in ("source_id", "x", "y", "name") if name in group}
        wcs = sky_coordinates.read_wcs(solution.attributes["wcs"])
        placed = sky_solution.from_wcs(wcs, {name: every[name][n_found:] for name in ("x", "y")}, "").arrays
        arrays = {}
        for name, values in solution.arrays.items():
            if name != "band":
                unknown = np.full((len(placed["ra"]), *values.shape[1:]), np.nan)
                values = np.concatenate([values, placed.get(name, unknown)])
            arrays[name] = values
        if "name" in every:
            is_named = np.isin(every["source_id"], list(group.attributes.get("placed", {}).values()))
            arrays["name"] = np.where(is_named, every["name"], arrays["name"])
        group.extend(arrays)
        group.update(solution.attributes)


def find_sky(
    store: Store,
    instrument: Instrument,
    query: SkyQuery,
    tell: Callable[[str], None],
    keys: Sequence[str] | None = None,
) -> dict[str, SkySolution]:
    """Find the coordinates of the catalogues, and write them into the store.

    Each camera is solved from the sky catalogue, where one is given, or else from a plate-solved copy or the header of
    its reference frame. A camera that has neither takes the stars of another one that was solved for its sky catalogue.

    Parameters
    ----------
    store : Store
        The store of the reduction.
    instrument : Instrument
        What the headers mean.
    query : SkyQuery
        What is known beforehand.
    tell : callable
        Called with each line of what was found.
    keys : sequence of str, optional
        Cameras; by default all that have a catalogue.

    Returns
    -------
    dict of SkySolution
        By camera key; cameras that were not found are missing.

    Raises
    ------
    ValueError
        For a plate-solved copy that is of no frame of the reduction, or has no world coordinates.
    """
    chosen = [store.camera(key) for key in keys] if keys else store.cameras
    cameras = [_view_of(store, camera, instrument) for camera in chosen if camera.catalog.is_whole]
    given = _given_wcs(cameras, query.wcs_files)
    found: dict[str, SkySolution] = {}
    lost: list[tuple[_SkyView, str]] = []
    for camera in cameras:
        try:
            found[camera.key] = _solve(camera, query, given.get(camera.key))
        except NoSolution as error:
            lost.append((camera, str(error)))
    for camera, reason in lost:
        helped = _solve_by_others(camera, query, {c.key: (c, found[c.key]) for c in cameras if c.key in found})
        if helped is None:
            tell(f"{camera.key}: no coordinates on the sky: {reason}.")
        else:
            found[camera.key] = helped
    for camera in cameras:
        if camera.key in found:
            camera.keep(found[camera.key])
            tell(f"{camera.key}: {found[camera.key].sentence}")
    return found


def take_from_header(store: Store, key: str, instrument: Instrument, tell: Callable[[str], None]) -> None:
    """Coordinates of a new catalogue: by the stars of the one before it, or the header of its reference frame."""
    camera = _view_of(store, store.camera(key), instrument)
    solution = _by_catalog_before(camera)
    if solution is None and (found := _of_header(camera)) is not None:
        solution = sky_solution.from_wcs(_reduced(camera, found), camera.catalog, _origin(camera))
    if solution is not None:
        camera.keep(solution)
        tell(f"{key}: {solution.sentence}")


#: Attribute of a camera: the sources of the catalogue that it had, found on the sky by stars.
_BEFORE = "catalog_before"


def remember_sky(camera: Camera) -> None:
    """Keep where the sources of a catalogue are on the sky, before it is made anew, where stars have told it."""
    catalog = camera.catalog
    if not catalog.is_whole or "wcs_n_matched" not in catalog.attributes:
        return
    n_found = camera.n_found
    stars = {name: catalog[name][:n_found].tolist() for name in ("ra", "dec", "flux", "name")}
    if "band" in catalog:
        known = catalog["magnitude"][:n_found].T.tolist()
        columns = [[value if math.isfinite(value) else None for value in column] for column in known]
        stars["magnitudes"] = dict(zip(catalog["band"].tolist(), columns, strict=True))
    camera.update({_BEFORE: {"wcs": catalog.attributes["wcs"], "origin": catalog.attributes["wcs_origin"], **stars}})


def _by_catalog_before(camera: _SkyView) -> SkySolution | None:
    """Solution by the sources of the catalogue that a camera had; None without one, or where it does not match."""
    before = camera.camera.attributes.get(_BEFORE)
    if before is None:
        return None
    flux = np.array(before["flux"], dtype=float)
    own = {"own": -2.5 * np.log10(np.where(flux > 0, flux, np.nan))}
    bands = {band: np.array(values, dtype=float) for band, values in before.get("magnitudes", {}).items()}
    still = np.zeros(len(flux))
    sky = SkyCatalog(
        ra=np.array(before["ra"]),
        dec=np.array(before["dec"]),
        pm_ra=still,
        pm_dec=still,
        epoch=still + 2000.0,
        name=np.array(before["name"], dtype=object),
        magnitudes=own | bands,
        origin=f"the catalogue before, which had them from {before['origin']}",
    )
    wcs = sky_coordinates.read_wcs(before["wcs"])
    pointing = _middle_of(wcs, camera)
    assert pointing is not None  # there are coordinates
    try:
        found = _by_stars(camera, SkyQuery(sky), sky, pointing, wcs)
    except NoSolution:
        return None
    arrays = dict(found.arrays)
    if bands:
        arrays |= {"magnitude": arrays["magnitude"][:, 1:], "band": arrays["band"][1:]}
    else:
        arrays = {name: values for name, values in arrays.items() if name not in ("magnitude", "band")}
    return SkySolution(arrays, found.attributes)


def _view_of(store: Store, camera: Camera, instrument: Instrument) -> _SkyView:
    attributes = camera.reference.attributes
    part = camera.part(attributes["reference_night"])
    assert part is not None  # a reference frame is of a night that is there
    record = json.loads(store.attributes["parameters"])
    index = int(attributes["reference_index"])
    mjd, ra, dec = (float(part.frames.read(name, index, index + 1)[0]) for name in ("mjd_utc", "ra", "dec"))
    return _SkyView(
        camera=camera,
        instrument=instrument,
        rebin_factor=int(record.get("rebin_factor", 1)),
        part=part,
        catalog={name: values[: camera.n_found] for name, values in camera.catalog.read_all().items()},
        reference=index,
        mjd=mjd,
        pointing=(ra, dec),
    )


def _solve(camera: _SkyView, query: SkyQuery, given: tuple[WCS, str] | None) -> SkySolution:
    """Solution of one camera without the help of the others: by given coordinates, its header, or a star catalogue.

    Raises
    ------
    NoSolution
    """
    header = None if given is not None else _of_header(camera)
    wcs, origin = given or ((_reduced(camera, header), _origin(camera)) if header is not None else (None, ""))
    if query.catalog is not None:
        pointing = query.pointing or _middle_of(wcs, camera) or camera.pointing
        return _by_stars(camera, query, query.catalog, pointing, wcs)
    if wcs is not None:
        return sky_solution.from_wcs(wcs, camera.catalog, origin)
    raise NoSolution("the header of the reference frame has none (a --sky-catalog or --wcs gives them)")


def _by_stars(
    camera: _SkyView, query: SkyQuery, sky: SkyCatalog, pointing: tuple[float, float], wcs: WCS | None
) -> SkySolution:
    if not np.isfinite(pointing).all():
        raise NoSolution("no pointing is known (--pointing RA DEC gives it)")
    scale = query.pixel_scale or _pixel_scale(camera, wcs)
    if not (math.isfinite(scale) and scale > 0):
        raise NoSolution("the scale is not known from header or instrument (--pixel-scale ARCSEC gives it)")
    mjd = camera.mjd if math.isfinite(camera.mjd) else 51544.5
    return sky_solution.from_stars(camera.catalog, camera.shape, sky, pointing=pointing, scale=scale, mjd=mjd)


def _solve_by_others(
    camera: _SkyView, query: SkyQuery, solved: Mapping[str, tuple[_SkyView, SkySolution]]
) -> SkySolution | None:
    """Solution by the sources of another camera, which looked at the same stars; None where it does not match."""
    for key, (other, solution) in solved.items():
        unmoved = np.zeros(len(solution.arrays["ra"]))
        flux = np.where(other.catalog["flux"] > 0, other.catalog["flux"], np.nan)
        sky = SkyCatalog(
            ra=solution.arrays["ra"],
            dec=solution.arrays["dec"],
            pm_ra=unmoved,
            pm_dec=unmoved,
            epoch=unmoved + 2000.0,
            name=solution.arrays["name"],
            magnitudes={f"instrumental {key}": -2.5 * np.log10(flux)},
            origin=f"the catalogue of {key}",
        )
        wcs = sky_coordinates.read_wcs(solution.attributes["wcs"])
        pointing = _middle_of(wcs, other)
        assert pointing is not None  # of a camera that is solved
        try:
            own = _by_stars(camera, query, sky, pointing, None)
        except NoSolution:
            continue
        arrays = {name: values for name, values in own.arrays.items() if name not in ("magnitude", "band")}
        return SkySolution(arrays, own.attributes)
    return None


def _pixel_scale(camera: _SkyView, wcs: WCS | None) -> float:
    """Arcseconds of a reduced pixel, by header or instrument; NaN when unknown."""
    if wcs is not None:
        return sky_coordinates.scale_of(wcs)
    header = _read_header(camera)
    of_instrument = math.nan
    if header is not None:
        of_instrument = camera.instrument.interpret(header.values).pixel_scale
        for name in _SCALE_KEYWORDS:
            value = header.values.get(name)
            if not math.isfinite(of_instrument) and isinstance(value, (int, float)) and 0.0 < value < 300.0:
                of_instrument = float(value)
    elif scale := camera.instrument.pixel_scales.get(camera.key.split(":")[0]):
        of_instrument = scale * camera.part.binning
    return of_instrument * camera.rebin_factor


def _middle_of(wcs: WCS | None, camera: _SkyView) -> tuple[float, float] | None:
    if wcs is None:
        return None
    ny, nx = camera.shape
    ra, dec = sky_coordinates.icrs_of_pixels(wcs, np.array([(nx - 1) / 2.0]), np.array([(ny - 1) / 2.0]))
    return float(ra[0]), float(dec[0])


# ---------------------------------------------------------------- headers and plate-solved copies


def _name_of(camera: _SkyView, index: int) -> FrameName:
    file, extension, plane = (
        camera.part.frames.read(name, index, index + 1)[0] for name in ("file", "extension", "plane")
    )
    return FrameName(f"{camera.part.attributes['data_root']}/{file}", int(extension), int(plane))


def _origin(camera: _SkyView) -> str:
    return f"the header of {Path(str(_name_of(camera, camera.reference))).name}"


def _read_header(camera: _SkyView) -> fits_files.FitsHeader | None:
    """Header of the reference frame; None where the file is gone: coordinates are not worth a failed reduction."""
    try:
        return fits_files.read_header(str(_name_of(camera, camera.reference)), camera.instrument.extension)
    except (fits_files.FrameError, OSError):
        return None


def _of_header(camera: _SkyView) -> tuple[WCS, str] | None:
    header = _read_header(camera)
    wcs = None if header is None else sky_coordinates.wcs_of_header(header.values)
    return None if header is None or wcs is None else (wcs, header.section)


def _reduced(camera: _SkyView, found: tuple[WCS, str]) -> WCS:
    wcs, section = found
    first = (0, 0)
    if section:
        columns, rows = section.split("[")[1].rstrip("]").split(",")
        first = (int(columns.split(":")[0]) - 1, int(rows.split(":")[0]) - 1)
    return sky_coordinates.reduced_pixels(wcs, first, camera.rebin_factor)


def _given_wcs(cameras: Sequence[_SkyView], files: Sequence[str | Path]) -> dict[str, tuple[WCS, str]]:
    """World coordinates of reference frames by plate-solved copies of frames, by camera key."""
    found = {}
    for file in files:
        try:
            header = fits_files.read_header(file)
        except fits_files.FrameError as error:
            raise ValueError(f"{file} cannot be read: {error}") from error
        wcs = sky_coordinates.wcs_of_header(header.values)
        if wcs is None:
            raise ValueError(f"{file} has no world coordinates (CTYPE1 ... CD2_2) in its header")
        camera, transform = _frame_of_copy(cameras, Path(file))
        if header.shape != camera.part.shape:
            raise ValueError(
                f"{file} has {header.shape[0]} x {header.shape[1]} pixels, its frame of {camera.key} has "
                f"{camera.part.shape[0]} x {camera.part.shape[1]}: give a copy of the whole frame"
            )
        of_frame = _reduced(camera, (wcs, header.section))
        found[camera.key] = (_on_reference(of_frame, transform, camera.shape), f"{Path(file).name}")
    return found


def _frame_of_copy(cameras: Sequence[_SkyView], file: Path) -> tuple[_SkyView, np.ndarray]:
    """Camera, and transform from the reference, of the frame that a file is a copy of: by its name.

    Raises
    ------
    ValueError
    """
    stem = _stem(file.name)
    for camera in cameras:
        names = camera.part.frames.read("file")
        for index in (i for i, name in enumerate(names) if _stem(Path(str(name)).name) == stem):
            transform = camera.part.frames.read("transform", index, index + 1)[0]
            if np.isfinite(transform).all():
                return camera, transform
    raise ValueError(
        f"{file} has the name of no aligned frame of a reference night: name the copy as its frame (any suffix)"
    )


def _stem(name: str) -> str:
    """Name of a file without its suffixes and what plate solvers add."""
    return name.split(".")[0].removesuffix("_wcs").removesuffix("_solved").removesuffix("-wcs").lower()


def _on_reference(wcs: WCS, transform: np.ndarray, shape: tuple[int, int]) -> WCS:
    """World coordinates of the reference from those of a frame, refitted through a grid of points."""
    if np.array_equal(transform, np.eye(3)):
        return wcs
    y, x = np.meshgrid(np.linspace(0, shape[0] - 1, _GRID), np.linspace(0, shape[1] - 1, _GRID), indexing="ij")
    grid = np.column_stack([x.ravel(), y.ravel()])
    ra, dec = sky_coordinates.icrs_of_pixels(wcs, *align.apply_transform(transform, grid).T)
    return sky_solution.fit_wcs(grid, ra, dec, shape)
