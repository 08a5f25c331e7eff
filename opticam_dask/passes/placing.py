"""Sources placed by the observer, appended to the catalogues behind the detected ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.spatial import KDTree

from opticam_dask import schema
from opticam_dask.frames import sky_coordinates
from opticam_dask.frames.placed_sources import PlacedSource
from opticam_dask.kernels.images.matching import align
from opticam_dask.kernels.images.sky import background
from opticam_dask.kernels.sources import photometry
from opticam_dask.kernels.sources.profiles.profile import Shape, typical_table
from opticam_dask.kernels.sources.tracks import places_on_track
from opticam_dask.methods.frame_view import FrameView
from opticam_dask.methods.psf_photometer import PSFPhotometer
from opticam_dask.passes.camera_matching import match_cameras
from opticam_dask.store.camera import Camera, Part
from opticam_dask.store.errors import NoSuchKey
from opticam_dask.store.store import Store, key_of

#: A placed source is one that was found when they are nearer than this part of the FWHM,
_SAME_SOURCE = 0.75
#: or than this many pixels, where that is more.
_LEAST_APART = 2.0

#: Two placed sources are one when they are nearer than this, in pixels.
_SAME_PLACE = 0.5

#: Sources of the catalogue are where the stack has them to this, in pixels.
_ON_STACK = 0.1

#: Frames that the trail of a moving source on the stack is compared with, evenly spaced.
_FRAMES_OF_TRAIL = 100
#: A star on the trail is seen in this share of the frames in which the moving source is elsewhere.
_LEAST_SEEN = 0.3

#: Attribute of the store: every source that the observer placed, in this order.
RECORD = "placed_sources"


def record_sources(store: Store, given: Sequence[PlacedSource]) -> None:
    """Keep sources in the store until they can be placed; sources that are recorded already stay unchanged.

    Raises
    ------
    ValueError
        When a source has the name of another one that is elsewhere.
    """
    known = recorded_sources(store)
    new: list[PlacedSource] = []
    for source in given:
        if any(source.is_same(other) for other in known):
            continue
        if source.name and any(source.name == other.name for other in known):
            other = next(other for other in known if other.name == source.name)
            raise ValueError(f"{source.words} cannot be placed: {other.words} has this name already")
        new.append(source)
    if new:
        store.update({RECORD: [source.record() for source in (*known, *new)]})


def recorded_sources(store: Store) -> tuple[PlacedSource, ...]:
    """Sources that are to be in the catalogues, in the order in which they were given."""
    return tuple(PlacedSource.of_record(record) for record in store.attributes.get(RECORD, ()))


def keep_places(store: Store, tell: Callable[[str], None]) -> None:
    """Give placed sources sky positions before reference frames are chosen anew; sources without one are reported."""
    cameras = [camera for camera in store.cameras if camera.catalog.is_whole]
    kept = []
    for source in recorded_sources(store):
        origin = _camera_of(source, cameras)
        wcs = None if origin is None else origin.catalog.attributes.get("wcs")
        if source.is_on_sky:
            kept.append(source)
        elif wcs is None:
            tell(f"{source.words} is not placed again: the reference frame is chosen anew, give its place on that.")
        else:
            place = sky_coordinates.icrs_of_pixels(
                sky_coordinates.read_wcs(wcs), np.array([source.x]), np.array([source.y])
            )
            kept.append(PlacedSource(name=source.name, ra=float(place[0][0]), dec=float(place[1][0])))
    store.update({RECORD: [source.record() for source in kept]})


def _camera_of(source: PlacedSource, cameras: Sequence[Camera]) -> Camera | None:
    """Camera on whose reference frame a source was placed, by default the first; None where there is none."""
    known = {one.key: one for one in cameras}
    try:
        return known[key_of(source.key or next(iter(known), ""), list(known), "the catalogues")]
    except NoSuchKey:
        return None


def place_sources(store: Store, box_size: Callable[[Camera], tuple[int, int]], tell: Callable[[str], None]) -> None:
    """Append recorded sources to the catalogues where they are missing and their position is known.

    Parameters
    ----------
    store : Store
        The store.
    box_size : callable
        Boxes of the sky mesh of the reference night of a camera.
    tell : callable
        Called with each line of what was done.

    Raises
    ------
    ValueError
        For a source on the reference frame of a camera that the store does not have.
    """
    given = recorded_sources(store)
    if not given:
        return
    cameras = [camera for camera in store.cameras if camera.catalog.is_whole]
    finder = _Finder(store, cameras)
    for camera in cameras:
        before = camera.catalog.attributes.get("placed", {})
        todo = [(number, source) for number, source in enumerate(given) if str(number) not in before]
        if todo:
            _place_in(camera, todo, finder, box_size(camera), tell)


@dataclass
class _Finder:
    """Where sources are on the reference frames of cameras."""

    store: Store
    cameras: Sequence[Camera]
    transforms: dict[tuple[str, str], np.ndarray | None] = field(default_factory=dict)

    def pixels(self, camera: Camera, source: PlacedSource) -> np.ndarray | None:
        """Place on the reference frame of a camera; None where nobody knows."""
        if source.is_on_sky:
            origins = [camera, *(one for one in self.cameras if one != camera)]
            return self._first(camera, [(one, _on_frame(one, source.ra, source.dec)) for one in origins])
        if (origin := _camera_of(source, self.cameras)) is None:
            known = ", ".join(one.key for one in self.cameras)
            raise ValueError(f"{source.words} is on the frame of {source.key}; there are {known}")
        xy = np.array([source.x, source.y])
        wcs = origin.catalog.attributes.get("wcs")
        if origin != camera and wcs is not None:
            ra, dec = sky_coordinates.icrs_of_pixels(sky_coordinates.read_wcs(wcs), xy[:1], xy[1:])
            if (there := _on_frame(camera, float(ra[0]), float(dec[0]))) is not None:
                return there
        return self._first(camera, [(origin, xy)])

    def _first(self, camera: Camera, places: Sequence[tuple[Camera, np.ndarray | None]]) -> np.ndarray | None:
        """Place in a camera by the place in another one, the first whose catalogue matches that of the camera."""
        for origin, xy in places:
            transform = None if xy is None else self._transform(origin, camera)
            if xy is not None and transform is not None:
                return align.apply_transform(transform, xy[None])[0]
        return None

    def _transform(self, origin: Camera, camera: Camera) -> np.ndarray | None:
        pair = origin.key, camera.key
        if pair not in self.transforms:
            try:
                found = match_cameras(self.store.path.parent, *pair).transform if origin != camera else np.eye(3)
            except ValueError:
                found = None
            self.transforms[pair] = found
        return self.transforms[pair]


def _on_frame(camera: Camera, ra: float, dec: float) -> np.ndarray | None:
    cards = camera.catalog.attributes.get("wcs")
    if cards is None:
        return None
    xy = np.concatenate(sky_coordinates.pixels_of_icrs(sky_coordinates.read_wcs(cards), ra, dec))
    return xy if np.isfinite(xy).all() else None


def _place_in(
    camera: Camera,
    todo: Sequence[tuple[int, PlacedSource]],
    finder: _Finder,
    box_size: tuple[int, int],
    tell: Callable[[str], None],
) -> None:
    """Append sources to one catalogue, or find the sources of the catalogue that stand at the same places."""
    arrays, attributes, n_found = camera.catalog.read_all(), camera.catalog.attributes, camera.n_found
    fwhm = float(np.nan_to_num(attributes["fwhm"]))
    names = arrays.get("name", np.full(len(arrays["x"]), "", dtype=object)).astype(object)
    places = np.column_stack([arrays["x"], arrays["y"]])
    reach = np.where(np.arange(len(places)) < n_found, max(_SAME_SOURCE * fwhm, _LEAST_APART), _SAME_PLACE)
    known, new = dict(attributes.get("placed", {})), list[tuple[int, PlacedSource, np.ndarray]]()
    start = int(arrays["source_id"].max()) + 1 if len(places) else 1
    for number, source in todo:
        xy = finder.pixels(camera, source)
        if xy is None:
            tell(
                f"{camera.key}: {source.words} cannot be placed: it is not known where on the sky the camera looked, "
                "nor does its catalogue match that of one that knows (opticam-dask sky finds out)."
            )
            continue
        away = np.hypot(*(places - xy).T)
        if len(away) and np.any(away < reach) and not source.track:
            row = int(np.argmin(np.where(away < reach, away, np.inf)))
            known[str(number)] = int(arrays["source_id"][row])
            names[row] = source.name or names[row]
            tell(f"{camera.key}: {source.words} is source {known[str(number)]}, {away[row]:.2f} pixels away.")
            continue
        if not source.track and not _is_within(xy, camera):
            where = f"x {xy[0]:.0f}, y {xy[1]:.0f}"
            tell(f"{camera.key}: {source.words} is beyond the reference frame, at {where}: is that right?")
        known[str(number)] = start + len(new)
        new.append((number, source, xy))
    if not len(known) > len(attributes.get("placed", {})):
        return
    arrays["name"] = names
    attributes = dict(attributes) | {"placed": known}
    moving = [one for one in new if one[1].track]
    for some in ([one for one in new if not one[1].track], *([one] for one in moving)):
        if some:
            start = int(arrays["source_id"].max()) + 1
            for row, (number, _, _) in enumerate(some):
                known[str(number)] = start + row
            arrays, attributes = _appended(camera, arrays, attributes, some, finder, box_size)
            last = start + len(some) - 1
            numbers = f"source {start}" if last == start else f"sources {start} to {last}"
            tell(f"{camera.key}: {len(some)} placed as {numbers}.")
    camera.catalog.write(arrays, attributes)


def _is_within(xy: np.ndarray, camera: Camera) -> bool:
    ny, nx = camera.reference.array("image").shape
    return bool(-0.5 <= xy[0] <= nx - 0.5 and -0.5 <= xy[1] <= ny - 0.5)


def _appended(
    camera: Camera,
    arrays: dict[str, np.ndarray],
    attributes: dict[str, Any],
    new: Sequence[tuple[int, PlacedSource, np.ndarray]],
    finder: _Finder,
    box_size: tuple[int, int],
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and attributes of a catalogue with further sources: some stars, or one that moves."""
    start = int(arrays["source_id"].max()) + 1
    extended = _extended(camera, arrays, new, start, box_size)
    stages = attributes.get("source_stages") or [camera.n_found]
    attributes = attributes | {"source_stages": [*stages, len(extended["x"])]}
    if track := new[0][1].track:
        found = [finder.pixels(camera, PlacedSource(ra=ra, dec=dec)) for _, ra, dec in track]
        places = [(when, *xy.tolist()) for (when, _, _), xy in zip(track, found, strict=True) if xy is not None]
        trail = _Trail.of(camera, np.array(places))
        around = trail.neighbours(extended, camera)
        extended["flux"][-1] = trail.flux(extended, camera, around, box_size)
        tracks = {**attributes.get("tracks", {}), str(start): {"places": places, "around": around}}
        attributes = attributes | {"tracks": tracks}
    return extended, attributes


