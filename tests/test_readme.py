"""The README's examples run as they are printed, and the figures of the pages are the manifest's."""

import json
from itertools import pairwise
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from tests.test_docs import ROOT, blocks, commands, enter_project, run

README = ROOT / "README.md"


@pytest.fixture
def project(tmp_path, monkeypatch, small_examples):
    return enter_project(tmp_path, monkeypatch, small_examples)


def targets(command: str) -> list[str]:
    """What a command writes, as `-o` says it."""
    words = command.split()
    return [after for word, after in pairwise(words) if word in ("-o", "--output")]


@pytest.mark.parametrize(
    "block", [pytest.param(b, id=str(i + 1)) for i, b in enumerate(blocks(README, "sh"))]
)
def test_every_command_runs(block, project):
    for command in commands(block):
        run(command)
        assert all(Path(target).exists() for target in targets(command)), command


def test_results_do_not_collide():
    """Commands that stand in different blocks write to different places."""
    written = [{target for c in commands(block) for target in targets(c)} for block in blocks(README, "sh")]
    assert sum(map(len, written)) == len(set().union(*written)) >= 6


def test_the_python_example_runs(project):
    (block,) = blocks(README, "python")
    exec(block, {})
    assert (project / "from_python.png").exists()


def test_it_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_every_page_is_linked():
    text = README.read_text(encoding="utf-8")
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"](docs/{page.name}" not in text] == []


def psnr(pixels: np.ndarray, reference: np.ndarray) -> float:
    error = pixels.astype(float) - reference
    return float(10 * np.log10(255**2 / np.mean(error**2)))


@pytest.mark.parametrize(("command", "name", "gain"), [("denoise", "noisy", 12), ("derain", "rainy", 9)])
def test_the_sample_pictures_get_better(command, name, gain, tmp_path, monkeypatch):
    enter_project(tmp_path, monkeypatch)
    run(f"deepgsr {command} examples/cat_{name}.png -o better.png")
    clean = iio.imread("examples/cat.png")
    before, after = (psnr(iio.imread(path), clean) for path in (f"examples/cat_{name}.png", "better.png"))
    assert after > before + gain


def test_the_figures_are_the_manifests():
    manifest = json.loads((ROOT / "weights_manifest.json").read_text(encoding="utf-8"))
    weights, results = (
        (ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("weights.md", "results.md")
    )
    for entry in manifest["weights"]:
        assert f"`{entry['name']}`" in weights
        for value in entry["measured"].values():
            assert f"| {value} |" in results
