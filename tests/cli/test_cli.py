import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from deepgsr_cli.cli import app
from deepgsr_cli.formats.image import Image, read_image, write_image
from deepgsr_cli.version import __version__
from tests.forks import FORKS, deepgsr, start
from tests.samples import smooth_picture


@pytest.fixture
def run(tiny_weights, tmp_path, monkeypatch):
    """The command line in this process, in an empty folder, with tiny weights for colour."""
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()

    def invoke(*arguments, weights=3):
        arguments = [str(argument) for argument in arguments]
        if arguments[0] == "denoise" and weights:
            arguments[1:1] = ["--weights", str(tiny_weights[weights]), "--device", "cpu"]
        return runner.invoke(app, arguments)

    return invoke


def picture(path, channels=3, depth="uint8", sigma=25.0, size=(41, 52), seed=0):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(0, sigma / 255, (channels, *size))
    pixels = (smooth_picture(channels, *size, seed=seed) + noise).astype(np.float32)
    write_image(path, Image(pixels, depth, "PNG"))
    return path


def png_header(width, height):
    import struct
    import zlib

    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(100))
    chunks = [
        struct.pack(">I", len(b) - 4) + b + struct.pack(">I", zlib.crc32(b)) for b in (body, data, b"IEND")
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_a_picture_is_restored_beside_the_input(run):
    source = picture("in.png")
    before = source.read_bytes()
    result = run("denoise", "in.png", "--sigma", 25)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == "in_denoise.png"
    assert source.read_bytes() == before
    assert np.abs(read_image(Path("in_denoise.png")).pixels - read_image(source).pixels).max() > 0.004
    assert sorted(os.listdir()) == ["in.png", "in_denoise.png"]


def test_the_same_input_gives_the_same_bytes(run):
    picture("in.png")
    run("denoise", "in.png", "-o", "a.png")
    run("denoise", "in.png", "-o", "b.png")
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_json_has_one_object_a_line_and_nothing_else(run):
    picture("in/a.png")
    picture("in/b.png", seed=1)
    Path("in/c.png").write_text("no picture")
    result = run("denoise", "in", "-o", "out", "--json", "--sigma", 25)
    assert result.exit_code == 1
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["status"] for line in lines] == ["done", "done", "failed"]
    assert lines[0]["output"] == str(Path("out/a.png"))
    assert (lines[0]["width"], lines[0]["height"], lines[0]["sigma"]) == (52, 41, 25)
    assert "is no picture" in lines[2]["error"]