@dataclass(frozen=True, eq=False)
class _Trail:
    """Trail that a moving source has left on the stack of the reference night.

    Attributes
    ----------
    part : Part
        The reference night.
    xy : ndarray, shape (frame, 2)
        Where it was on the reference frame, in each frame of the night; NaN where nobody knows.
    """

    part: Part
    xy: np.ndarray

    @classmethod
    def of(cls, camera: Camera, places: np.ndarray) -> _Trail:
        part = camera.part(camera.reference.attributes["reference_night"])
        assert part is not None  # a catalogue comes from a night that is there
        return cls(part, places_on_track(part.frames["mjd_utc"], places))

    @property
    def known(self) -> np.ndarray:
        """Places that are known, shape (n, 2)."""
        return self.xy[np.isfinite(self.xy).all(axis=1)]

    def neighbours(self, arrays: Mapping[str, np.ndarray], camera: Camera) -> list[list[float | None]]:
        """Row, x, y and flux of the sources that lie on the trail, from frames in which the moving source is elsewhere.

        A source that none of these frames shows is a part of the trail, if it is no star or lies in the middle of the
        trail: it gets no place.
        """
        n_found = camera.n_found
        fwhm = max(float(np.nan_to_num(camera.catalog.attributes["fwhm"])), _LEAST_APART)
        xy = np.column_stack([arrays["x"], arrays["y"]])[:n_found]
        if not len(self.known) or not n_found:
            return []
        on_it = np.flatnonzero(KDTree(self.known).query(xy)[0] < 2.0 * fwhm)
        frames = np.unique(np.linspace(0, self.part.n_frames - 1, _FRAMES_OF_TRAIL).round().astype(int))
        detected = [self._detections(int(frame)) for frame in frames] if len(on_it) else []
        found = []
        for row in on_it.tolist():
            is_away = np.hypot(*(self.xy[frames] - xy[row]).T) > 2.0 * fwhm
            seen = [
                stars[np.argmin(away)]
                for stars, elsewhere in zip(detected, is_away.tolist(), strict=True)
                if elsewhere and len(stars) and np.min(away := np.hypot(*(stars[:, :2] - xy[row]).T)) < fwhm
            ]
            n_away = int(np.count_nonzero(is_away))
            if not n_away:  # it hardly moves: the catalogue is all there is
                continue
            is_star = len(seen) >= _LEAST_SEEN * n_away
            in_middle = np.hypot(*(self.known.mean(axis=0) - xy[row])) < _SAME_SOURCE * fwhm
            if not is_star and not in_middle and arrays["is_star"][row]:  # a star that is too faint for a frame
                continue
            place = np.median(seen, axis=0).tolist() if is_star else [None, None, 0.0]
            found.append([row, *place])
        return found

    def _detections(self, frame: int) -> np.ndarray:
        """x, y (on the reference frame) and flux of what a frame shows, shape (n, 3)."""
        transform = self.part.frames.read("transform", frame, frame + 1)[0]
        x, y, flux = (self.part.sources.read(name, frame, frame + 1)[0] for name in ("x", "y", "flux"))
        if not np.isfinite(transform).all():
            return np.empty((0, 3))
        xy = align.apply_transform(align.invert_transform(transform), np.column_stack([x, y]))
        return np.column_stack([xy, flux])[np.isfinite(x)]

    def flux(
        self,
        arrays: Mapping[str, np.ndarray],
        camera: Camera,
        around: Sequence[Sequence[float | None]],
        box_size: tuple[int, int],
    ) -> float:
        """Its light, from the trail where no star is near; else that of a faint star. It need not be precise."""
        n_found, fwhm = camera.n_found, float(camera.catalog.attributes["fwhm"])
        faintest = float(np.nanmin(arrays["flux"][:n_found])) if n_found else 0.0
        pixels, _ = _subtracted(camera.reference["image"], box_size)
        if pixels is None or not len(self.known):
            return faintest
        trail = np.array([row for row, x, *_ in around if x is None], dtype=float)
        is_trail = np.isin(np.arange(n_found), trail)
        stars = np.column_stack([arrays["x"], arrays["y"]])[:n_found][~is_trail]
        is_free = KDTree(stars).query(self.known)[0] > 4.0 * fwhm if len(stars) else np.ones(len(self.known), bool)
        rows, columns = np.indices(pixels.shape)
        near, place = KDTree(self.known).query(np.column_stack([columns.ravel(), rows.ravel()]))
        light = np.nan_to_num(pixels).ravel()[(near < fwhm) & is_free[place]].sum()
        flux = light / max(np.count_nonzero(is_free), 1) * len(self.known)
        return float(flux) if is_free.any() and flux > 0 else faintest


