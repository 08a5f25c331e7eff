"""Names that people give become files and directories: on every file system, and each its own, or they are refused."""

import os
import unicodedata

import pytest

from opticam_dask import Instrument
from opticam_dask.api.arguments import check_label
from opticam_dask.lightcurves.targets import kept_name, label_of
from opticam_dask.locations import MOST_BYTES, require_name, twin
from opticam_dask.pipeline import preparation
from opticam_dask.pipeline.reduction import ReductionError
from opticam_dask.store.camera import file_start, group_name
from opticam_dask.store.errors import StoreError, require_own_name

CANNOT_BE = [
    *("CON", "aux", "nul.1", "Com1", "lpt9.txt", "zarr.json", "a.", "a ", " a", "", ".", "..", ".a", "a/b", "a\\b"),
    *("a:b", "a\nb", "\u00e9", "x" * 300),
]


@pytest.mark.parametrize("name", CANNOT_BE, ids=lambda name: ascii(name)[:12])
def test_label__that_some_file_system_cannot_have__is_refused_in_one_line(name):
    with pytest.raises(ValueError, match="a label") as refused:
        check_label(name)
    assert len(str(refused.value)) < 200
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["console", "auxiliary", "com10", "a.b", "r3.5", "_", "x" * MOST_BYTES])
def test_label__like_one_that_cannot_be__is_taken(name):
    assert check_label(name) == name


TWINS = [
    *(("R", "r"), ("R", "R."), ("R", "R ."), ("\u00e5", "a\u030a"), ("\ufb01", "fi"), ("stra\u00dfe", "STRASSE")),
    ("K", "\u212a"),
]


@pytest.mark.parametrize(("one", "other"), TWINS, ids=ascii)
def test_twin__names_that_may_be_one_directory(one, other):
    assert twin(one) == twin(other)
    with pytest.raises(StoreError, match="would be one directory"):
        require_own_name(one, [other])


def test_twin__names_that_differ():
    names = ["g", "g'", "gp", "H-alpha", "H_alpha", "u", "U-band"]
    assert len({twin(name) for name in names}) == len(names)
    require_own_name("g", ["g'", "gp"])


@pytest.mark.parametrize("filter_name", ["a/b", "a\\b", "../../etc", "..\\x"])
def test_group_name__of_a_filter_with_separators__is_one_directory(filter_name):
    name = group_name(f"1:{filter_name}")
    assert os.path.basename(name) == name
    assert "\\" not in name  # Zarr takes it for a separator


@pytest.mark.parametrize("target", ["x" * 400, "\u03b4" * 200, "\U00020000" * 99], ids=["letters", "greek", "rare"])
def test_target__long_name__is_cut_and_its_own(target):
    names = [label_of(target), label_of(target + "1")]
    assert names[0] != names[1]
    for name in names:
        require_name("a name", f"target_{name}")  # as the store does


def test_target__in_another_form_of_unicode__has_the_same_name():
    asgard = "\u00c5sgard"
    assert label_of(unicodedata.normalize("NFD", asgard)) == label_of(asgard)
    assert label_of(asgard).startswith("-sgard-")


# names by which light curves were kept in stores and files before letters beyond ASCII gave way
KEPT = [("HAT-P-32", "HAT-P-32"), ("V404 Cyg", "V404_Cyg"), ("A/B", "A-B-c14cddc0"), ("x" * 113, "x" * 113)]


@pytest.mark.parametrize(("target", "name"), KEPT)
def test_target__has_the_name_that_stores_know(target, name):
    assert label_of(target) == name


# each pair: two targets of one catalogue, which a run must not write into one file of any file system
TARGETS = [("A/B", "A-B"), ("A/B", "A:B"), ("V1.", "V1"), ("HAT_P_32", "HAT P 32"), ("stra\u00dfe", "STRASSE")]
TARGETS += [("\ufb01", "fi"), ("a b", "a  b/"), ("\u00c5", "\u00c4"), ("x" * 130 + "/", "x" * 130 + ":")]


@pytest.mark.parametrize(("one", "other"), TARGETS, ids=ascii)
def test_target__has_a_file_name_of_its_own_on_every_file_system(one, other):
    assert twin(label_of(one)) != twin(label_of(other))
    for name in (label_of(one), label_of(other)):
        assert os.path.basename(name) == name
        require_name("a name", f"target_{name}")


def test_target__by_another_spelling_of_its_name__has_the_same_file():
    assert twin(label_of("a/b ")) == twin(label_of(" A/B"))
    assert label_of("12:30:00 +05:00:00") == label_of(("12:30:00", "+05:00:00")) == "12-30-00_+05-00-00"


@pytest.mark.parametrize("prefix", ["\u00c5sgard", "x" * 121, "a/b", "nul"], ids=ascii)
def test_prefix__that_the_store_would_not_take__is_refused_before_anything_is_written(prefix):
    with pytest.raises(ValueError, match="prefix"):
        kept_name(prefix, 3)
    assert kept_name(None, "V1") == "target_V1"


@pytest.mark.parametrize("name", ["x" * 65, "", "\u03b4" * 40, "1:2"], ids=ascii)
def test_camera__that_no_file_could_be_named_after__is_refused_by_the_definition(name):
    with pytest.raises(ValueError, match="cameras must name a camera"):
        Instrument(name="one", time_keywords=("DATE-OBS",), time_marks="start", cameras={name: ("V",)})


@pytest.mark.parametrize("filter_name", ["\xe9" * 64, "V" * 65, "V\x07"], ids=["bytes", "letters", "bell"])
def test_filter__that_no_file_could_be_named_after__costs_its_frame_in_one_line(filter_name):
    instrument = Instrument(name="one", time_keywords=("DATE-OBS",), time_marks="start", cameras={"1": ("V",)})
    [problem] = [line for line in instrument.interpret({"FILTER": filter_name}).problems if line.startswith("filter")]
    assert "at most 64 printable characters" in problem
    assert len(problem) < 200


def test_file_start__is_another_one_for_every_key_and_name():
    keys = ["1:H", "1:H_a", "1:h_b", "2:H"]
    pairs = [(key, name) for key in keys for name in ("x", "a_x", "b_x", "A_x", "a")]
    assert len({twin(file_start(key, name, keys)) for key, name in pairs if name != "A_x"}) == len(keys) * 4
    assert file_start("1:H", "x", keys) == "1-H_x"
    assert file_start("1:H", "a_x", ["1:H"]) == "1-H_a_x"


@pytest.mark.parametrize("keys", [("A:g", "a:r"), ("a/b:g", "a_b:r"), ("\u00e5:g", "a\u030a:r")], ids=ascii)
def test_cameras__that_are_one_directory_are_refused(keys):
    with pytest.raises(ReductionError, match="give these cameras names"):
        preparation._refuse_equal_names(keys)