def test_a_folder_with_broken_files_is_finished_and_resumed(run):
    for i in range(10):
        picture(f"in/{i}.png", size=(17, 19), seed=i)
    good = Path("in/3.png").read_bytes()
    Path("in/3.png").write_bytes(b"")
    Path("in/7.png").write_bytes(Path("in/7.png").read_bytes()[:200])
    result = run("denoise", "in", "-o", "out", "--sigma", 25)
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == len(os.listdir("out")) == 8
    complaints = [line for line in result.stderr.splitlines() if "/3.png" in line or "/7.png" in line]
    assert len(complaints) == 2
    assert "8 restored, 2 failed" in result.stderr

    times = {name: os.stat(f"out/{name}").st_mtime_ns for name in os.listdir("out")}
    Path("in/3.png").write_bytes(good)
    Path("out/5.png").unlink()
    result = run("denoise", "in", "-o", "out", "--sigma", 25, "--skip-existing")
    assert result.exit_code == 1
    assert {Path(line).name for line in result.stdout.splitlines()} == {"3.png", "5.png"}
    assert "2 restored, 7 skipped, 1 failed" in result.stderr
    assert all(os.stat(f"out/{name}").st_mtime_ns == time for name, time in times.items() if name != "5.png")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("text.png", b"hello", "text.png: is no picture of a format that is read, PNG"),
        ("empty.png", b"", "empty.png: the file is empty"),
        ("bomb.png", png_header(65000, 65000), "bomb.png: 65000 x 65000 pixels are more than the"),
        ("missing.png", None, "missing.png: there is no such file"),
        ("cut.jpg", "jpeg", "cut.jpg: the JPEG data is damaged or cut short"),
    ],
)
def test_a_bad_file_gets_one_sentence_and_leaves_nothing(run, name, content, sentence):
    if content == "jpeg":
        write_image(Path("whole.jpg"), Image(smooth_picture(3, 64, 64), "uint8", "JPEG"))
        content = Path("whole.jpg").read_bytes()
        content = content[: len(content) // 2]
        Path("whole.jpg").unlink()
    if content is not None:
        Path(name).write_bytes(content)
    before = os.listdir()
    result = run("denoise", name)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert sentence in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.output
    assert os.listdir() == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--sigma", "-1"], "--sigma -1: give a number from 0 to 255, or auto"),
        (["--sigma", "abc"], "--sigma abc: give a number"),
        (["--sigma", "nan"], "--sigma nan: give a number"),
        (["--sigma", "90"], "--sigma 90: these weights know 0 to 75"),
        (["--strength", "2"], "--strength 2: give 0"),
        (["--noise", "pink"], "--noise pink: give auto, white or camera"),
        (["--tile", "big"], "--tile big: give a number of pixels"),
        (["--tile", "32", "--sigma", "9"], "--tile 32"),
        (["--precision", "fp8"], "--precision fp8: give fp32"),
        (["--device", "gpu"], "--device gpu: not a device"),
        (["--batch", "0"], "--batch 0: give 1 or more"),
        (["--shard", "5/4"], "--shard 5/4: give i/n"),
        (["--skip-existing", "--overwrite"], "--skip-existing and --overwrite exclude each other"),
        (["--reference", "none.png"], "--reference none.png: no such file"),
        (["--report", "r.pdf"], "--report r.pdf: give a file that ends in"),
        (["--format", "xyz"], "--format xyz: known are"),
        (["-o", "-", "--json"], "--json and -o - would both use standard output"),
        (["--report", "none/r.html"], "--report none/r.html: there is no folder none; make it first"),
        (["--format", "gif", "-o", "out.png"], "-o out.png and --format gif name two formats; give one"),
        (["-o", "in.png"], "in.png: is an input, and no input is overwritten"),
    ],
)
def test_wrong_usage_gets_one_sentence_and_exit_code_2(run, arguments, sentence):
    picture("in.png", size=(200, 210))
    result = run("denoise", "in.png", *arguments)
    assert result.exit_code == 2, result.output
    assert sentence in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert os.listdir() == ["in.png"]


def test_an_empty_folder_is_wrong_usage(run):
    Path("empty").mkdir()
    result = run("denoise", "empty")
    assert result.exit_code == 2
    assert "empty: no pictures in there" in result.stderr


def test_unknown_and_tampered_weights_get_one_sentence(run, tiny_weights, tmp_path):
    picture("in.png")
    result = run("denoise", "in.png", "--weights", "nonsense", weights=None)
    assert result.exit_code == 1
    assert "nonsense: neither a file nor weights by this name" in result.stderr
    data = tiny_weights[3].read_bytes()
    Path("short.safetensors").write_bytes(data[:-100])
    result = run("denoise", "in.png", "--weights", "short.safetensors", weights=None)
    assert result.exit_code == 1
    assert "short.safetensors: not a whole safetensors file" in result.stderr
    result = run("denoise", "in.png", "--weights", tiny_weights[1], weights=None)
    assert result.exit_code == 2
    assert "made for gray pictures, this one is colour" in result.stderr
    assert sorted(os.listdir()) == ["in.png", "short.safetensors"]


def test_an_existing_output_is_kept_unless_told_otherwise(run):
    picture("in.png")
    Path("out.png").write_text("mine")
    result = run("denoise", "in.png", "-o", "out.png")
    assert result.exit_code == 1
    assert "out.png: exists; give --overwrite" in result.stderr
    assert Path("out.png").read_text() == "mine"
    assert run("denoise", "in.png", "-o", "out.png", "--overwrite").exit_code == 0
    assert read_image(Path("out.png")).depth == "uint8"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_gets_one_sentence(run):
    picture("in.png")
    Path("locked").mkdir(mode=0o555)
    result = run("denoise", "in.png", "-o", "locked/out.png")
    assert result.exit_code == 1
    assert "there is no permission to write there" in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full device")
