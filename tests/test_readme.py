"""The README's examples run as they are printed, and its figures are the manifest's."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from conftest import smooth_picture
from typer.testing import CliRunner

from deepgsr_cli import dicom
from deepgsr_cli.cli import app
from deepgsr_cli.images import Image, write_image
from deepgsr_cli.weights import load_manifest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The files that the examples name."""
    clean = smooth_picture(3, 70, 81)
    noise = np.random.default_rng(0).normal(0, 25 / 255, clean.shape)
    noisy = Image((clean + noise).astype(np.float32), "uint8", "PNG")
    write_image(tmp_path / "noisy.png", noisy)
    write_image(tmp_path / "rainy.png", noisy)
    write_image(tmp_path / "reference.png", Image(clean, "uint8", "PNG"))
    (tmp_path / "slices").mkdir()
    dicom.write_new(
        np.full((48, 48), 40.0), (4.0, 4.0), tmp_path / "slices/1.dcm",
        measurement="water", description="water", derivation="made by the test",
    )  # fmt: skip
    for name in ("photos", "train", "test", "pairs/rain", "pairs/clean"):
        (tmp_path / name).mkdir(parents=True)
        for i in range(3):
            write_image(tmp_path / name / f"{i}.png", noisy)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_runs(folder):
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) >= 14
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "deepgsr"
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, f"{command}: {result.output}"
    assert {"clean.png", "report.html", "restored", "part", "runs"} <= {
        path.name for path in folder.iterdir()
    }


def test_the_python_example_runs(folder):
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(block, {})
    assert (folder / "from_python.png").exists()


def test_the_sample_picture_gets_better(folder):
    from deepgsr_cli import denoise, read_image
    from deepgsr_cli.metrics import psnr

    noisy, clean = (read_image(ROOT / "examples" / f"{name}.png").pixels for name in ("cat_noisy", "cat"))
    restored = denoise(noisy.transpose(1, 2, 0), 25, device="cpu").transpose(2, 0, 1)
    assert psnr(restored, clean) > psnr(noisy, clean) + 10


def test_the_figures_are_the_manifests():
    for entry in load_manifest().values():
        assert f"`{entry.name}`" in README
        for value in entry.measured.values():
            assert f"| {value} |" in README
