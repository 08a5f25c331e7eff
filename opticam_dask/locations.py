"""Paths of files and directories: on this machine, or anywhere that fsspec reaches by a URL (``s3://bucket/run``).

A local place is a ``pathlib.Path``, and nothing of fsspec is imported for it. A remote one is a
:class:`~opticam_dask.remote_paths.RemotePath`, which offers the part of ``Path`` that this package uses, so that the
same code serves both.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import re
import shutil
import tempfile
import unicodedata
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from opticam_dask.remote_paths import (
    Facts,
    LocationError,
    PathLike,
    RangedFile,
    RemotePath,
    as_os_errors,
    facts_in,
    file_system_of,
    names_below,
)

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(://|::.*://)")
_LOCAL = ("file://", "local://")
#: Bytes of a name that people give: file systems take 255, and names of files have words beside it.
MOST_BYTES = 120
#: Bytes of a word that is made of any text, which leave room for ``target_`` before it.
MOST_OF_WORD = MOST_BYTES - len("target_")
_ALLOWED = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
#: Names that some systems keep for devices, whatever follows after a dot, and that of the metadata of a group.
_TAKEN = frozenset(
    {"con", "prn", "aux", "nul", "zarr.json"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(10)}
)
#: Characters of a name in a message.
_LONGEST_SHOWN = 40
#: Digits of a checksum that tell names apart which are cut to the same beginning.
_DIGITS = 8


def is_remote(place: object) -> bool:
    """Whether a path is a URL of another place than this machine's own files."""
    if isinstance(place, str):
        # most are absolute paths, a million of them in a long run
        is_url = not place.startswith("/") and _URL.match(place) is not None
        return is_url and not place.lower().startswith(_LOCAL)
    return isinstance(place, RemotePath)


def local_path(place: PathLike) -> PathLike:
    """The path in ``file:///path``; any other path as it is.

    Raises
    ------
    LocationError
        When a ``file://`` URL names a host.
    """
    if not isinstance(place, str) or not place.lower().startswith(_LOCAL):
        return place
    path = place.partition("://")[2]
    if not path.startswith("/"):
        raise LocationError(f"{place} names no absolute path of this machine: write file:///path")
    return path


def location(place: PathLike | RemotePath) -> Path:
    """A place as something to work with.

    Parameters
    ----------
    place : path or URL
        A path, or a URL that fsspec understands.

    Returns
    -------
    Path
        For a URL a :class:`RemotePath`, which is used alike (it is declared as ``Path`` so that whoever takes a path
        need not say that it takes two kinds).

    Raises
    ------
    LocationError
        When a URL is chained (``simplecache::s3://``), or a ``file://`` URL names a host.
    """
    if isinstance(place, RemotePath):
        return cast(Path, place)
    if isinstance(place, str) and re.match(r"[A-Za-z0-9+.-]+::.*://", place):
        raise LocationError(f"{place} is a chained URL: give the place itself, such as s3://bucket/directory")
    if is_remote(place):
        scheme, _, rest = str(place).partition("://")
        words = [word for word in rest.split("/") if word]
        if not words:
            raise LocationError(f"{place} names no bucket or directory: write {scheme}://bucket/directory")
        return cast(Path, RemotePath(f"{scheme.lower()}://{'/'.join(words)}"))
    return Path(local_path(place))


def file_in(out_directory: str | Path, *names: str) -> Path:
    """Path of a file below the output directory, whose folder is made."""
    return folder_in(out_directory, *names[:-1]) / names[-1]


def folder_in(out_directory: str | Path, *names: str) -> Path:
    """Folder below the output directory, which is made."""
    folder = location(out_directory).joinpath(*names)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def require_local(place: PathLike, what: str) -> None:
    """Refuse a URL where only a directory of this machine will do.

    Raises
    ------
    LocationError
        When it is a URL.
    """
    if is_remote(place):
        raise LocationError(f"{what} needs a directory of this machine, got {place}")


# ---------------------------------------------------------------- the same for both kinds of place