def test_a_full_disk_gets_one_sentence_and_leaves_no_partial_file(run, monkeypatch):
    picture("in.png")
    real = Path.open

    def full(self, mode="r", *arguments, **options):
        # Every write beside the target goes to a device that has no space left.
        path = Path("/dev/full") if self.suffix == ".tmp" and "w" in mode else self
        return real(path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", full)
    result = run("denoise", "in.png")
    assert result.exit_code == 1
    assert "in_denoise.png: cannot be written, there is no space left" in result.stderr
    assert os.listdir() == ["in.png"]


def test_a_dry_run_says_what_would_be_done_and_does_nothing(run):
    picture("in/a.png")
    picture("in/b.png")
    picture("out/b.png")
    result = run("denoise", "in", "-o", "out", "--dry-run", "--skip-existing")
    assert result.exit_code == 0
    lines = {line.split(":")[0]: line for line in result.stdout.splitlines()}
    assert lines["write"] == f"write: {Path('in/a.png')} -> {Path('out/a.png')}"
    assert "skip" in lines
    assert "already there" not in result.stderr
    result = run("denoise", "in", "-o", "out", "--dry-run")
    assert f"fail: {Path('in/b.png')} -> {Path('out/b.png')}" in result.stdout
    assert result.stderr == "already there: 1 result; give --overwrite, --skip-existing or another -o\n"
    assert os.listdir("out") == ["b.png"]


def test_the_table_of_weights_fits_a_terminal(run):
    table, *licences = run("weights", "list").stdout.split("\n\n")
    assert max(map(len, table.splitlines())) <= 80
    names = [line.split()[0] for line in table.splitlines()[2:]]
    told = [name for part in licences for name in part.strip().split("\nof ")[1].split(", ")]
    assert sorted(told) == sorted(names)


def test_shards_do_all_of_the_work_once(run):
    for i in range(5):
        picture(f"in/{i}.png", size=(9, 11))
    for part in ("1/2", "2/2"):
        assert run("denoise", "in", "-o", "out", "--shard", part).exit_code == 0
    assert sorted(os.listdir("out")) == sorted(os.listdir("in"))


@pytest.mark.parametrize("name", ["scan [red].png", "größe 試.png", "-dash.png", "a'b\"c.png"])
def test_any_file_name_works(run, name):
    picture(Path("in") / name)
    result = run("denoise", "in", "-o", "out", "--sigma", "25")
    assert result.exit_code == 0, result.output
    assert os.listdir("out") == [name]
    assert name in result.stdout


def test_a_reference_gives_figures(run):
    picture("in.png", sigma=25)
    write_image(Path("clean.png"), Image(smooth_picture(3, 41, 52), "uint8", "PNG"))
    result = run("denoise", "in.png", "--sigma", 25, "--reference", "clean.png")
    assert re.search(
        r"in_denoise.png  PSNR 20\.\d\d -> \d\d\.\d\d dB, SSIM 0\.\d{4} -> 0\.\d{4}", result.stdout
    )


def test_the_estimate_is_told(run):
    picture("in.png", size=(160, 170))
    result = run("denoise", "in.png")
    levels = re.search(r"in.png: white noise found, sigma ([\d., ]+), removed", result.stderr).group(1)
    assert [float(level) for level in levels.split(",")] == pytest.approx([25, 25, 25], rel=0.15)


@pytest.mark.parametrize("suffix", [".html", ".json"])
def test_a_report_holds_every_file_with_its_figures(run, suffix):
    picture("in/a.png")
    picture("in/b [x].png", seed=1)
    Path("in/c.png").write_text("no picture")
    write_image(
        Path("clean/a.png").parent.mkdir() or Path("clean/a.png"),
        Image(smooth_picture(3, 41, 52), "uint8", "PNG"),
    )
    write_image(Path("clean/b [x].png"), Image(smooth_picture(3, 41, 52, seed=1), "uint8", "PNG"))
    result = run(
        "denoise", "in", "-o", "out", "--sigma", 25, "--reference", "clean", "--report", f"r{suffix}"
    )
    assert result.exit_code == 1
    text = Path(f"r{suffix}").read_text(encoding="utf-8")
    for fact in ("a.png", "b [x].png", "c.png", "is no picture", "tiny-3.safetensors, sha256", __version__):
        assert fact in text
    if suffix == ".json":
        report = json.loads(text)
        assert 19 < report["summary"]["PSNR in (dB)"] < 22
        assert report["items"][0]["metrics"]["sigma"] == 25


def test_a_report_of_many_files_shows_the_first_and_lists_all(run, monkeypatch):
    import deepgsr_cli.cli
    import deepgsr_cli.cli.command
    import deepgsr_cli.formats.image
    import deepgsr_cli.pictures.jobs

    monkeypatch.setattr(deepgsr_cli.cli.command, "PICTURES_IN_REPORT", 1)
    picture("in/a.png")
    picture("in/b.png", seed=1)
    run("denoise", "in", "-o", "out", "--sigma", 25, "--report", "r.json")
    items = json.loads(Path("r.json").read_text(encoding="utf-8"))["items"]
    assert [len(item["images"]) for item in items] == [2, 0]


def test_tiles_change_the_result_by_next_to_nothing(run):
    picture("in.png", size=(300, 310))
    run("denoise", "in.png", "--sigma", 25, "-o", "whole.png", "--tile", 0)
    run("denoise", "in.png", "--sigma", 25, "-o", "tiled.png", "--tile", 256)
    whole, tiled = (read_image(Path(f"{name}.png")).pixels for name in ("whole", "tiled"))
    assert np.abs(whole - tiled).mean() < 0.2 / 255


@pytest.mark.parametrize("task", ["derain", "restore"])
def test_a_blind_task_restores_colour_and_gray_and_reports(run, blind_weights, task):
    picture("in/a.png")
    picture("in/b.png", channels=1)
    clean = read_image(picture("clean/a.png", sigma=0))
    options = ("--weights", blind_weights[task], "--device", "cpu", "--report", "r.html")
    result = run(task, "in", "-o", "out", *options, "--json")
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["status"], "sigma" in line) for line in lines] == [("done", False)] * 2
    colour, gray = read_image(Path("out/a.png")), read_image(Path("out/b.png"))
    assert colour.pixels.shape == clean.pixels.shape
    assert gray.pixels.shape == (1, 41, 52)
    assert (colour.pixels != read_image(Path("in/a.png")).pixels).any()
    assert task in Path("r.html").read_text(encoding="utf-8")
    result = run(task, "in/a.png", "--weights", blind_weights[task], "--reference", "clean/a.png")
    assert result.stdout.startswith(f"in/a_{task}.png  PSNR ".replace("/", os.sep))


