"""How commands that make files of files are run, and how options become commands."""

import json
import logging
import os
import pickle
import re
import shutil
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from deepgsr_cli.cli import app, command, ct_recon, demosaick, mar, output, phase, pictures
from deepgsr_cli.cli.options import MEASUREMENT, SPEED, BatchOptions, flag, option
from deepgsr_cli.compute import memory
from deepgsr_cli.compute.kernels import compiled
from deepgsr_cli.formats.image import Image, write_image
from deepgsr_cli.jobs.plan import Plan
from deepgsr_cli.jobs.run import Place
from deepgsr_cli.pictures import restorer
from deepgsr_cli.tomography.geometry import sparse_view
from deepgsr_cli.tomography.geometry_files import write_geometry
from tests.samples import body_hu, saved_slice, smooth_picture

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
COMMANDS = ("denoise", "derain", "restore", "ct-recon", "mar", "phase")


@pytest.fixture
def run(tiny_weights, tmp_path, monkeypatch):
    """The command line in an empty folder, with tiny weights for gray pictures where it denoises."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: object):
        given = ["--weights", str(tiny_weights[1])] if arguments[0] in ("denoise", "phase") else []
        return CliRunner().invoke(app, [*map(str, arguments), "--device", "cpu", *given])

    return invoke


def picture(path: str, seed: int = 0, sigma: float = 25.0) -> None:
    """Write a gray picture with noise."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(0, sigma / 255, (1, 17, 19))
    pixels = smooth_picture(1, 17, 19, seed=seed) + noise
    write_image(Path(path), Image(pixels.astype(np.float32), "uint8", "PNG"))


@pytest.fixture
def folder(run):
    """Two noisy pictures and a text in a folder, and the clean ones in another."""
    for i, name in enumerate("ab"):
        picture(f"in/{name}.png", i)
        picture(f"clean/{name}.png", i, sigma=0)
    Path("in/notes.txt").write_text("no picture")


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def items(path: str) -> list[dict]:
    return json.loads(Path(path).read_text(encoding="utf-8"))["items"]


def test_a_report_shows_what_an_earlier_run_has_finished(run, folder):
    options = ("denoise", "in", "-o", "out", "--sigma", 25, "--reference", "clean", "--report", "r.json")
    run(*options)
    before = items("r.json")
    Path("out/b.png").unlink()
    result = run(*options, "--skip-existing")
    assert "1 restored, 1 skipped" in result.stderr
    after = items("r.json")
    assert after[0]["note"] == "skipped: its output exists"
    assert [image["label"] for image in after[0]["images"]] == ["Input", "Restored", "Reference"]
    for name in ("size", "PSNR in (dB)", "PSNR out (dB)", "SSIM out"):
        assert after[0]["metrics"][name] == before[0]["metrics"][name]
    assert after[1]["metrics"]["PSNR out (dB)"] == before[1]["metrics"]["PSNR out (dB)"]


def test_what_cannot_be_reviewed_is_told_in_a_report(run, folder):
    run("denoise", "in", "-o", "out", "--sigma", 25)
    Path("out/a.png").write_text("damaged")
    result = run("denoise", "in", "-o", "out", "--skip-existing", "--report", "r.json")
    assert result.exit_code == 0
    assert items("r.json")[0]["note"].startswith("skipped: its output exists; out/a.png: is no picture")


@pytest.mark.parametrize("suffix", [".dcm", ".tif", ".npy"])
def test_a_report_shows_finished_slices(run, suffix):
    saved_slice(Path("slice.dcm"), body_hu())
    for name, figures in (("ct-recon", ("PSNR (dB)", "RMSE in body (HU)")), ("mar", ())):
        method = "fbp" if name == "ct-recon" else "li"
        options = (name, "slice.dcm", "-o", f"{name}{suffix}", "--method", method, "--report", "r.json")
        assert run(*options).exit_code == 0
        (before,) = items("r.json")
        assert run(*options, "--skip-existing").exit_code == 0
        (after,) = items("r.json")
        assert len(after["images"]) >= 2
        for figure in figures:
            # DICOM has whole HU.
            assert after["metrics"][figure] == pytest.approx(before["metrics"][figure], rel=0.02)


