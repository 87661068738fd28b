import os
from pathlib import Path

import pytest

from deepgsr_cli.errors import InputError, UsageError
from deepgsr_cli.jobs.plan import plan, shard

SUFFIXES = {".png", ".tif"}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name in (
        "in/a.png",
        "in/sub/b.TIF",
        "in/sub/c [1].png",
        "in/notes.txt",
        "in/.hidden.png",
        "in/.git/d.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pairs(*arguments):
    return {(j.label, str(j.target)) for j in plan(*arguments, "denoise", SUFFIXES).jobs}


def test_a_result_goes_beside_its_input_unless_told_otherwise(tree):
    assert pairs(["in/a.png"], None) == {("in/a.png", "in/a_denoise.png")}


def test_results_have_another_suffix_where_that_is_said(tree):
    suffixes = {".jpg": ".png", ".jpeg": ".png"}
    for name in ("a.jpg", "b.JPEG", "c.tif"):
        Path(name).touch()
    jobs = plan(["a.jpg", "b.JPEG", "c.tif"], "out/", "dejpeg", SUFFIXES, target_suffix=suffixes).jobs
    assert [job.target.name for job in jobs] == ["a.png", "b.png", "c.tif"]
    (job,) = plan(["a.jpg"], None, "dejpeg", SUFFIXES, target_suffix=suffixes).jobs
    assert job.target.name == "a_dejpeg.png"
    (job,) = plan(["a.jpg"], "given.jpg", "dejpeg", SUFFIXES, target_suffix=suffixes).jobs
    assert job.target.name == "given.jpg"


def test_a_folder_is_searched_and_its_tree_kept(tree):
    expected = {
        ("in/a.png", "out/a.png"),
        ("in/sub/b.TIF", "out/sub/b.TIF"),
        ("in/sub/c [1].png", "out/sub/c [1].png"),
    }
    assert pairs(["in"], "out") == expected
    assert plan(["in"], "out", "denoise", SUFFIXES).passed_over == [Path("in/notes.txt")]


def test_an_output_for_one_file_is_a_file_or_an_existing_folder(tree):
    assert pairs(["in/a.png"], "x.png") == {("in/a.png", "x.png")}
    assert pairs(["in/a.png"], "in/sub") == {("in/a.png", "in/sub/a.png")}
    assert pairs(["in/a.png"], "new/") == {("in/a.png", "new/a.png")}
    assert pairs(["in/a*.png"], "v1.2") == {("in/a.png", "v1.2/a.png")}
    assert pairs(["in/a*.png"], "new.png/") == {("in/a.png", "new.png/a.png")}


def test_brackets_in_a_name_are_no_pattern_where_the_file_exists(tree):
    assert pairs(["in/sub/c [1].png"], None) == {("in/sub/c [1].png", "in/sub/c [1]_denoise.png")}


def test_patterns_are_expanded_by_us_too(tree):
    assert pairs(["in/**/*.png"], "out") == {("in/a.png", "out/a.png"), ("in/sub/c [1].png", "out/c [1].png")}


def test_a_second_run_does_not_restore_the_results_of_the_first(tree):
    first = pairs(["in"], None)
    for _, target in first:
        Path(target).touch()
    assert pairs(["in"], None) == first
    (tree / "in/out").mkdir()
    (tree / "in/out/a.png").touch()
    assert ("in/out/a.png", "in/out/out/a.png") not in pairs(["in"], "in/out")


def test_the_same_file_given_twice_is_one_job(tree):
    assert len(pairs(["in/a.png", "./in/a.png"], "out")) == 1


def test_a_missing_file_is_a_job_that_will_fail_and_not_stop_the_rest(tree):
    assert pairs(["in/a.png", "none.png"], "out") == {("in/a.png", "out/a.png"), ("none.png", "out/none.png")}


@pytest.mark.parametrize(
    ("inputs", "output", "sentence"),
    [
        (["in/a.png"], "in/a.png", "in/a.png: is an input, and no input is overwritten"),
        (["in/*.jpg"], None, r"in/\*.jpg: no file matches"),
        (["in/a.png", "in/sub"], "in/notes.txt", "is a file, and several results need a folder"),
        (["in/a.png", "in/sub"], "out.png", "name of a file, and several .*; give out.png/ if it is one"),
        (["in"], "out.PNG", "name of a file, and several results need a folder"),
        (["in"], "-", "3 pictures do not fit one stream"),
        (["-"], None, "goes alone, with an output"),
        (["-", "in/a.png"], "out", "goes alone"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(tree, inputs, output, sentence):
    with pytest.raises(UsageError, match=sentence):
        plan(inputs, output, "denoise", SUFFIXES)


def test_two_results_for_one_path_are_refused(tree):
    for name in ("b.heic", "b.png", "b.heic.png"):
        (tree / "in" / name).touch()
    inputs = ["in/b.heic", "in/b.png", "in/b.heic.png"]
    with pytest.raises(UsageError, match=r"b.heic and in/b.heic.png would both be written to out/b.heic.png"):
        plan(inputs, "out", "denoise", SUFFIXES, target_suffix={".heic": ".png"})


@pytest.mark.parametrize(
    "inputs", [("in", "two"), ("in/a.png", "two/a.png", "two/sub/b.TIF", "in/sub/b.TIF")]
)
def test_results_of_one_name_keep_the_folder_of_their_input(tree, inputs):
    for name in ("two/a.png", "two/sub/b.TIF", "two/other.png"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()
    found = pairs(inputs, "out")
    assert {("in/a.png", "out/in/a.png"), ("two/a.png", "out/two/a.png")} < found
    assert {("in/sub/b.TIF", "out/in/sub/b.TIF"), ("two/sub/b.TIF", "out/two/sub/b.TIF")} < found
    if "in" in inputs:
        assert ("two/other.png", "out/other.png") in found


@pytest.mark.parametrize("names", [("b.heic", "b.tif", "b.png"), ("b.png", "b.tif", "b.heic")])
def test_results_that_differ_in_nothing_keep_the_suffix_of_their_input(tree, names):
    for name in names:
        (tree / "in" / name).touch()
    suffixes = {".heic": ".png", ".tif": ".png"}
    inputs = [f"in/{name}" for name in names]
    found = plan(inputs, "out", "denoise", SUFFIXES, target_suffix=suffixes)
    expected = {"b.heic": "b.heic.png", "b.tif": "b.tif.png", "b.png": "b.png"}
    assert {job.source.name: job.target.name for job in found.jobs} == expected
    assert found.notes[-1].startswith("results that differ by their input's suffix alone keep it: out/b.")
    (alone,) = plan(inputs[:1], "out/", "denoise", SUFFIXES, target_suffix=suffixes).jobs
    assert alone.target.name == "b.png"

    beside = plan(inputs, None, "denoise", {".heic", *SUFFIXES}, target_suffix=suffixes).jobs
    assert {job.target.name for job in beside} == {
        "b.heic_denoise.png", "b.tif_denoise.png", "b_denoise.png"
    }  # fmt: skip
    for job in beside:
        job.target.touch()
    again = plan(["in"], None, "denoise", {".heic", *SUFFIXES}, target_suffix=suffixes).jobs
    assert not {job.source.name for job in again} & {job.target.name for job in beside}


def test_a_folder_that_cannot_be_listed_is_told_and_not_called_empty(tree, monkeypatch):
    def refused(path, failures):
        failures.append(InputError(f"{path}: cannot be listed, Permission denied; change its mode"))
        return []

    monkeypatch.setattr("deepgsr_cli.jobs.plan.files_below", refused)
    with pytest.raises(InputError, match="in: cannot be listed, Permission denied"):
        plan(["in"], "out", "denoise", SUFFIXES)


def test_a_folder_without_pictures_is_refused(tree):
    (tree / "empty").mkdir()
    with pytest.raises(UsageError, match="empty: no pictures in there"):
        plan(["empty"], None, "denoise", SUFFIXES)


@pytest.mark.skipif(os.name == "nt", reason="symbolic links need rights on Windows")
def test_the_folder_of_the_inputs_is_no_output(tree):
    with pytest.raises(UsageError, match=r"^-o in: is the folder of the inputs, and no input is overwritten"):
        plan(["in"], "in", "denoise", SUFFIXES)


def test_an_input_is_not_overwritten_through_a_link(tree):
    (tree / "link.png").symlink_to("in/a.png")
    with pytest.raises(UsageError, match="no input is overwritten"):
        plan(["in/a.png"], "link.png", "denoise", SUFFIXES)


@pytest.mark.skipif(os.name == "nt", reason="symbolic links need rights on Windows")
def test_a_linked_folder_is_searched_once_and_a_circle_of_links_ends(tree):
    (tree / "elsewhere").mkdir()
    (tree / "elsewhere/c.png").touch()
    for name, target in (("one", "../elsewhere"), ("two", "../elsewhere"), ("up", ".."), ("self", ".")):
        (tree / "in" / name).symlink_to(target)
    names = [job.name.name for job in plan(["in"], "out", "denoise", SUFFIXES).jobs]
    assert names.count("c.png") == 1
    assert len(names) == len(set(names))


def test_files_of_formats_that_are_not_read_are_named(tree):
    for name in ("x.heic", "y.RAW", "notes.txt"):
        (tree / "in" / name).touch()
    found = plan(["in"], "out", "denoise", SUFFIXES, foreign=(".heic", ".raw"))
    assert found.notes[-1] == "2 files passed over, of formats that are not read: x.heic, y.RAW"
    assert found.notes[0] == plan(["in"], "out", "denoise", (*SUFFIXES, ".heic", ".raw")).notes[0]


def test_shards_are_disjoint_and_cover_all():
    jobs = list(range(10))
    parts = [shard(jobs, f"{i}/3") for i in (1, 2, 3)]
    assert sorted(job for part in parts for job in part) == jobs
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "-1/2", "1/0"])
def test_shards_out_of_range_are_refused(text):
    with pytest.raises(UsageError, match=f"shard[ =]{text}: give i/n"):
        shard([], text)