def _extended(
    camera: Camera,
    arrays: dict[str, np.ndarray],
    new: Sequence[tuple[int, PlacedSource, np.ndarray]],
    start: int,
    box_size: tuple[int, int],
) -> dict[str, np.ndarray]:
    """Arrays of a catalogue with further sources at its end."""
    xy = np.array([place for _, _, place in new])
    n_before = len(arrays["x"])
    every = np.concatenate([np.column_stack([arrays["x"], arrays["y"]]), xy])
    fwhm = float(camera.catalog.attributes["fwhm"])
    stack = camera.reference
    flux = flux_on_stack(stack["image"], every, n_before, fwhm, box_size)
    more = placed_rows(xy, start, flux)
    more |= {"name": np.array([source.name for _, source, _ in new], dtype=object)}
    if "wcs" in camera.catalog.attributes:
        wcs = sky_coordinates.read_wcs(camera.catalog.attributes["wcs"])
        more |= dict(zip(("ra", "dec"), sky_coordinates.icrs_of_pixels(wcs, *xy.T), strict=True))
    arrays.setdefault("is_placed", np.zeros(n_before, dtype=bool))
    for name, values in arrays.items():
        entry = schema.variable("catalog", name)
        if entry.dims[0] != "source":
            continue
        unknown = np.full((len(new), *values.shape[1:]), entry.fill, dtype=values.dtype)
        arrays[name] = np.concatenate([values, more.get(name, unknown)])
    return arrays


