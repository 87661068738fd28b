"""The pages tell the truth: options, links, examples, JSON keys, and where the rays of a geometry run."""

import json
import re
import runpy
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import deepgsr_cli
from deepgsr_cli.cli import app

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.md"))
)
BUILD = runpy.run_path(str(ROOT / "docs" / "build.py"))
# What the pages show beside the command itself: it installs, or starts the command in another way.
NOT_RUN = ("python3 -m venv ", ". .venv/", "pip install ", "python -m pytest", "pre-commit ", "git ")
FENCE = re.compile(r"(<!-- not run: [^>]*-->\n)?```(\w+)\n(.*?)```", re.DOTALL)


def blocks(page: Path, *languages: str) -> list[str]:
    """The blocks of a page in these languages that are not marked as not to be run."""
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [text for mark, language, text in found if language in languages and not mark]


def commands(block: str) -> list[str]:
    """The `deepgsr` commands of a block, in order."""
    lines = block.replace("\\\n", " ").splitlines()
    parts = [part.strip() for line in lines for part in line.split(" && ")]
    parts = [part for part in parts if part and not part.startswith(("#", *NOT_RUN))]
    assert all(part.startswith("deepgsr ") for part in parts), parts
    return parts


def run(command: str) -> str:
    """What a command prints on stdout; it must succeed."""
    result = CliRunner().invoke(app, shlex.split(command)[1:])
    assert result.exit_code == 0, f"{command}: {result.output}"
    return result.stdout


def enter_project(folder: Path, monkeypatch: pytest.MonkeyPatch, examples: Path = ROOT / "examples") -> Path:
    """Work in a folder that has the samples, as the project's root has them."""
    shutil.copytree(examples, folder / "examples")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def project(tmp_path, monkeypatch, small_examples):
    return enter_project(tmp_path, monkeypatch, small_examples)


def numbered(language: str) -> list:
    """Blocks of all pages in docs/, by page and number."""
    return [
        pytest.param(block, id=f"{page.stem}-{i + 1}")
        for page in PAGES
        if page.parent == ROOT / "docs"
        for i, block in enumerate(blocks(page, *language.split()))
    ]


@pytest.mark.parametrize("block", numbered("sh console"))
def test_every_command_of_the_pages_runs(block, project, forked):
    for command in commands(block):
        run(command)


@pytest.mark.parametrize("block", numbered("python"))
def test_every_python_example_runs(block, tmp_path, monkeypatch):
    enter_project(tmp_path, monkeypatch)  # some tell the size of a sample
    exec(block, {})


def test_every_public_name_is_used_on_the_page_of_python():
    text = "".join(blocks(ROOT / "docs" / "python.md", "python"))
    used = set(re.findall(r"deepgsr_cli\.(\w+)", text))
    assert set(deepgsr_cli.__all__) - {"__version__"} <= used


@pytest.mark.parametrize("page", BUILD["pages"](), ids=lambda page: page.stem)
def test_the_tables_of_options_are_those_of_the_commands(page):
    text = page.read_text(encoding="utf-8")
    assert BUILD["rendered"](text) == text, "run: python docs/build.py"


@pytest.mark.parametrize("name", BUILD["commands"]())
def test_every_command_has_a_table_of_options(name):
    assert any(f"<!-- options: {name}" in page.read_text(encoding="utf-8") for page in PAGES)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as they are made from the words."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        linked = page if not path else page.parent / path
        assert linked.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(linked), f"{page.name}: {target}"


JSON_RUNS = {
    "pictures": "deepgsr denoise examples/cat_noisy.png --reference examples/cat.png -o out/a.png --json",
    "pictures, dry run": "deepgsr restore examples -o out --dry-run --json",
    "upscale": "deepgsr upscale examples/cat.png --method bicubic -o out/large.png --json",
    "eval upscale": "deepgsr eval upscale --data examples --limit 1 --method bicubic --scale 3 --json",
    "ct-recon of slices": "deepgsr ct-recon examples/ct -o out --method fbp --json",
    "ct-recon of a sinogram": "deepgsr ct-recon examples/sinogram.npy --geometry examples/scan.toml -o out"
    " --method fbp --json",
    "mar": "deepgsr mar examples/implant.npy --geometry examples/implant.toml -o out --method li --json",
    "phase": "deepgsr phase --simulate examples/cat.png --size 32 --method er -o a.png --json",
    "train": "deepgsr train denoise --data examples -o out --steps 1 --batch 1 --held-out 1 --json",
    "eval ct-recon": "deepgsr eval ct-recon --data examples/ct --method fbp --json",
    "eval phase": "deepgsr eval phase --data examples --limit 1 --size 32 --alpha 27 --method er --json",
    "eval denoise": "deepgsr eval denoise --data examples --limit 1 --sigma 25 --json",
    "weights": "deepgsr weights list --json",
}