def test_weights_of_another_task_are_refused(run, tiny_weights, blind_weights):
    picture("in.png")
    result = run("derain", "in.png", "--weights", tiny_weights[3])
    assert result.exit_code == 2
    assert "tiny-3.safetensors: trained for denoise; give weights for derain" in result.stderr
    result = run("denoise", "in.png", "--sigma", 25, "--weights", blind_weights["restore"], weights=None)
    assert "trained for restore; give weights for denoise" in result.stderr
    assert not Path("in_derain.png").exists()


def test_train_derain_on_pairs_and_clean_pictures_then_measure(run):
    for i in range(3):
        picture(f"pairs/rain/{i}.png", size=(70, 81), seed=i)
        picture(f"pairs/clean/{i}.png", sigma=0, size=(70, 81), seed=i)
    options = ("-o", "run", "--held-out", 1, "--steps", 2, "--batch", 2, "--patch", 32, "--device", "cpu")
    result = run("train", "derain", "--data", "pairs/clean", "--pairs", "pairs", *options, "--json")
    assert result.exit_code == 0, result.output
    weights = json.loads(result.stdout)["weights"]
    result = run(
        "eval", "derain", "--data", "pairs", "--weights", weights, "--csv", "x.csv", "--report", "r.html"
    )
    assert result.exit_code == 0, result.output
    assert "3 pairs, fingerprint" in result.stdout
    assert "MATLAB rgb2ycbcr" in result.stdout
    assert [line.split()[0] for line in result.stdout.splitlines()[-2:]] == ["rainy", "deepgsr"]
    assert Path("x.csv").read_text().startswith("picture,sigma,method,psnr,ssim,seconds,psnr_y,ssim_y")
    assert "Evaluation of deraining" in Path("r.html").read_text(encoding="utf-8")
    result = run("train", "denoise", "--pairs", "pairs", *options)
    assert (result.exit_code, "No such option: --pairs" in result.stderr) == (2, True)