@contextlib.contextmanager
def replacing(place: Path) -> Iterator[Path]:
    """A file of this machine to write, which takes its place when the block ends; readers see the old or the new one.

    Parameters
    ----------
    place : Path or RemotePath
        Where the file is to be.

    Yields
    ------
    Path
        With the same suffix.
    """
    if isinstance(place, RemotePath):
        with tempfile.TemporaryDirectory(prefix="opticam-dask-") as folder:
            temporary = Path(folder) / place.name
            yield temporary
            fs, path = file_system_of(place.url)
            with as_os_errors(place.url):
                fs.put_file(str(temporary), path)
        return
    # processes of two machines may have the same number
    temporary = place.with_name(f".{place.name}.{uuid.uuid4().hex}.partial{place.suffix}")
    try:
        yield temporary
        os.replace(temporary, place)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        name_place(error, place, temporary)
        raise


def name_place(error: BaseException, place: PathLike, temporary: PathLike) -> None:
    """Name a file in an error of the system that names none (a full disk), or the temporary file in its place."""
    if isinstance(error, OSError) and error.errno is not None and error.filename in (None, str(temporary)):
        error.filename, error.filename2 = str(place), None


def unbuffered(file: PathLike, mode: str) -> io.FileIO:
    """A file of this machine to write, without a buffer that its end may fail on; its folders are made when missing."""
    try:
        return cast(io.FileIO, open(file, mode, buffering=0))
    except FileNotFoundError:
        os.makedirs(os.path.dirname(file), exist_ok=True)
        return cast(io.FileIO, open(file, mode, buffering=0))


def write_all(stream: io.FileIO, content: bytes | memoryview) -> None:
    """Write all bytes: a file without buffer may take some of them, when the disk is nearly full or a signal comes."""
    left = memoryview(content)
    while left:
        left = left[stream.write(left) :]


def write_text(place: Path, text: str) -> None:
    """Write a file so that readers see the old or the new content."""
    if isinstance(place, RemotePath):
        place.write_bytes(text.encode())
        return
    with replacing(place) as temporary:
        temporary.write_text(text, encoding="utf-8")


def open_binary(place: Path, *, at_least: int | None = None) -> BinaryIO:
    """A file to read from anywhere in it; a remote one is fetched whole, or ``at_least`` so many bytes at a time."""
    if not isinstance(place, RemotePath):
        return place.open("rb")
    return io.BytesIO(place.read_bytes()) if at_least is None else cast(BinaryIO, RangedFile(place.url, at_least))


def remove_tree(place: Path) -> None:
    """Remove a directory with everything in it, if it is there; of a symbolic link, the link alone.

    Raises
    ------
    OSError
        When something of it stays.
    """
    if not isinstance(place, RemotePath):
        if place.is_symlink():
            place.unlink()
        elif place.exists():
            shutil.rmtree(place)
        return
    fs, path = file_system_of(place.url)
    with as_os_errors(place.url), contextlib.suppress(FileNotFoundError):
        fs.rm(path, recursive=True)