@pytest.mark.parametrize("reference", ["clean", "clean/a.png"])
def test_a_reference_is_not_overwritten(run, folder, reference):
    before = Path("clean/a.png").read_bytes()
    options = ("--sigma", 25, "--reference", reference, "--overwrite")
    result = run("denoise", "in/a.png", "-o", "clean/a.png", *options)
    assert result.exit_code == 2
    assert result.stderr == (
        "clean/a.png: is read by --reference, and nothing that is read is overwritten; give another name\n"
    )
    assert Path("clean/a.png").read_bytes() == before
    assert run("denoise", "in/a.png", "-o", "clean/out/", *options).exit_code == 0


def test_a_geometry_file_is_not_overwritten_by_the_report(run):
    geometry = sparse_view((16, 16), (8.0, 8.0), 20)
    write_geometry(geometry, Path("scan.json"))
    np.save("scan.npy", np.zeros((geometry.num_views, geometry.num_bins), np.float32))
    before = Path("scan.json").read_bytes()
    options = ("--geometry", "scan.json", "--method", "fbp", "--report", "./scan.json")
    result = run("ct-recon", "scan.npy", "-o", "slice.tif", *options)
    assert result.exit_code == 2
    assert "scan.json: is read by --geometry" in result.stderr
    assert Path("scan.json").read_bytes() == before


def test_figures_do_not_take_the_place_of_a_picture(run, folder):
    before = Path("clean/a.png").read_bytes()
    result = run("eval", "denoise", "--data", "clean", "--sigma", 25, "--csv", "clean/a.png")
    assert result.exit_code == 2
    assert result.stderr == "--csv clean/a.png: give a file that ends in .csv\n"
    assert Path("clean/a.png").read_bytes() == before


def test_progress_names_the_file_in_work_and_its_number(run, folder, monkeypatch):
    told = []

    @contextmanager
    def bar(total, label, quiet):
        yield lambda done, text: told.append((done, text))

    monkeypatch.setattr(command, "progress_bar", bar)
    run("denoise", "in", "-o", "out", "--sigma", 25)
    assert told[0] == (0, "1/2 in/a.png")
    assert [text for _, text in told].index("2/2 in/b.png") > 0


def test_a_format_gives_names_of_its_suffix_where_none_is_given(run):
    picture("a.png")
    assert run("denoise", "a.png", "--sigma", 25, "--format", "jpeg").exit_code == 0
    assert run("denoise", "a.png", "--sigma", 25, "--format", "jpeg", "-o", "out/").exit_code == 0
    assert Path("a_denoise.jpg").read_bytes()[:2] == Path("out/a.jpg").read_bytes()[:2] == b"\xff\xd8"
    assert not Path("a_denoise.png").exists()


def test_a_preview_is_a_png_beside_no_result(run):
    picture("a.png")
    Path("a.png").rename("a.tif")
    assert run("denoise", "a.tif", "--preview").exit_code == 0
    assert [path.name for path in sorted(Path().glob("*.*"))] == ["a.tif", "a_denoise_preview.png"]
    assert (
        "leave --reference and --format out" in run("denoise", "a.tif", "--preview", "--format", "png").stderr
    )
    assert "--preview" in run("upscale", "a.tif", "--preview").stderr


def test_an_unknown_suffix_is_refused_before_the_work(run, monkeypatch):
    picture("a.png")
    monkeypatch.setattr(pictures.PictureCommand, "open", None)
    result = run("denoise", "a.png", "-o", "b.xyz")
    assert result.exit_code == 2
    assert result.stderr.startswith("b.xyz: no picture format is written by this name; use one of .png")