def placed_rows(xy: np.ndarray, start: int, flux: np.ndarray) -> dict[str, np.ndarray]:
    """Catalogue columns of placed sources, whose shape is not known.

    Parameters
    ----------
    xy : ndarray, shape (n, 2)
        On the reference frame.
    start : int
        Number of the first of them.
    flux : ndarray, shape (n,)
        Fluxes of the sources, electrons.
    """
    return {
        "source_id": np.arange(start, start + len(xy), dtype=np.int32),
        "x": xy[:, 0],
        "y": xy[:, 1],
        "flux": flux,
        "is_star": np.ones(len(xy), dtype=bool),
        "is_placed": np.ones(len(xy), dtype=bool),
    }


def flux_on_stack(
    image: np.ndarray, xy: np.ndarray, n_before: int, fwhm: float, box_size: tuple[int, int]
) -> np.ndarray:
    """Flux of placed sources on the stack by a typical star profile, fitted together with their neighbours.

    It tells how much a source disturbs others and how far it shines, so that it need not be precise.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        The stack, electrons; NaN where no frame contributes.
    xy : ndarray, shape (n, 2)
        Sources of the catalogue, then the new ones.
    n_before : int
        Number of sources that were found on the stack.
    fwhm : float
        FWHM of the stars on the stack, in pixels.
    box_size : (int, int)
        Box size ``(ny, nx)`` of the sky mesh, pixels.

    Returns
    -------
    ndarray, shape (n - n_before,)
        Electrons; 0 where there is none or nothing is known.
    """
    pixels, rms = _subtracted(image, box_size)
    if pixels is None:
        return np.zeros(len(xy) - n_before)
    sigma = fwhm / photometry.SIGMA_TO_FWHM
    view = FrameView(
        predicted_xy=xy,
        detected_xy=xy[:n_before],
        detected_flux=np.ones(n_before),
        scale=1.0,
        rotation=0.0,
        fwhm=fwhm,
        frame_fwhm=fwhm,
        position_error=_ON_STACK,
        shape=(pixels.shape[0], pixels.shape[1]),
        cutouts_at=lambda x0, y0, size: photometry.cut_out(pixels, x0, y0, size),
        rms_at=lambda x0, y0, size: np.full((len(x0), size, size), rms),
        saturated_at=lambda x0, y0, size: np.zeros((len(x0), size, size), dtype=bool),
        cosmic_rays_at=lambda x0, y0, size: None,
        stars=Shape(sigma, sigma, 0.0),
        profile=typical_table(),
    )
    flux = PSFPhotometer(forced=True).measure(view).flux[n_before:]
    return np.maximum(np.nan_to_num(flux), 0.0)


def _subtracted(image: np.ndarray, box_size: tuple[int, int]) -> tuple[np.ndarray | None, float]:
    """A stack without its sky, and the scatter of that; None where stars are everywhere."""
    pixels = image.astype(float)
    try:
        mesh, rms_mesh = background.sky_mesh(pixels, box_size)
    except ValueError:
        return None, float("nan")
    return pixels - background.zoom_mesh(mesh, pixels.shape, box_size), float(np.nanmedian(rms_mesh))