def walk(place: Path, file_of_parts: str) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Every directory from ``place`` on with the names of the directories and of the files in it.

    Part of a store may lie on another disk: a link to a directory that holds ``file_of_parts`` is followed, as it is
    when arrays are read, and no other link is. Every real directory is entered once, by its own name if that lies below
    ``place``, whatever links lead back to it. Directories whose name starts with a dot are named, and not entered.
    """
    if isinstance(place, RemotePath):
        yield from _walk_remote(place)
        return
    entered = set[str]()
    links = [place]
    while links:
        next_links = list[Path]()
        for start in links:
            for above, folders, files in os.walk(start):
                if (real := os.path.realpath(above)) in entered:
                    folders.clear()
                    continue
                entered.add(real)
                yield Path(above), sorted(folders), sorted(files)
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                inner = (Path(above, name) for name in folders)
                next_links += [one for one in inner if one.is_symlink() and (one / file_of_parts).is_file()]
        links = next_links


def _walk_remote(place: RemotePath) -> Iterator[tuple[Path, list[str], list[str]]]:
    by_folder: dict[str, tuple[set[str], list[str]]] = {"": (set(), [])}
    for relative in names_below(place.url):
        folder, _, name = relative.rpartition("/")
        by_folder.setdefault(folder, (set(), []))[1].append(name)
        while folder:
            above, _, inner = folder.rpartition("/")
            by_folder.setdefault(above, (set(), []))[0].add(inner)
            folder = above
    for folder in sorted(by_folder):
        if not any(word.startswith(".") for word in folder.split("/")):
            folders, files = by_folder[folder]
            yield cast(Path, place / folder if folder else place), sorted(folders), sorted(files)


def modified(place: Path) -> float:
    """Time of the last change by the clock of the place, in seconds.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    """
    if not isinstance(place, RemotePath):
        return place.stat().st_mtime
    fs, path = file_system_of(place.url)
    with as_os_errors(place.url):
        return facts_in(fs.info(path)).mtime


# ---------------------------------------------------------------- input: frames in remote directories


def files_below(url: str) -> dict[str, Facts]:
    """Files of a remote directory and all below it, by URL, from one listing; or the one file that the URL names.

    Raises
    ------
    FileNotFoundError
        When there is nothing.
    LocationError
        When the package for such URLs is missing.
    OSError
        When the place cannot be reached.
    """
    url = str(location(url))
    fs, path = file_system_of(url)
    with as_os_errors(url):
        found = fs.find(path, detail=True)
        if not found and not fs.exists(path):
            raise FileNotFoundError(errno.ENOENT, f"there is none at {url}", url)
        return {
            url + name[len(path) :] if name.startswith(path) else f"{url}/{name}": facts_in(entry)
            for name, entry in found.items()
        }


def common_root(files: Iterable[str]) -> str:
    """The directory that all files are below; empty when they have none in common."""
    folders = [file.rpartition("/")[0].split("/") for file in files]
    shared: list[str] = []
    for words in zip(*folders, strict=False):
        if len(set(words)) > 1:
            break
        shared.append(words[0])
    # of a URL the scheme, an empty word and the bucket
    return "/".join(shared) if len(shared) > 2 else ""


# ---------------------------------------------------------------- names that people give


def require_name(what: str, name: str) -> str:
    """Refuse a name that cannot be that of a file or directory on every file system.

    Parameters
    ----------
    what : str
        What it is the name of, for the message.
    name : str
        The name.

    Returns
    -------
    str
        The name.

    Raises
    ------
    ValueError
        When it has other characters than letters, digits and ``_ . + -``, ends with a dot, is a name of a device
        (``aux``, ``con``, ``nul``, ...), or is too long.
    """
    shown = name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}..."
    if not _ALLOWED.fullmatch(name):
        raise ValueError(f"{what} must be letters, digits, '_', '.', '+' or '-', got {shown!r}")
    if len(name) > MOST_BYTES:
        raise ValueError(f"{what} must have at most {MOST_BYTES} characters, got {len(name)} ({shown!r})")
    if name.endswith(".") or not _TAKEN.isdisjoint({name.casefold(), name.partition(".")[0].casefold()}):
        raise ValueError(f"{what} cannot be {shown!r}, which is no name of a directory on some file systems")
    return name


def twin(name: str) -> str:
    """What a name is where capital letters, forms of Unicode, and dots and blanks at its end do not count.

    Two names of one twin may be one file or directory.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return folded.rstrip(". ") or folded


def file_word(name: str) -> str:
    """A name as a part of the name of a file or group, another one for every name, on any file system.

    Parameters
    ----------
    name : str
        Any text. Capital letters, blanks between words and forms of one letter in Unicode do not tell two apart.

    Returns
    -------
    str
        ASCII letters, digits and ``. _ + -``, with ``_`` for blanks: :func:`require_name` takes it with ``target_``
        before it. Where other signs gave way, or some file system would take it for another name, or it is long, a
        digest of the name ends it.
    """
    plain = unicodedata.normalize("NFC", " ".join(name.split()))
    kept = re.sub(r"[^A-Za-z0-9._+-]", "-", plain.replace(" ", "_"))
    meant = plain.lower()
    if twin(kept) == meant.replace(" ", "_") and "_" not in plain and len(kept) <= MOST_OF_WORD:
        return kept
    return f"{kept[: MOST_OF_WORD - _DIGITS - 1].rstrip('.')}-{digest_of(meant)}"


def digest_of(name: str) -> str:
    """Digits that tell names apart which are the same once they are names of files."""
    return hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:_DIGITS]