@pytest.mark.parametrize("command", JSON_RUNS.values(), ids=JSON_RUNS)
def test_every_key_of_json_is_described(command, project):
    page = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    for line in map(json.loads, run(command).splitlines()):
        records = [line, *line.get("means", [])]
        assert {key for record in records for key in record if f"`{key}`" not in page} == set()


# Where the rays run, as docs/ct-recon.md says it, from which a sinogram is made that no code of ours made.
SHAPE, PIXEL_MM = (75, 105), (1.5, 1.0)  # rows apart, columns apart
POINT_MM, WIDTH_MM, PEAK = (21.0, 18.0), 4.0, 2 * 0.0192  # x, y; standard deviation; 1/mm: 1000 HU
SCANS = {
    "fan-flat": {"source_mm": 300.0, "detector_mm": 200.0, "bin_mm": 1.5},
    "fan-arc": {"source_mm": 300.0, "detector_mm": 200.0, "bin_mm": 1.5},
    "parallel": {"bin_mm": 0.9},
}


def sinogram_of_a_point(scan: dict) -> np.ndarray:
    """Line integrals, (V, N), of a Gaussian around one point, by the sentences of the page."""
    theta = np.radians(
        scan["start_deg"] + scan["range_deg"] * np.arange(scan["num_views"]) / scan["num_views"]
    )
    theta = theta[:, None]
    u = (np.arange(scan["num_bins"]) - (scan["num_bins"] - 1) / 2 + scan["offset_bins"]) * scan["bin_mm"]
    x, y = POINT_MM
    along = (-np.sin(theta), np.cos(theta))  # the central ray
    across = (np.cos(theta), np.sin(theta))  # the way the bins count
    if scan["kind"] == "parallel":
        distance = u - (x * across[0] + y * across[1])
    else:
        source_mm, reach_mm = scan["source_mm"], scan["source_mm"] + scan["detector_mm"]
        gamma = np.arctan(u / reach_mm) if scan["kind"] == "fan-flat" else u / reach_mm
        ray = [np.cos(gamma) * a + np.sin(gamma) * c for a, c in zip(along, across)]
        to_point = (x - source_mm * np.sin(theta), y + source_mm * np.cos(theta))
        distance = to_point[0] * ray[1] - to_point[1] * ray[0]
    return PEAK * WIDTH_MM * np.sqrt(2 * np.pi) * np.exp(-(distance**2) / (2 * WIDTH_MM**2))


@pytest.mark.parametrize("kind", SCANS)
@pytest.mark.parametrize(
    ("start_deg", "range_deg", "offset_bins"), [(0, 360, 0), (30, 360, 0.25), (-75, -360, -6.5)]
)
def test_a_point_is_where_the_page_says(kind, start_deg, range_deg, offset_bins, tmp_path):
    scan = {
        "kind": kind, "shape": SHAPE, "pixel_mm": PIXEL_MM, "num_bins": 181, **SCANS[kind],
        "offset_bins": offset_bins, "start_deg": start_deg, "range_deg": range_deg, "num_views": 240,
    }  # fmt: skip
    (tmp_path / "scan.json").write_text(json.dumps(scan))
    np.save(tmp_path / "y.npy", sinogram_of_a_point(scan).astype(np.float32))
    run(
        f"deepgsr ct-recon {tmp_path}/y.npy --geometry {tmp_path}/scan.json -o {tmp_path}/x.npy"
        " --method fbp --filter ram-lak"
    )
    hu = np.load(tmp_path / "x.npy")
    x = (np.arange(SHAPE[1]) - (SHAPE[1] - 1) / 2) * PIXEL_MM[1]
    y = ((SHAPE[0] - 1) / 2 - np.arange(SHAPE[0])) * PIXEL_MM[0]
    true = 2000 * np.exp(
        -((x - POINT_MM[0]) ** 2 + (y[:, None] - POINT_MM[1]) ** 2) / (2 * WIDTH_MM**2)
    ) - 1000  # fmt: skip
    assert np.abs(hu - true).max() < 0.03 * 2000