def test_train_then_denoise_with_what_was_trained(run, tiny_weights):
    for i in range(3):
        picture(f"data/{i}.png", sigma=0, size=(70, 81), seed=i)
    result = run(
        "train", "denoise", "--data", "data", "-o", "run", "--channels", 3, "--held-out", 1, "--steps", 2,
        "--batch", 1, "--patch", 32, "--device", "cpu", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["steps"] == 2
    *lines, last = result.stderr.splitlines()
    assert [line.split(",")[0] for line in lines] == ["step 2"]
    assert last.startswith("validation PSNR ")
    assert last.endswith(f"; the noisy input has {facts['given_psnr']:.2f} dB")
    picture("in.png")
    result = run("denoise", "in.png", "--sigma", 25, "--weights", facts["weights"], weights=None)
    assert result.exit_code == 0, result.output


def test_training_on_colour_pictures_says_that_it_is_for_gray_ones(run):
    for i in range(3):
        picture(f"data/{i}.png", sigma=0, size=(40, 40), seed=i)
    options = ("--held-out", 1, "--steps", 1, "--batch", 1, "--patch", 16, "--device", "cpu")
    result = run("train", "denoise", "--data", "data", "-o", "run", *options)
    assert result.exit_code == 0, result.output
    assert "add --channels 3 for colour weights" in result.stderr
    picture("in.png")
    result = run("denoise", "in.png", "--sigma", 25, "--weights", "run/model.safetensors", weights=None)
    assert result.exit_code == 2
    assert "deepgsr train denoise --channels 3" in result.stderr
    for more in (("--channels", 1), ("--quiet",)):
        result = run("train", "denoise", "--data", "data", "-o", f"run{more[0]}", *options, *more)
        assert "--channels" not in result.stderr
    result = run("train", "denoise", "--data", "data", "-o", "silent", *options, "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    result = run("train", "denoise", "--data", "data", "-o", "as_json", *options, "--quiet", "--json")
    assert json.loads(result.stdout)["weights"] == str(Path("as_json/model.safetensors"))
    assert result.stderr == ""


def test_eval_prints_the_protocol_and_the_means(run, tiny_weights):
    picture("data/a.png", sigma=0)
    picture("data/b.png", sigma=0, seed=1)
    options = ["--data", "data", "--sigma", 15, "--sigma", 50, "--weights", tiny_weights[3], "--csv", "x.csv"]
    result = run("eval", "denoise", *options, "--report", "r.html")
    assert result.exit_code == 0, result.output
    for fact in ("data: 2 pictures", "RandomState(0)", "rounded to 8 bits", "tiny-3.safetensors"):
        assert fact in result.stdout
    assert [line.split()[:2] for line in result.stdout.splitlines()[-4:]] == [
        ["15", "noisy"],
        ["15", "deepgsr"],
        ["50", "noisy"],
        ["50", "deepgsr"],
    ]
    assert len(Path("x.csv").read_text().splitlines()) == 1 + 2 * 2 * 2
    assert "a.png, sigma 15" in Path("r.html").read_text(encoding="utf-8")

    result = run("eval", "denoise", *options, "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(lines) == 9
    psnrs = [line["psnr"] for line in lines[:-1] if (line["sigma"], line["method"]) == (50, "deepgsr")]
    assert lines[-1]["means"][-1]["psnr"] == pytest.approx(np.mean(psnrs))

    assert len(run("eval", "denoise", *options, "--json", "--quiet").stdout.splitlines()) == 9
    result = run("eval", "denoise", *options, "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    Path("data/c.png").write_text("no picture")
    result = run("eval", "denoise", *options, "--quiet")
    assert (result.exit_code, result.stdout) == (1, "")
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == [
        str(Path("data/c.png")),
        "1 file could not be used, and the means are of the others",
    ]


@pytest.mark.parametrize(("file", "words"), [("none/x.csv", "there is no folder none"), (".", "is a folder")])
def test_a_table_that_cannot_be_written_is_told_before_the_work(run, file, words):
    result = run("eval", "denoise", "--data", "none", "--sigma", 25, "--csv", file)
    assert result.exit_code == 2
    assert f"--csv {file}: {words}" in result.stderr


@pytest.mark.parametrize("seed", [-1, 2**32])
@pytest.mark.parametrize("level", [("denoise", "--sigma", 25), ("demosaick",), ("phase", "--alpha", 27)])
def test_a_seed_that_no_generator_takes_is_told_before_the_work(run, level, seed):
    task, *options = level
    result = run("eval", task, "--data", "none", *options, "--seed", seed)
    assert result.exit_code == 2
    assert f"--seed {seed}: give 0 to 4294967295" in result.stderr


def test_doctor_names_versions_and_devices(run):
    result = run("doctor", "--json")
    facts = json.loads(result.stdout)
    assert facts["deepgsr"] == __version__
    assert "free" in facts["device cpu"]


def process(*arguments, **options):
    command = [sys.executable, "-c", "from deepgsr_cli.cli import app; app()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, **options)


def test_help_imports_neither_torch_nor_numpy():
    code = (
        "import sys\nfrom deepgsr_cli.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_help_is_broken_where_the_terminal_ends():
    env = {**os.environ, "COLUMNS": "500"}
    for command, count in ((["ct-recon"], 8), (["train", "denoise"], 5)):
        lines = process(*command, "--help", check=True, env=env).stdout.decode().splitlines()
        prose = [line for line in lines if line.strip() and not {"│", "─"} & set(line)]
        assert len(prose) == count  # usage, title, one paragraph, and a note or a heading with examples


def test_each_file_registers_the_commands_that_are_listed_for_it():
    import importlib

    from deepgsr_cli import cli

    for file in set(cli.FILES.values()):
        part = typer.Typer(callback=lambda: None)
        importlib.import_module(f"deepgsr_cli.cli.{file}").register(part)
        listed = {name for name, home in cli.FILES.items() if home == file}
        assert set(typer.main.get_group(part).commands) == listed


def test_version_and_unknown_commands():
    assert process("--version").stdout.decode().strip() == f"deepgsr {__version__}"
    assert process("sharpen").returncode == 2


def test_a_pipe_and_a_terminal_of_another_encoding(tmp_path, tiny_weights):
    source = picture(tmp_path / "größe 試.png")
    options = ["--sigma", 25, "--weights", tiny_weights[3], "--device", "cpu"]
    stdin, given = FORKS.Pipe(duplex=False)
    taken, stdout = FORKS.Pipe(duplex=False)
    streams = {0: stdin, 1: stdout}
    piped = start(deepgsr, "denoise", "-", "-o", "-", *map(str, options), streams=streams)
    for theirs in streams.values():
        theirs.close()
    with os.fdopen(os.dup(given.fileno()), "wb") as file:
        file.write(source.read_bytes())
    given.close()
    with os.fdopen(os.dup(taken.fileno()), "rb") as file:
        result = file.read()
    piped.join()
    assert piped.exitcode == 0
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    named = process("denoise", source, "-o", tmp_path / "out.png", *options, env=environment)
    assert named.returncode == 0, named.stderr
    assert (tmp_path / "out.png").read_bytes() == result


def test_an_interrupt_keeps_what_is_finished_and_leaves_no_partial_file(run, monkeypatch):
    import deepgsr_cli.cli
    import deepgsr_cli.cli.command
    import deepgsr_cli.formats.image
    import deepgsr_cli.pictures.jobs

    for i in range(3):
        picture(f"in/{i}.png")
    real = deepgsr_cli.formats.image.write_image
    count = 0

    def interrupted(*arguments, **options):
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        real(*arguments, **options)

    monkeypatch.setattr(deepgsr_cli.pictures.jobs, "write_image", interrupted)
    result = run("denoise", "in", "-o", "out", "--sigma", 25)
    assert result.exit_code == 130
    assert os.listdir("out") == ["0.png"]


def test_an_unexpected_error_fails_one_file_and_not_the_batch(run, monkeypatch):
    import deepgsr_cli.cli
    import deepgsr_cli.cli.command
    import deepgsr_cli.formats.image
    import deepgsr_cli.pictures.jobs

    picture("in/a.png")
    picture("in/b.png")
    real = deepgsr_cli.formats.image.read_image

    def faulty(path, **options):
        if path.name == "a.png":
            raise ZeroDivisionError("oops")
        return real(path, **options)

    monkeypatch.setattr(deepgsr_cli.pictures.jobs, "read_image", faulty)
    result = run("denoise", "in", "-o", "out", "--sigma", 25)
    assert result.exit_code == 1
    assert "unexpected ZeroDivisionError: oops" in result.stderr
    assert os.listdir("out") == ["b.png"]


def test_an_installed_script_is_there():
    assert shutil.which("deepgsr", path=os.path.dirname(sys.executable)), "run pip install -e ."