@pytest.mark.parametrize("name", ["denoise", "derain", "restore", "dejpeg", "upscale"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_written(tmp_path, name):
    flat = tmp_path / "flat.png"
    write_image(flat, Image(np.full((3, 20, 20), 0.5, np.float32), "uint8", "PNG"))
    result = CliRunner().invoke(app, [name, str(flat), "-o", str(tmp_path / "b.png"), "--device", "nowhere"])
    assert result.exit_code == 2
    assert result.stderr.startswith("--device nowhere: not a device")
    assert os.listdir(tmp_path) == ["flat.png"]


@pytest.mark.parametrize("suffix", [".jfif", ".jpe"])
def test_jpegs_of_other_names_are_found_and_written(run, suffix):
    write_image(Path("a.jpg"), Image(smooth_picture(1, 17, 19), "uint8", "JPEG"))
    Path("in").mkdir()
    Path("a.jpg").rename(f"in/a{suffix}")
    assert run("denoise", "in", "-o", "out", "--sigma", 25).exit_code == 0
    assert Path(f"out/a{suffix}").read_bytes()[:2] == b"\xff\xd8"


@pytest.mark.parametrize("name", ["denoise", "phase"])
def test_an_output_without_a_suffix_hints_at_a_folder(run, name):
    picture("a.png")
    inputs = ("--simulate", "a.png") if name == "phase" else ("a.png",)
    result = run(name, *inputs, "-o", "newdir", "--dry-run")
    assert "-o newdir: is the name of a file; for a folder, give newdir/" in result.stderr
    assert "newdir/" not in run(name, *inputs, "-o", "new.png", "--dry-run").stderr


def test_files_passed_over_are_counted_and_on_request_named(run, folder):
    result = run("denoise", "in", "-o", "out", "--sigma", 25, "--json")
    assert [line["status"] for line in lines(result.stdout)] == ["done", "done", "passed over"]
    assert lines(result.stdout)[-1]["input"] == "in/notes.txt"
    assert "notes.txt" not in result.stderr
    result = run("denoise", "in", "-o", "out", "--dry-run", "--json", "-v")
    assert lines(result.stdout)[-1] == {"input": "in/notes.txt", "action": "passed over"}
    assert "in/notes.txt: passed over" in result.stderr
    Path("scan").mkdir()
    saved_slice(Path("scan/1.dcm"), body_hu())
    Path("scan/notes.txt").write_text("no slice")
    for name in ("ct-recon", "mar"):
        result = run(name, "scan", "-o", "out", "--dry-run", "--json", "-v")
        assert lines(result.stdout)[-1] == {"input": "scan/notes.txt", "action": "passed over"}
        assert "scan/notes.txt: passed over" in result.stderr


def test_a_folder_with_a_reference_ends_with_the_mean(run, folder):
    options = ("denoise", "in", "-o", "out", "--sigma", 25, "--json")
    result = run(*options, "--reference", "clean")
    psnr = np.mean([line["psnr"] for line in lines(result.stdout)[:2]])
    mean = re.search(r"mean of 2: PSNR [\d.]+ -> ([\d.]+) dB, SSIM ", result.stderr)
    assert float(mean[1]) == pytest.approx(psnr, abs=0.006)
    assert "mean" not in run(*options, "--overwrite").stderr


def test_a_picture_that_equals_its_reference_is_no_part_of_the_mean_psnr(run, folder):
    write_image(Path("in/c.png"), Image(np.full((1, 9, 9), 0.5, np.float32), "uint8", "PNG"))
    shutil.copy("in/c.png", "clean/c.png")
    result = run("denoise", "in", "-o", "out", "--reference", "clean", "--json", "--report", "r.json")
    psnrs = [line["psnr"] for line in lines(result.stdout)[:3]]
    assert psnrs[2] is None
    mean = re.search(
        r"mean of 3: PSNR [\d.]+ -> ([\d.]+) dB, .*; 1 equal to the reference, which", result.stderr
    )
    assert float(mean[1]) == pytest.approx(np.mean(psnrs[:2]), abs=0.006)
    figures = ["PSNR in (dB)", "PSNR out (dB)", "SSIM in", "SSIM out"]
    assert list(items("r.json")[0]["metrics"])[:4] == figures  # what a narrow page shows
    summary = json.loads(Path("r.json").read_text(encoding="utf-8"))["summary"]
    assert summary["PSNR out (dB)"] == pytest.approx(np.mean(psnrs[:2]), abs=0.006)


def test_seconds_leave_out_the_loading_of_weights(run, folder, monkeypatch):
    from deepgsr_cli.weights import load

    real, clock, late = load.load, time.perf_counter, [0]

    def slow(*arguments, **options):
        late[0] += 3600
        return real(*arguments, **options)

    monkeypatch.setattr(time, "perf_counter", lambda: clock() + late[0])
    monkeypatch.setattr(load, "load", slow)
    result = run("denoise", "in", "-o", "out", "--json")
    assert late[0] > 0
    assert max(line["seconds"] for line in lines(result.stdout)[:2]) < 3600


def test_quiet_is_quiet_but_for_errors_and_json(run, folder):
    result = run("denoise", "in", "-o", "out", "-q")
    assert (result.exit_code, result.output) == (0, "")
    result = run("denoise", "in", "-o", "out", "-q")
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (1, "", 2)
    assert len(lines(run("denoise", "in", "-o", "out", "-q", "--json", "--overwrite").stdout)) == 3


def test_compiling_is_told_once_on_a_terminal(monkeypatch, capsys, tmp_path):
    import numba

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    for terminal in (True, False):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        with output.told_of_compiling(quiet=False):
            for value in (1, 1.0):
                # Another function each time: what is compiled is kept.
                assert compiled(lambda a: a + 1)(value) == 2
        assert capsys.readouterr().err.count("compiling for this processor, once") == int(terminal)
    assert logging.getLogger("deepgsr_cli.compute.kernels").handlers == []


def test_two_processes_print_and_write_what_one_does(run, folder, forked):
    Path("in/c.png").write_text("no picture")
    options = ("denoise", "in", "--sigma", 25, "--json", "--reference", "clean", "--precision", "fp32")
    alone = run(*options, "-o", "one", "--report", "one.json")
    both = run(*options, "-o", "two", "--report", "two.json", "--jobs", 2)
    assert (alone.exit_code, both.exit_code) == (1, 1)
    assert [without_chance(line, "one") for line in lines(alone.stdout)] == [
        without_chance(line, "two") for line in lines(both.stdout)
    ]
    assert both.stderr == alone.stderr
    for name in ("a.png", "b.png"):
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()
    one, two = (json.loads(Path(f"{name}.json").read_text(encoding="utf-8")) for name in ("one", "two"))
    assert [item["images"] for item in one["items"]] == [item["images"] for item in two["items"]]
    assert one["protocol"]["weights (gray)"] == two["protocol"]["weights (gray)"]


def without_chance(line: dict, folder: str) -> dict:
    """A line of JSON without its time and the folder of the results."""
    return {**line, "seconds": 0, "output": str(line.get("output")).removeprefix(folder)}


def test_a_process_knows_its_device_and_how_many_share_its_memory(monkeypatch):
    monkeypatch.setattr("deepgsr_cli.compute.device._device_names", lambda: ["cpu", "cuda:0", "cuda:1"])
    options = pictures.Denoise(inputs=["in"], jobs="auto", device="auto")
    of = pictures.PictureCommand("denoise")
    work = command._open(of, options, Plan([]), Place("cuda:1", 3))
    assert (work.restorer.options.device, work.restorer.options.sharing) == ("cuda:1", 3)
    mosaics = demosaick.Demosaick(inputs=["in"], jobs="auto")
    work = command._open(demosaick.DemosaickCommand(), mosaics, Plan([]), Place("cuda:1", 3))
    assert (work.demosaicker.options.device, work.demosaicker.options.sharing) == ("cuda:1", 3)
    assert command._open(of, options, Plan([]), Place()).restorer.options.sharing == 1


def test_every_process_of_a_run_keeps_the_memory_it_frees(monkeypatch):
    calls = []
    monkeypatch.setattr(memory, "keep_freed_memory", lambda: calls.append(None))
    mosaics = demosaick.Demosaick(inputs=["in"])
    command._open(demosaick.DemosaickCommand(), mosaics, Plan([]), Place())
    assert len(calls) == 1


def test_tiles_are_chosen_by_a_share_of_the_memory(tiny_weights, free_bytes_given):
    for sharing in (1, 4):
        options = restorer.RunOptions("cpu", sharing=sharing)
        restorer.Restorer(str(tiny_weights[1]), options)(np.eye(9, dtype=np.uint8), 25)
    assert free_bytes_given == [12 << 30, 3 << 30]


@pytest.mark.parametrize("jobs", ["0", "-1", "two", "1.5", "1025"])
def test_jobs_that_cannot_be_are_refused(run, folder, jobs):
    result = run("denoise", "in", "-o", "out", "--jobs", jobs)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"--jobs {jobs}: give a number of processes from 1 to 1024, or auto" in result.stderr


def test_slices_are_shared_out_by_shards(run):
    Path("scan").mkdir()
    for i in range(3):
        position = ["0", "0", str(i)]
        saved_slice(Path(f"scan/{i}.dcm"), body_hu(), ImagePositionPatient=position)
    for name in ("ct-recon", "mar"):
        found = []
        for part in ("1/2", "2/2"):
            result = run(name, "scan", "-o", "out", "--shard", part, "--dry-run", "--json")
            found += [line["input"] for line in lines(result.stdout)]
        assert sorted(found) == [f"scan/{i}.dcm" for i in range(3)]


def test_phase_takes_folders_like_the_others(run, folder):
    simulate = (
        "phase",
        "--simulate",
        "in",
        "-o",
        "out",
        "--method",
        "er",
        "--restarts",
        1,
        "--iterations",
        5,
    )
    assert run(*simulate, "--dry-run").stdout.splitlines() == [
        "write: in/a.png -> out/a.png",
        "write: in/b.png -> out/b.png",
    ]
    assert len(lines(run(*simulate, "--shard", "1/2", "--json").stdout)) == 2
    result = run(*simulate, "--skip-existing", "--json", "--report", "r.json")
    assert [line["status"] for line in lines(result.stdout)] == ["skipped", "done", "passed over"]
    assert [len(item["images"]) for item in items("r.json")] == [2, 2, 1]
    assert "PSNR (dB)" in items("r.json")[0]["metrics"]
    assert run(*simulate).exit_code == 1
    result = run(*simulate, "--overwrite")
    assert re.search(r"2 retrieved\nmean of 2: residual 0\.\d+, PSNR [\d.]+ dB", result.stderr)


def test_measurements_in_a_folder_have_references_in_another(run, folder):
    Path("patterns").mkdir()
    for name in "ab":
        kept = ("--keep-measurement", f"patterns/{name}.npz", "-o", f"{name}.png")
        run("phase", "--simulate", f"in/{name}.png", "--method", "er", "--iterations", 5, *kept)
    options = ("--method", "er", "--iterations", 5, "--reference", "in", "--json")
    result = run("phase", "patterns/*.npz", "-o", "out", *options)
    assert [line["output"] for line in lines(result.stdout)] == ["out/a.png", "out/b.png"]
    assert all("psnr" in line for line in lines(result.stdout))
    result = run("phase", "--simulate", "in", "--keep-measurement", "x.npz")
    assert result.exit_code == 2
    assert "2 measurements do not fit one file" in result.stderr


def test_precision_reaches_the_denoiser_of_phase(run, folder):
    options = ("phase", "--simulate", "in/a.png", "--alpha", 9)
    for precision in ("fp32", "bf16"):
        assert run(*options, "-o", f"{precision}.tif", "--precision", precision).exit_code == 0
    assert Path("fp32.tif").read_bytes() != Path("bf16.tif").read_bytes()
    assert "--precision fp8: give fp32" in run(*options, "--precision", "fp8").stderr


def test_what_makes_the_work_goes_to_another_process(run, folder):
    saved_slice(Path("slice.dcm"), body_hu())
    for of, options in (
        (pictures.PictureCommand("denoise"), pictures.Denoise(inputs=["in"], sigma="25")),
        (ct_recon._CtRecon(), ct_recon.CtRecon(inputs=["slice.dcm"], output="x.dcm", method="fbp")),
        (mar._Mar(), mar.Mar(inputs=["slice.dcm"], output="x.dcm", method="li")),
        (phase._Phase(), phase.Phase(simulate="in/a.png", method="er")),
    ):
        opened = pickle.loads(pickle.dumps(of.open(options, of.plan(options))))
        assert opened().protocol


def examples() -> list[str]:
    """The examples at the ends of the helps that are about files in the project."""
    known = typer.main.get_command(app).commands
    found = [line for name in COMMANDS for line in known[name].epilog.split("\n\n")]
    return [line for line in found if line.startswith("deepgsr ")]


def test_every_command_has_examples():
    assert {
        name: sum(line.split()[1] == name for line in examples()) > 1 for name in COMMANDS
    } == dict.fromkeys(COMMANDS, True)


@pytest.mark.parametrize("line", examples())
def test_examples_in_the_helps_run(line, tmp_path, monkeypatch):
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "series", "patterns"):
        Path(name).mkdir()
    picture("photos/a.png")
    shutil.copy("photos/a.png", "photo.png")
    saved_slice(Path("series/1.dcm"), body_hu())
    np.savez("patterns.npz", intensity=np.ones((1, 8, 8)))
    shutil.copy("patterns.npz", "patterns")
    result = CliRunner().invoke(app, [*line.split()[1:], "--dry-run"])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("write: ")


def test_a_dataclass_becomes_a_command_with_its_options_in_panels(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")

    @dataclass(frozen=True, kw_only=True)
    class Shared:
        fast: Annotated[bool, flag("--fast", panel=SPEED, help="Hurry.")] = False
        length: Annotated[float | None, option(panel=MEASUREMENT, help="Length.", default="all")] = None

    @dataclass(frozen=True, kw_only=True)
    class Options(Shared):
        """Do something."""

        names: Annotated[list[str], typer.Argument(help="Names.")]
        width: Annotated[int, option("--width", "-w", panel=MEASUREMENT, help="Width.")] = 3

    monkeypatch.setitem(globals(), "Shared", Shared)
    got = []
    small = typer.Typer()
    command.add(small, "do", Options, got.append, examples=["deepgsr do x"], note="Beware.")
    command.add(small, "other", Options, got.append)
    runner = CliRunner()
    assert runner.invoke(small, ["do", "x", "y", "-w", "5", "--fast"]).exit_code == 0
    assert got == [Options(names=["x", "y"], width=5, fast=True)]
    text = runner.invoke(small, ["do", "--help"]).output
    places = [
        text.index(word) for word in ("Do something", "--width", "--length", "--fast", "Beware", "Example:")
    ]
    assert places == sorted(places)
    assert "bool" not in text.lower()
    assert runner.invoke(small, ["do"]).exit_code == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_the_options_of_a_batch_in_panels(name):
    parameters = {p.name: p for p in typer.main.get_command(app).commands[name].params}
    assert set(BatchOptions.__dataclass_fields__) <= set(parameters)
    assert all(
        p.rich_help_panel for p in parameters.values() if p.param_type_name == "option" and p.name != "help"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["denoise", "a.png", "--reference", ""],
        ["denoise", "a.png", "--weights="],
        ["mar", "a.dcm", "-o", "out", "--mask", ""],
        ["train", "denoise", "--data", "pictures", "--data", "", "-o", "out"],
        ["eval", "denoise", "--data", ""],
    ],
)
def test_a_value_that_is_empty_is_refused(arguments, tmp_path, monkeypatch):
    """As a path it would be the folder one is in, as a name of weights the default."""
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "is empty, as a variable is that is not set; give a value" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [["--sigma", "25"], ["--sigma", "0"], ["--strength", "0"], []])
def test_weights_that_do_not_fit_are_refused_although_nothing_is_to_be_done(options, tmp_path):
    pixels = np.full((1, 20, 30), 0.3, np.float32)
    write_image(tmp_path / "flat.png", Image(pixels, "uint8", "PNG"))
    target = tmp_path / "out.png"
    arguments = [
        "denoise",
        str(tmp_path / "flat.png"),
        "-o",
        str(target),
        "--weights",
        "deepgsr-ct",
        *options,
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "--weights deepgsr-ct: trained for ct-recon" in result.stderr
    assert not target.exists()


def test_zero_has_no_sign(tmp_path, monkeypatch):
    """Some functions refuse -0 as a negative number, and a table would show it as one."""

    @dataclass(frozen=True, kw_only=True)
    class Options:
        levels: Annotated[list[float], option(panel=MEASUREMENT, help="Levels.")]
        shift: Annotated[float, option(panel=MEASUREMENT, help="Shift.")] = 1.0

    monkeypatch.setitem(globals(), "Options", Options)
    got = []
    small = typer.Typer()
    command.add(small, "do", Options, got.append)
    arguments = ["--levels", "-0", "--levels", "-2", "--shift", "-0.0"]
    assert CliRunner().invoke(small, arguments).exit_code == 0
    assert str(got[0]) == str(Options(levels=[0.0, -2.0], shift=0.0))
