"""Headers of a sample of frames, from which an instrument is guessed."""

from __future__ import annotations

from collections.abc import Sequence

from opticam_dask.frames.definitions.library import load_instrument, recognised
from opticam_dask.frames.fits.cards import Cards
from opticam_dask.frames.fits_files import FrameError, OwnProduct, PathLike, read_headers
from opticam_dask.frames.guessing.guess import Guess, guess_from_headers
from opticam_dask.frames.headers.exposures import kind_by_words
from opticam_dask.frames.headers.keywords import IMAGE_TYPE
from opticam_dask.frames.scanning import find_files

#: Files whose headers are read, evenly spread over all.
_FILES = 40
#: Frames of one file.
_FRAMES = 8


def guess_instrument(paths: PathLike | Sequence[PathLike]) -> Guess:
    """Propose a definition of an unknown camera from the headers of its frames.

    Parameters
    ----------
    paths : path or URL, or sequence of them
        Directories or files.

    Returns
    -------
    Guess
        ``definition`` (entries of an `Instrument`), ``instrument``, ``findings``, ``missing``, and ``lines()``.

    Raises
    ------
    FileNotFoundError
        When a path does not exist.
    ValueError
        When no file holds an image.
    """
    files = find_files(paths)
    step = max(1, -(-len(files) // _FILES))
    headers, reason = list[Cards](), "no FITS file"
    for file in files[::step]:
        try:
            frames, _ = read_headers(file)
        except (FrameError, OwnProduct) as error:
            reason = f"{file}: {error.reason}"
            continue
        headers += [frame.header.values for frame in frames[:_FRAMES]]
    if not headers:
        raise ValueError(f"no header can be read among {len(files)} file(s) ({reason})")
    lights = [header for header in headers if _is_light(header)] or headers
    guess = guess_from_headers(lights)
    if name := recognised(lights[0]):
        known = load_instrument(name)
        n_read = sum(not known.interpret(header).problems for header in lights)
        if 2 * n_read > len(lights):  # some frames are no good themselves
            guess.take(name, known)
    return guess


def _is_light(header: Cards) -> bool:
    named = next((str(header[name]) for name in IMAGE_TYPE if isinstance(header.get(name), str)), "")
    return kind_by_words(named) in ("", "light")
