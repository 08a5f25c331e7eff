"""Is a store whole? Every kind of damage is found, named and repaired to the same bits."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from opticam_dask import cli, provenance, simulate_observations
from opticam_dask.api import repair
from opticam_dask.cluster import executors
from opticam_dask.frames.instruments import OPTICAM_MX
from opticam_dask.frames.scanning import find_files, scan
from opticam_dask.lightcurves import results
from opticam_dask.methods.photometers import AperturePhotometer
from opticam_dask.parameters import ReductionParameters
from opticam_dask.pipeline import driver
from opticam_dask.store import arrays, integrity, metadata
from opticam_dask.store.errors import StoreError
from opticam_dask.store.groups import Group
from opticam_dask.store.scratch import read_partial_stack
from opticam_dask.store.store import STORE_NAME, Store

N_FRAMES, PER_BLOCK = 10, 4
DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    simulate_observations(
        directory, n_frames=N_FRAMES, shape=(64, 72), n_sources=4, filters=("g",), flux_range=(8e3, 1e5), fwhm=3.0,
        least_separation=5.0, seed=9,
    )  # fmt: skip
    return directory


def _reduce(data, out, **options):
    setup = driver.Setup(
        Path(out), OPTICAM_MX(), ReductionParameters(n_pixels=5, border_width=3), frames_per_block=PER_BLOCK, **options
    )
    executor = executors.InProcess()
    driver.prepare(setup, scan(find_files(data), setup.instrument))
    driver.drive(driver.Run(setup, executor), driver.TO_CATALOGS)
    photometers = {"aperture": AperturePhotometer(), "wide": AperturePhotometer(radius=6.0)}
    driver.drive(driver.Run(setup, executor, photometers=photometers), driver.TO_LIGHT_CURVES)
    driver.finish(setup)
    return setup.path


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    return _reduce(data, tmp_path_factory.mktemp("whole"))


@pytest.fixture
def path(whole, tmp_path):
    shutil.copytree(whole, tmp_path / STORE_NAME)
    return tmp_path / STORE_NAME


def _command(capsys, *arguments, code):
    assert cli.main([*map(str, arguments)]) == code
    printed = capsys.readouterr()
    return printed.out + printed.err


def _chunk_files(path):
    return sorted(file for file in path.rglob("c/**/*") if file.is_file())


def _flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes(content)


def test_every_chunk_of_a_finished_store_is_a_file(whole):
    for name, array in arrays.all_arrays(whole).items():
        expected = len(list(array.chunks()))
        assert len(list((whole / name).rglob("c/**/*"))) >= expected, name
    assert integrity.find_damage(whole) == []


def _one_chunk_of_each_array(whole):
    """Path of one chunk of every array, the last one."""
    found = {}
    for file in _chunk_files(whole):
        found[str(file.relative_to(whole)).split("/c/")[0]] = file.relative_to(whole)
    return found


@pytest.mark.parametrize("harm", ["flipped bit", "lost"])
def test_damage__of_any_array_is_found_and_named(whole, path, harm):
    chunks = _one_chunk_of_each_array(whole)
    flags = [name for name in chunks if name.endswith("/flags") and "quality" not in name]
    # what says which blocks are done, and the names of frames in messages, are harmed one by one, all others at once
    alone = [name for name in chunks if name.endswith("/frames/file") or (harm == "lost" and name in flags)]
    for names in ([name for name in chunks if name not in alone], *([name] for name in alone)):
        for name in names:
            (path / chunks[name]).unlink() if harm == "lost" else _flip_a_bit(path / chunks[name])
        found = {damage.where.split(",")[0]: damage for damage in integrity.find_damage(path)}
        if harm == "lost" and names[0] in flags:
            # flags that are gone say that the block is not done: it is made again without being asked
            assert found == {}
            part = Store(path).camera("1:g").parts[0]
            label = names[0].split("/")[3] if "photometry" in names[0] else None
            assert not part.records(label).done()[-1]
        else:
            assert sorted(found) == sorted(names)
        for name, damage in found.items():
            assert damage.reason == "the chunk is missing" if harm == "lost" else "damaged" in damage.reason
            if "stack" not in name and integrity._Place.of(Store(path), name, _parts(path)).is_block_wise:
                assert "block 2 of 1:g 2023-12-31 (frames 8 to 9, 240101g200000008o.fits to" in damage.remedy
        for name in names:
            shutil.copyfile(whole / chunks[name], path / chunks[name])


def _parts(path):
    return {part.group: part for camera in Store(path).cameras for part in camera.parts}


def _is_repairable(name):
    last = name.split("/")[-1]
    return not (
        last.startswith("alignment_")
        or ("/frames/" in name and last in integrity._MANIFEST)
        or name.startswith("set_aside")
    )


@pytest.mark.parametrize("harm", ["flipped bit", "lost"])
def test_repair__makes_the_same_bits_again(data, whole, path, capsys, harm):
    """Damage of one chunk of every array that can be made again, all at once."""
    for name, chunk in _one_chunk_of_each_array(whole).items():
        if _is_repairable(name):
            (path / chunk).unlink() if harm == "lost" else _flip_a_bit(path / chunk)
    (path / "1-g" / "x.partial").touch()
    told = _command(capsys, "verify", path.parent, code=1)
    assert "damaged: opticam-dask verify" in told
    told = _command(capsys, "verify", path.parent, "--repair", "--cluster", "none", code=0)
    assert "is whole." in told
    assert integrity.stray_files(path) == []
    assert integrity.compare(whole, path) == []
    assert not (path.parent / "owner.json").exists()


def test_repair__redoes_only_the_damaged_block(data, whole, path):
    """The other blocks need no frame: theirs may even be gone."""
    kept = [path / f"1-g/2023-12-31/frames/background/c/{block}" for block in (0, 2)]
    before = [file.stat().st_mtime_ns for file in kept]
    _flip_a_bit(path / "1-g/2023-12-31/sources/x/c/1/0")
    assert cli.main(["verify", str(path.parent), "--repair", "--cluster", "none"]) == 0
    assert before == [file.stat().st_mtime_ns for file in kept]
    assert integrity.compare(whole, path) == []


@pytest.mark.parametrize("name", ["frames/file", "frames/mjd_utc"])
def test_repair__a_damaged_manifest_needs_the_frames(data, whole, path, capsys, name):
    _flip_a_bit(path / f"1-g/2023-12-31/{name}/c/0")
    for arguments in ([], ["--repair", "--cluster", "none"]):
        told = _command(capsys, "verify", path.parent, *arguments, code=1)
        assert "--redo 2023-12-31" in told
    options = ["--n-pixels", 5, "--border-width", 3, "--frames-per-block", PER_BLOCK, "--cluster", "none"]
    _command(capsys, "reduce", data, "--out", path.parent, *options, "--redo", "2023-12-31", code=0)
    assert (
        cli.main(["reduce", *map(str, [data, "--out", path.parent, *options, "--radius", 6, "--label", "wide"])]) == 0
    )
    assert integrity.compare(whole, path) == []


@pytest.mark.parametrize(
    "file",
    ["zarr.json", "1-g/zarr.json", "1-g/2023-12-31/zarr.json", "1-g/2023-12-31/frames/flags/zarr.json",
     "1-g/catalog/zarr.json", "1-g/catalog/x/zarr.json", "1-g/2023-12-31/photometry/aperture/zarr.json"],
)  # fmt: skip
@pytest.mark.parametrize("content", ["{ half", '{"zarr_format": 3}'])
def test_damaged_metadata__one_clear_line_in_every_command(data, path, capsys, file, content):
    (path / file).write_text(content)
    told = _command(capsys, "verify", path.parent, code=1 if file != "zarr.json" else 2)
    assert "zarr.json" in told
    for command in (["status"], ["lightcurve"]):
        further = ["--target", 1, "--comparisons", 2] if command == ["lightcurve"] else []
        status = cli.main([*command, *map(str, [path.parent, *further])])
        assert status in (0, 1, 2)
    status = cli.main(["reduce", *map(str, [data, "--out", path.parent, "--cluster", "none"])])
    assert status in (1, 2)


@pytest.mark.parametrize("file", ["zarr.json", "1-g/zarr.json", "1-g/2023-12-31/zarr.json", "1-g/catalog/zarr.json"])
def test_damaged_metadata__can_be_left_behind_by_beginning_again(data, whole, path, file):
    (path / file).write_text("{ half")
    options = ["--n-pixels", "5", "--border-width", "3", "--frames-per-block", str(PER_BLOCK), "--cluster", "none"]
    command = ["reduce", str(data), "--out", str(path.parent), *options]
    assert cli.main([*command, "--new"]) == 0
    assert cli.main([*command, "--radius", "6", "--label", "wide"]) == 0
    assert integrity.compare(whole, path) == []


def test_interrupted_removal__is_no_part_of_the_store(data, whole, path):
    shutil.copytree(path / "1-g/2023-12-31/stack", path / "1-g/.2024-01-01.0123.removed")
    (path / "1-g/.2024-01-01.0123.removed/image/c/0/0").unlink()
    assert integrity.find_damage(path) == []
    assert integrity.compare(whole, path) == []
    assert cli.main(["verify", str(path.parent), "--repair", "--cluster", "none"]) == 0
    assert not (path / "1-g/.2024-01-01.0123.removed").exists()


def test_half_written_block__is_not_done(path, capsys):
    for label in ("frames", "photometry/aperture"):
        (path / f"1-g/2023-12-31/{label}/flags/c/{'1' if label == 'frames' else '1/0'}").unlink()
    (path / "1-g/2023-12-31/sources/x/c/1/0").unlink()
    told = _command(capsys, "verify", path.parent, code=1)
    assert "1-g/2023-12-31: first pass: 1 of 3 blocks are not done" in told
    assert "photometry aperture: 1 of 3 blocks are not done" in told


@pytest.mark.parametrize(
    ("lost", "words"),
    [("catalog", "1-g/catalog: the group is missing"), ("reference", "--rebuild-reference"),
     ("2023-12-31/stack", "the stack is not made"),
     ("2023-12-31/photometry/wide/zarr.json", "the metadata are missing")],
)  # fmt: skip
def test_lost_groups__are_found(data, whole, path, capsys, lost, words):
    target = path / "1-g" / lost
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    assert words in _command(capsys, "verify", path.parent, code=1)
    is_repairable = lost in ("catalog", "2023-12-31/stack")
    code = 0 if is_repairable else 1
    _command(capsys, "verify", path.parent, "--repair", "--cluster", "none", code=code)
    if is_repairable:
        assert integrity.compare(whole, path) == []


@pytest.mark.parametrize("lost", ["quality/transparency/zarr.json", "psf"])
def test_quality_and_profile_alone__are_made_again(whole, path, capsys, lost):
    """No block is measured with them: repair said that all was whole, and the quality was gone."""
    target = path / "1-g/2023-12-31" / lost
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    _command(capsys, "verify", path.parent, code=1)
    _command(capsys, "verify", path.parent, "--repair", "--cluster", "none", code=0)
    assert integrity.compare(whole, path) == []


@pytest.mark.parametrize(
    "name", ["photometry/aperture/flux", "quality/ellipticity", "frames/read_noise", "psf/profile"]
)
def test_array_without_metadata__is_named_by_whoever_needs_it(path, name):
    """Its chunks are there. It was missed by its name, in errors of Python."""
    (path / "1-g/2023-12-31" / name / "zarr.json").unlink()
    group = Group(path, f"1-g/2023-12-31/{name.rpartition('/')[0]}")
    with pytest.raises(StoreError, match=f"{name}/zarr.json is damaged .it is not there"):
        group.described()
    assert any(f"{name}/zarr.json" in damage.where for damage in integrity.find_damage(path))


def test_list_of_files_set_aside__without_an_array_is_damaged(path):
    """It has no entries here, and so no chunks."""
    (path / "set_aside/reason/zarr.json").unlink()
    with pytest.raises(StoreError, match=r"reason/zarr\.json is damaged"):
        Store(path).set_aside.read_all()


@pytest.mark.parametrize("content", [b"\x84\xff", b'{"zarr_format": 3, "node_type": "array", "shape": null}'])
def test_array__that_cannot_be_opened_is_named(path, content):
    (path / "1-g/catalog/x/zarr.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"1-g/catalog/x/zarr\.json is damaged"):
        Store(path).camera("1:g").catalog.array("x")


def test_repair__a_catalogue_that_comes_out_differently_is_not_accepted(data, path, capsys):
    options = ["--n-pixels", 5, "--border-width", 3, "--frames-per-block", PER_BLOCK, "--cluster", "none"]
    some = sorted(data.glob("*.fits"))[:4]
    _command(capsys, "reduce", *some, "--out", path.parent, *options, "--redo", "2023-12-31", code=0)
    _flip_a_bit(path / "1-g/catalog/x/c/0")
    for _ in range(2):
        told = _command(capsys, "verify", path.parent, "--repair", "--cluster", "none", code=1)
        assert "--rebuild-reference" in told
    assert not Group(path, "1-g/catalog").is_whole


def test_damaged_array__reduce_names_it(data, path, capsys):
    _flip_a_bit(path / "1-g/catalog/x/c/0")
    options = ["--n-pixels", 5, "--border-width", 3, "--cluster", "none"]
    told = _command(capsys, "reduce", data, "--out", path.parent, *options, code=2)
    assert "1-g/catalog/x" in told
    assert "opticam-dask verify" in told


# ---------------------------------------------------------------- versions of the layout


@pytest.fixture
def old(tmp_path):
    """A store of schema version 1.0: two cameras, one block of bad frames, one block without photometry."""
    with tarfile.open(DATA / "store-1.0.tar.xz") as archive:
        known = hasattr(tarfile, "data_filter")  # Python 3.11.3 and earlier know no filter
        archive.extractall(tmp_path, **({"filter": "data"} if known else {}))
    return tmp_path / "out"


def test_migrate__keeps_every_result_and_completes_the_chunks(old, capsys, tmp_path):
    before = {name: array.read() for name, array in arrays.all_arrays(old / STORE_NAME).items()}
    told = _command(capsys, "migrate", old, code=0)
    assert [line.partition(":")[0] for line in told.splitlines()] == [
        "1.0 -> 1.1",
        "1.1 -> 1.2",
        "1.2 -> 1.3",
        "1.3 -> 1.4",
        "1.4 -> 1.5",
        "1.5 -> 1.6",
        "1.6 -> 1.7",
        "1.7 -> 1.8",
    ]
    after = arrays.all_arrays(old / STORE_NAME)
    added = after.keys() - before.keys()
    assert {name.split("/", 2)[2] for name in added} == {
        *("frames/semimajor_sigma", "frames/semiminor_sigma", "frames/orientation"),
        *("frames/form_terms", "frames/extension", "frames/plane", "frames/fringe_scale"),
        *("frames/file_ctime", "frames/file_checksum"),
        *("frames/linearity_limit", "frames/ra", "frames/dec"),
        *("background/background_offset_mesh", "background/background_mean_mesh", "background/background_n_sky"),
        "photometry/aperture/profile_chi2",
    }
    assert all(np.isnan(after[name].read()).all() or not after[name].read().any() for name in added)
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name].read())
    assert integrity.find_damage(old / STORE_NAME) == []
    assert "photometry aperture: 1 of 3 blocks are not done" in _command(capsys, "verify", old, code=1)
    assert "present version" in _command(capsys, "migrate", old, code=0)
    assert repair.stored_setup(old).instrument == OPTICAM_MX()  # refuses parameters that are not those of the store


def test_old_version__is_not_called_damaged(old, capsys):
    told = _command(capsys, "verify", old, code=1).splitlines()
    assert told[0] == f"Schema version 1.0: opticam-dask migrate {old} brings it up to date."
    assert told[1:] == ["2-r/2023-12-31: photometry aperture: 1 of 3 blocks are not done"]


def test_old_version__is_read_but_not_written(old, capsys):
    assert results.light_curves(old, "1:g").sizes["frame"] == 6
    assert "1:g: " in _command(capsys, "status", old, code=0)
    for arguments in (["verify", old, "--repair"], ["reduce", old.parent / "out" / "nothing.fits", "--out", old]):
        if arguments[0] == "reduce":
            simulate_observations(old.parent / "night", n_frames=3, shape=(64, 72), n_sources=4, fwhm=3.0)
            arguments[1] = old.parent / "night"
            arguments += ["--n-pixels", 5, "--border-width", 3, "--max-sources", 5, "--cluster", "none"]
        told = _command(capsys, *arguments, code=2)
        assert "has schema version 1.0" in told
        assert f"opticam-dask migrate {old}" in told


@pytest.mark.parametrize("version", ["1.9", "2.0"])
def test_unknown_version__is_refused(path, capsys, version):
    Store(path).update({"schema_version": version})
    for command in ("status", "verify", "migrate"):
        assert "Update opticam-dask" in _command(capsys, command, path.parent, code=2)


# ---------------------------------------------------------------- provenance


def test_provenance__says_where_everything_comes_from(data, path, capsys):
    told = json.loads(_command(capsys, "status", path.parent, "--provenance", "--files", code=0))
    assert told == json.loads(json.dumps(provenance(path.parent, files=True)))
    night = told["nights"]["1:g"]["2023-12-31"]
    assert [(entry["file"], entry["bytes"], entry["modified"]) for entry in night["files"]] == [
        (str(file), file.stat().st_size, file.stat().st_mtime) for file in sorted(data.glob("*.fits"))
    ]
    assert night["versions"]["packages"]["numpy"] == np.__version__
    assert night["photometry"]["wide"]["parameters"]["radius"] == 6.0
    assert told["parameters"]["n_pixels"] == 5


def test_prepare__tells_other_versions(data, path):
    versions = dict(Store(path).attributes["packages"], numpy="1.0.0")
    Store(path).update({"packages": versions})
    notes = []
    setup = driver.Setup(path.parent, OPTICAM_MX(), ReductionParameters(n_pixels=5, border_width=3))
    progress = type("Notes", (driver.Silent,), {"tell": lambda self, line: notes.append(line)})()
    driver.prepare(setup, scan(find_files(data), setup.instrument), progress)
    notes = [line for line in notes if not line.startswith("NumPy kernels")]  # where there is no compiler
    assert len(notes) == 1
    assert f'packages.numpy: "1.0.0" before, "{np.__version__}" now' in notes[0]


# ---------------------------------------------------------------- stores from somebody else


def _own_background(image):
    from photutils.background import Background2D

    return Background2D(image, (16, 16))


def test_repair__with_functions_of_the_user_says_what_to_run(data, tmp_path, capsys):
    path = _reduce(data, tmp_path, background=_own_background)
    _flip_a_bit(path / "1-g/2023-12-31/sources/x/c/1/0")
    told = _command(capsys, "verify", tmp_path, "--repair", "--cluster", "none", code=1)
    assert "functions of your own (background" in told
    assert "run the script that made it again" in told


@pytest.mark.parametrize(
    "codec",
    [{"name": "numcodecs.pickle", "configuration": {"protocol": 5}}, {"name": "os.system", "configuration": {}}],
)
def test_a_hostile_codec__runs_nothing(path, capsys, codec):
    file = path / "1-g/catalog/x/zarr.json"
    document = json.loads(file.read_text())
    document["codecs"].append(codec)
    file.write_text(json.dumps(document))
    assert "1-g/catalog/x/zarr.json: the metadata are damaged" in _command(capsys, "verify", path.parent, code=1)


class _Bomb:
    def __reduce__(self):
        return os.mkdir, (str(Path(sys.argv[0]).parent / "must-not-appear"),)


def test_a_pickle_among_the_partial_stacks__is_not_opened(tmp_path):
    file = tmp_path / "level-0-000000.npy"
    with file.open("wb") as stream:
        np.save(stream, np.array([_Bomb()], dtype=object))
    with pytest.raises(StoreError, match="allow_pickle"):
        read_partial_stack(file)


def test_damaged_metadata__is_found_behind_a_link(path, tmp_path):
    far = tmp_path / "other_disk"
    shutil.move(path / "1-g", far)
    (path / "1-g").symlink_to(far)
    assert integrity.find_damage(path) == []
    (far / "catalog" / "flux" / "zarr.json").write_text("{")
    assert [str(one.where) for one in integrity.find_damage(path) if "1-g/catalog/flux" in str(one.where)]


def test_links_in_a_circle__are_walked_once(whole, path, tmp_path):
    """Each directory has one name, its own; what interrupted writes left is found behind links to other disks too."""
    far = tmp_path / "other_disk"
    shutil.move(path / "1-g/2023-12-31", far)
    (path / "1-g/2023-12-31").symlink_to(far)
    (far / "frames/x.partial").touch()
    (path / "1-g/again").symlink_to(".")
    (far / "up").symlink_to(path)
    (far / "elsewhere").symlink_to(tmp_path)  # no part of the store: what lies there is none of its files
    (tmp_path / "mine.partial").touch()
    assert integrity.find_damage(path) == []
    assert integrity.compare(whole, path) == []
    assert integrity.stray_files(path) == [path / "1-g/2023-12-31/frames/x.partial"]
    metadata.consolidate(path)


@pytest.mark.parametrize("links", [{"one": "one"}, {"one": "two", "two": "one"}, {"one": "/no/such/disk"}])
def test_link_to_nothing__is_named(path, capsys, links):
    for name, target in links.items():
        (path / "1-g" / name).symlink_to(target)
    told = _command(capsys, "verify", path.parent, code=1)
    assert f"1-g/one: a link to {links['one']}, which is not there" in told
    metadata.consolidate(path)
    with pytest.raises(StoreError, match=r"1-g/\w* is a link to \S*, which is not there"):
        Store(path).begin_changes()


@pytest.mark.parametrize("name", ["1-g/catalog/flux/zarr.json", "1-g/catalog/flux/c/0"])
def test_file_that_may_not_be_read__is_no_damage(path, capsys, monkeypatch, name):
    """It was taken for damaged, and a night was to be reduced again."""
    file, opened = path / name, Path.open

    def refused(self, *arguments, **options):
        if self == file:
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refused)
    assert f"{file}: Permission denied" in _command(capsys, "verify", path.parent, code=1)


def test_light_curves__of_a_store_with_an_array_without_dimensions_say_so(path):
    store = Store(path)
    camera = store.camera(next(iter(store.cameras)).key)
    group = next(iter(camera.measured_parts("aperture"))).photometry("aperture")
    arrays.open_group(path, group.name).create_array("mine", shape=(5,), dtype="f4")
    with pytest.raises(StoreError, match="without names of its dimensions"):
        results.light_curves(path.parent, camera.key)
