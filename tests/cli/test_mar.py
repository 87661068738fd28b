"""Promises of deepgsr mar and deepgsr eval mar: files, masks and the command line."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pydicom
import pytest
import tifffile
import torch
from pydicom import uid as uids
from pydicom.dataset import Dataset
from pydicom.pixels import pack_bits
from pydicom.uid import generate_uid
from typer.testing import CliRunner

from deepgsr_cli.cli import app
from deepgsr_cli.ct.figures import compare
from deepgsr_cli.errors import WeightsError
from deepgsr_cli.evaluation.run import scores
from deepgsr_cli.mar import evaluation, masks
from deepgsr_cli.mar.evaluation import MetalArtifacts
from deepgsr_cli.mar.methods import IMAGE_SHARE, MetalMethod
from deepgsr_cli.mar.network import MetalReduction, MetalReductionConfig, metal_start
from deepgsr_cli.mar.simulation import MetalScan
from deepgsr_cli.models import DeepGSRConfig
from deepgsr_cli.tomography.attenuation import WATER_ATTENUATION, to_attenuation, to_hu
from deepgsr_cli.tomography.geometry import sparse_view
from deepgsr_cli.tomography.geometry_files import write_geometry
from deepgsr_cli.tomography.radon import Radon
from deepgsr_cli.weights.checkpoint import save_checkpoint
from tests.samples import FRAME, STUDY, body_hu, load_checkpoint, saved, saved_slice

CPU = torch.device("cpu")
SIZE, PIXEL_MM = 64, 4.0
GEOMETRY = sparse_view((SIZE, SIZE), (PIXEL_MM, PIXEL_MM), 180)


def rods() -> np.ndarray:
    """Two rods of metal in the body, bool, (64, 64)."""
    metal = np.zeros((SIZE, SIZE), bool)
    metal[30:33, 20:23] = metal[34:37, 42:45] = True
    return metal


def sinogram_of(metal: np.ndarray, name: str = "titanium") -> torch.Tensor:
    x = to_attenuation(body_hu(), CPU)
    return MetalScan(GEOMETRY, name).scan(
        x, torch.from_numpy(metal)[None, None], torch.Generator().manual_seed(0)
    )


def image_of(y: torch.Tensor) -> np.ndarray:
    """What a scanner makes of a sinogram, whole HU of 12 bits."""
    return np.rint(to_hu(MetalScan(GEOMETRY).operator.fbp(y))).clip(-1024, 3071)


@pytest.fixture(scope="module")
def sinogram() -> torch.Tensor:
    """A sinogram of the body with two rods."""
    return sinogram_of(rods())


@pytest.fixture(scope="module")
def implant(sinogram: torch.Tensor) -> np.ndarray:
    """A slice with the artifacts of two rods, in HU."""
    return image_of(sinogram)


@pytest.fixture(scope="module")
def kept_series(tmp_path_factory, implant: np.ndarray) -> Path:
    """A folder with a series of three slices, of which the middle one has metal, to copy."""
    folder = tmp_path_factory.mktemp("series")
    for k in range(3):
        saved_slice(
            folder / f"{k}.dcm",
            implant if k == 1 else body_hu(k),
            ImagePositionPatient=["0", "0", str(2 * k)],
            InstanceNumber=k + 1,
        )
    return folder


@pytest.fixture
def series(tmp_path: Path, kept_series: Path) -> Path:
    """A folder with a series of three slices, of which the middle one has metal."""
    return shutil.copytree(kept_series, tmp_path / "scan")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The command line in this process, in an empty folder, on the CPU, by NMAR unless told otherwise."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: object):
        method = () if "--method" in arguments else ("--method", "nmar")
        return CliRunner().invoke(app, [*map(str, (*arguments, *method)), "--device", "cpu"])

    return invoke


def stored(path: Path | str) -> np.ndarray:
    return pydicom.dcmread(path).pixel_array


def rmse(hu: np.ndarray, where: np.ndarray) -> float:
    return float(np.sqrt(np.mean((hu - body_hu())[where] ** 2)))


# The image alone


def test_streaks_go_the_metal_stays_and_most_of_what_is_far_keeps_its_stored_value(run, series, implant):
    result = run("mar", series / "1.dcm", "-o", "out.dcm", "--json")
    assert result.exit_code == 0, result.output
    assert "image alone" in result.stderr
    assert "research use only" in result.stderr
    facts = json.loads(result.stdout)
    before, after = stored(series / "1.dcm") - 1024.0, stored("out.dcm") - 1024.0
    metal, body = implant > 2500, body_hu() > -500
    assert facts["scan"] == "image alone"
    assert facts["metal_px"] == metal.sum() == 18
    np.testing.assert_array_equal(after[metal], before[metal])
    assert rmse(after, body & ~metal) < 0.4 * rmse(before, body & ~metal)
    row, column = np.nonzero(metal)
    y, x = np.indices(metal.shape)[..., None]
    distance = np.hypot(y - row, x - column).min(-1)
    change = after - before
    assert np.mean(change[distance > 20] == 0) > 0.8
    assert change[distance > 20].std() < change[(distance > 2) & (distance < 6)].std() / 10
    assert facts["change_hu"] == pytest.approx(np.sqrt(np.mean(change[body & ~metal] ** 2)), rel=0.05)


def test_what_is_below_air_keeps_its_values(run, tmp_path, implant):
    assert (implant < -1005).any()
    change = []
    for name, hu in (("a", implant), ("b", implant.clip(min=-1000))):
        saved_slice(tmp_path / f"{name}.dcm", hu)
        assert run("mar", f"{name}.dcm", "-o", f"{name}.npy").exit_code == 0
        change.append(np.load(f"{name}.npy") - hu)
    # What is thinner than air may grow denser, but no thinner.
    low = (implant < -1024) | (implant + change[1] < -1024)
    np.testing.assert_allclose(change[0][~low], change[1][~low], atol=1e-3)
    assert (implant + change[0] >= np.minimum(implant, -1024)).all()


def test_nothing_beside_metal_of_an_extended_scale_is_thinner_than_air(run, tmp_path):
    hu = np.where(rods(), 20000.0, body_hu()).astype(np.float32)
    saved_slice(tmp_path / "a.dcm", hu / 10, RescaleSlope="10", RescaleIntercept="-10240")
    for method in ("li", "nmar"):
        options = ("--method", method, "--metal-threshold", "2500", "--format", "npy")
        assert run("mar", "a.dcm", "-o", f"{method}.npy", *options).exit_code == 0
        assert np.load(f"{method}.npy").min() >= -1024


def test_metal_may_be_filled_in(run, series, implant):
    kept = run("mar", series / "1.dcm", "-o", "kept.dcm", "--json")
    filled = run("mar", series / "1.dcm", "-o", "out.dcm", "--no-keep-metal", "--json")
    # The change of the metal itself is no figure of what was corrected.
    assert json.loads(filled.stdout)["change_hu"] == json.loads(kept.stdout)["change_hu"] > 0
    inside = stored("out.dcm")[rods()] - 1024.0
    assert np.abs(inside.mean()) < 400
    assert "filled in" in pydicom.dcmread("out.dcm").DerivationDescription


@pytest.mark.parametrize("slope", ["1", "0.7"])
def test_a_slice_without_metal_comes_back_as_it_is(run, tmp_path, slope):
    saved_slice(tmp_path / "in.dcm", body_hu() + 40 * np.sin(np.arange(SIZE)), RescaleSlope=slope)
    result = run("mar", "in.dcm", "-o", "out.dcm")
    assert result.exit_code == 0, result.output
    assert "no metal above 2500 HU, unchanged" in result.stdout
    assert "no metal above 2500 HU in 1 of 1 slice" in result.stderr
    np.testing.assert_array_equal(stored("out.dcm"), stored("in.dcm"))


def test_a_series_becomes_one_derived_series(run, series):
    result = run("mar", series, "-o", "out", "--report", "page.json")
    assert result.exit_code == 0, result.output
    assert "3 slices corrected" in result.stderr
    assert "in 2 of 3 slices: unchanged" in result.stderr
    slices = [pydicom.dcmread(f"out/{k}.dcm") for k in range(3)]
    assert len({slice.SeriesInstanceUID for slice in slices}) == 1
    for k, slice in enumerate(slices):
        source = pydicom.dcmread(series / f"{k}.dcm")
        assert slice.SeriesInstanceUID != source.SeriesInstanceUID
        assert (slice.StudyInstanceUID, slice.PatientName) == (source.StudyInstanceUID, source.PatientName)
        assert slice.ImagePositionPatient == source.ImagePositionPatient
        assert slice.ImageType[:2] == ["DERIVED", "SECONDARY"]
        assert "[deepgsr mar nmar]" in slice.SeriesDescription
        for words in ("mar: image alone", "2500 HU", "nmar", "research use only, not for diagnosis"):
            assert words in slice.DerivationDescription
        assert np.array_equal(slice.pixel_array, source.pixel_array) == (k != 1)
    report = json.loads(Path("page.json").read_text())
    labels = ["Input", "NMAR", "LI", "Change by NMAR, ±200 HU", "Metal"]
    labels.append("Virtual sinogram with the metal's trace, to the slice's size")
    assert [[image["label"] for image in item["images"]] for item in report["items"]] == [
        ["Input"], labels, ["Input"],
    ]  # fmt: skip
    assert report["items"][0]["note"] == "no metal, unchanged"
    assert report["protocol"]["metal"] == "above 2500 HU"
    assert "image alone" in report["protocol"]["scan"]
    assert "research use only" in report["protocol"]["notice"]


def test_finished_slices_are_passed_over_and_complete_the_same_series(run, series):
    assert run("mar", series / "1.dcm", "-o", "out/1.dcm").exit_code == 0
    before = Path("out/1.dcm").read_bytes()
    assert run("mar", series, "-o", "out").exit_code == 1
    result = run("mar", series, "-o", "out", "--skip-existing")
    assert result.exit_code == 0, result.output
    assert Path("out/1.dcm").read_bytes() == before
    assert len({pydicom.dcmread(f"out/{k}.dcm").SeriesInstanceUID for k in range(3)}) == 1


def test_the_threshold_says_what_is_metal(run, series, implant):
    counts = []
    for threshold in (1500, 3000):
        options = ("--metal-threshold", threshold, "--json", "--overwrite")
        counts.append(json.loads(run("mar", series / "1.dcm", "-o", "out.npy", *options).stdout)["metal_px"])
    assert counts[0] > counts[1] > 0
    kept = np.load("out.npy")[implant > 3000]
    np.testing.assert_array_equal(kept, implant[implant > 3000])


def test_a_slice_that_is_mostly_above_the_threshold_is_refused(run, tmp_path):
    saved_slice(tmp_path / "in.dcm", np.where(body_hu() > -500, 1200, -1000))
    result = run("mar", "in.dcm", "-o", "out.dcm", "--metal-threshold", 1000)
    assert result.exit_code == 1
    assert "of the slice is above 1000 HU" in result.stderr
    assert "--metal-threshold" in result.stderr
    assert not Path("out.dcm").exists()


# The network


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    """Weights of a small network that changes an image visibly."""
    torch.manual_seed(0)
    prior = DeepGSRConfig(
        conditions=2,
        widths=(8, 8),
        encoder=(1, 1),
        decoder=(1,),
        encoder_groups=(0, 1),
        decoder_groups=(0,),
        group_channels=2,
    )
    model = MetalReduction(MetalReductionConfig(refinements=1, prior=prior))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_checkpoint(path, model, info={"task": "mar"})
    return path


def test_the_network_corrects_a_slice_by_the_weights_given(run, series, network):
    options = ("--method", "deepgsr", "--weights", network, "--report", "page.html")
    result = run("mar", series, "-o", "out", *options)
    assert result.exit_code == 0, result.output
    checksum = hashlib.sha256(network.read_bytes()).hexdigest()
    assert checksum in pydicom.dcmread("out/1.dcm").DerivationDescription
    page = Path("page.html").read_text()
    assert all(words in page for words in ("DeepGSR", "NMAR", "LI", checksum))
    assert run("mar", series, "-o", "nmar").exit_code == 0
    before, ours, nmar = (stored(f"{folder}/1.dcm") for folder in (series, "out", "nmar"))
    assert 0 < np.abs(ours - nmar).mean() < np.abs(ours - before).mean()
    for k in (0, 2):
        np.testing.assert_array_equal(stored(f"out/{k}.dcm"), stored(series / f"{k}.dcm"))


def test_precision_reaches_the_network_and_not_the_scan(run, series, network, tmp_path):
    saved = {}
    for precision in ("fp32", "bf16"):
        options = ("--method", "deepgsr", "--weights", network, "--precision", precision)
        result = run("mar", series / "1.dcm", "-o", f"{precision}.npy", *options)
        assert result.exit_code == 0, result.output
        saved[precision] = np.load(f"{precision}.npy")
    difference = np.abs(saved["fp32"] - saved["bf16"])
    assert 0 < difference.mean() < 10


@pytest.mark.parametrize(("units", "arithmetic"), [(True, "bf16"), (False, "fp32")])
def test_the_arithmetic_is_that_of_the_processor(run, series, network, units, arithmetic, monkeypatch):
    monkeypatch.setattr("deepgsr_cli.compute.precision.has_bf16_units", lambda: units)
    options = ("mar", series / "1.dcm", "--method", "deepgsr", "--weights", network)
    for name, given in (("auto", ()), ("given", ("--precision", arithmetic))):
        assert run(*options, *given, "-o", f"{name}.dcm").exit_code == 0
    assert f"deepgsr, {arithmetic}" in pydicom.dcmread("auto.dcm").DerivationDescription
    np.testing.assert_array_equal(stored("auto.dcm"), stored("given.dcm"))


def test_weights_of_another_task_and_none_are_one_sentence(run, series, tmp_path, network, monkeypatch):
    model = load_checkpoint(network).model
    save_checkpoint(tmp_path / "other.safetensors", model, info={"task": "ct-recon"})
    options = ("mar", series / "1.dcm", "-o", "out.dcm", "--method", "deepgsr")
    result = run(*options, "--weights", "other.safetensors")
    assert result.exit_code == 2
    assert "trained for ct-recon; give weights for mar" in result.stderr

    def none(*_: object):
        raise WeightsError("none")

    monkeypatch.setattr("deepgsr_cli.weights.load.default_name", none)
    result = run(*options)
    assert result.exit_code == 1
    assert "li or nmar, which need none" in result.stderr


# Masks


def segmentation(
    path: Path,
    planes: list[np.ndarray],
    *,
    sources: list[Path] | None = None,
    z_mm: list[float] | None = None,
    corner_mm: tuple[float, float] = (0, 0),
    axes: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
    pixel_mm: tuple[float, float] = (PIXEL_MM, PIXEL_MM),
    fractional: bool = False,
) -> Path:
    """A DICOM segmentation whose frames refer to slices, or say where they are."""

    def item(**elements: object) -> list[Dataset]:
        dataset = Dataset()
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        return [dataset]

    seg = item(
        SOPClassUID=uids.SegmentationStorage,
        SOPInstanceUID=generate_uid(),
        StudyInstanceUID=STUDY,
        SeriesInstanceUID=generate_uid(),
        FrameOfReferenceUID=FRAME,
        Modality="SEG",
        SegmentationType="FRACTIONAL" if fractional else "BINARY",
        NumberOfFrames=len(planes),
        Rows=planes[0].shape[0],
        Columns=planes[0].shape[1],
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        PixelRepresentation=0,
        BitsAllocated=8 if fractional else 1,
        BitsStored=8 if fractional else 1,
        HighBit=7 if fractional else 0,
        SharedFunctionalGroupsSequence=item(
            PixelMeasuresSequence=item(PixelSpacing=list(pixel_mm)),
            PlaneOrientationSequence=item(ImageOrientationPatient=list(axes)),
        ),
        PerFrameFunctionalGroupsSequence=[],
    )[0]
    for i in range(len(planes)):
        (groups,) = item()
        if z_mm is not None:
            groups.PlanePositionSequence = item(ImagePositionPatient=[*corner_mm, z_mm[i]])
        if sources is not None:
            source = item(ReferencedSOPInstanceUID=pydicom.dcmread(sources[i]).SOPInstanceUID)
            groups.DerivationImageSequence = item(SourceImageSequence=source)
        seg.PerFrameFunctionalGroupsSequence.append(groups)
    stack = np.stack(planes)
    if fractional:
        seg.MaximumFractionalValue = 200
        seg.PixelData = np.where(stack, 150, 90).astype(np.uint8).tobytes()
    else:
        seg.PixelData = pack_bits(stack.astype(np.uint8).ravel())
    seg["PixelData"].VR = "OB"
    return saved(seg, path)


def saved_mask(kind: str, path: Path, metal: np.ndarray, slices: list[Path]) -> Path:
    """A mask of the middle slice of three, as a file of this kind."""
    empty = np.zeros_like(metal)
    if kind == "png":
        PIL.Image.fromarray(metal.astype(np.uint8)).save(path.with_suffix(".png"))
        return path.with_suffix(".png")
    if kind.startswith("npy"):
        np.save(path.with_suffix(".npy"), metal if kind == "npy" else np.stack([empty, metal, empty]))
        return path.with_suffix(".npy")
    # The frames run against the slices, and a part of the metal is a segment of its own.
    first, second = metal & (np.arange(SIZE) < 21), metal & (np.arange(SIZE) >= 21)
    planes, numbers = [empty, first, second, empty], [2, 1, 1, 0]
    if kind == "seg by place":
        z_mm = [2.0 * i + 0.01 for i in numbers]
        return segmentation(path.with_suffix(".dcm"), planes, z_mm=z_mm, sources=None)
    sources = [slices[i] for i in numbers]
    fractional = kind == "fractional seg"
    return segmentation(path.with_suffix(".dcm"), planes, sources=sources, fractional=fractional)


@pytest.mark.parametrize("kind", ["png", "npy", "npy stack", "seg", "seg by place", "fractional seg"])
def test_a_mask_says_what_is_metal_whatever_its_kind(run, series, tmp_path, kind):
    slices = [series / f"{k}.dcm" for k in range(3)]
    metal, other = rods() & (np.arange(SIZE) < 32), rods() & (np.arange(SIZE) >= 32)
    mask = saved_mask(kind, tmp_path / "mask", metal, slices)
    given = slices[1] if kind in ("png", "npy") else series
    result = run("mar", given, "-o", "out", "--mask", mask, "--json", "--format", "npy")
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["metal_px"] for line in lines] == ([9] if len(lines) == 1 else [0, 9, 0])
    before, after = stored(slices[1]) - 1024.0, np.load("out/1.npy")
    np.testing.assert_array_equal(after[metal], before[metal])
    assert (after[other] != before[other]).any()


def two_segments(path: Path, slices: list[Path], *, label_map: bool) -> Path:
    """A segmentation of the middle slice, one rod as "metal" and the other as "liver"."""
    metal, liver = rods() & (np.arange(SIZE) < 32), rods() & (np.arange(SIZE) >= 32)
    planes = [metal] if label_map else [metal, liver]
    seg = pydicom.dcmread(segmentation(path, planes, sources=[slices[1]] * len(planes)))
    seg.SegmentSequence = []
    for number, label in enumerate(("Background", "metal", "liver")):
        if number or label_map:
            segment = Dataset()
            segment.SegmentNumber, segment.SegmentLabel = number, label
            seg.SegmentSequence.append(segment)
    if label_map:
        seg.SOPClassUID, seg.SegmentationType = "1.2.840.10008.5.1.4.1.1.66.7", "LABELMAP"
        seg.BitsAllocated, seg.BitsStored, seg.HighBit = 8, 8, 7
        seg.PixelData = (metal + 2 * liver).astype(np.uint8).tobytes()
    else:
        for number, groups in enumerate(seg.PerFrameFunctionalGroupsSequence, 1):
            groups.SegmentIdentificationSequence = [Dataset()]
            groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber = number
    return saved(seg, path)


@pytest.mark.parametrize("label_map", [False, True])
def test_a_segment_is_chosen_by_label_or_number(run, series, tmp_path, label_map):
    slices = [series / f"{k}.dcm" for k in range(3)]
    mask = two_segments(tmp_path / "seg.dcm", slices, label_map=label_map)
    metal = rods() & (np.arange(SIZE) < 32)
    for k, chosen in enumerate((("metal",), ("METAL",), ("1",), ("2",), ("1", "liver"), ())):
        options = [word for name in chosen for word in ("--segment", name)]
        result = run("mar", slices[1], "-o", f"{k}.npy", "--mask", mask, "--json", *options)
        assert result.exit_code == 0, result.output
        wanted = rods().sum() if len(chosen) != 1 else (rods() & ~metal if chosen == ("2",) else metal).sum()
        assert json.loads(result.stdout)["metal_px"] == wanted
        told = "its 2 segments, metal, liver, are taken for metal together; choose by --segment"
        assert (told in result.stderr.replace("\n", " ")) == (not chosen)
    result = run("mar", slices[1], "-o", "out.dcm", "--mask", mask, "--segment", "bone")
    assert result.exit_code == 1
    assert "has no segment bone; its segments are 1 metal, 2 liver" in result.stderr.replace("\n", " ")
    assert run("mar", slices[1], "-o", "out.dcm", "--mask", mask, "--segment", "metal").exit_code == 0
    assert "segment metal" in pydicom.dcmread("out.dcm").DerivationDescription


def test_segments_are_of_segmentations(run, series, tmp_path):
    mask = saved_mask("png", tmp_path / "mask", rods(), [])
    for options in (("--segment", "metal"), ("--segment", "metal", "--mask", mask)):
        result = run("mar", series / "1.dcm", "-o", "out.dcm", *options)
        assert result.exit_code == 2
        assert "--segment metal is of a" in result.stderr


def test_a_mask_where_no_metal_is_is_told(run, series, tmp_path):
    mask = saved_mask("png", tmp_path / "mask", rods(), [])
    result = run("mar", series / "1.dcm", "-o", "out.dcm", "--mask", mask, "--strict")
    assert result.exit_code == 0, result.output
    flipped = saved_mask("png", tmp_path / "flipped", rods()[::-1, ::-1].T, [])
    result = run("mar", series / "1.dcm", "-o", "out.dcm", "--mask", flipped, "--strict", "--overwrite")
    assert result.exit_code == 1
    assert "where the mask has metal, 90% of the slice are at" in result.stderr
    assert "not flipped or turned, and no wider than the metal?" in result.stderr


def wrong_masks() -> dict[str, tuple[object, str]]:
    square = np.zeros((SIZE, SIZE), bool)
    return {
        "shape.png": (np.eye(50, dtype=bool), "the mask is 50 x 50, but"),
        "empty.png": (square, "marks no metal in any slice"),
        "full.png": (~square, "marks 100% of"),
        "inverted.npy": (~rods(), "invert the mask"),
        "stack.npy": (np.stack([rods()] * 3), "3 planes for 1 slice"),
        "nan.npy": (np.where(rods(), np.nan, 0), "holds float64"),
        "line.npy": (np.ones(SIZE), "shape (64,)"),
        "text.npy": (np.array(["metal"]), "holds <U5"),
        "broken.npy": (b"no array", "cannot be read as NPY"),
        "broken.png": (b"no picture", "broken.png"),
        "broken.dcm": (b"no DICOM", "cannot be read as a mask"),
        "missing.png": (None, "missing.png"),
        "missing.dcm": (None, "no such file"),
        "missing.npy": (None, "there is no such file; check the path"),
    }


@pytest.mark.parametrize("name", list(wrong_masks()))
def test_a_wrong_mask_is_one_sentence(run, series, tmp_path, name):
    content, words = wrong_masks()[name]
    if isinstance(content, bytes):
        Path(tmp_path / name).write_bytes(content)
    elif isinstance(content, np.ndarray) and name.endswith(".npy"):
        np.save(tmp_path / name, content)
    elif isinstance(content, np.ndarray):
        PIL.Image.fromarray(content).save(tmp_path / name)
    result = run("mar", series / "1.dcm", "-o", "out.dcm", "--mask", name)
    assert result.exit_code == 1, result.output
    assert words in result.stderr
    assert name in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not Path("out.dcm").exists()


def test_one_plane_is_not_taken_for_all_slices(run, series, tmp_path):
    mask = saved_mask("png", tmp_path / "mask", rods(), [])
    result = run("mar", series, "-o", "out", "--mask", mask)
    assert result.exit_code == 1
    assert "1 plane for 3 slices" in result.stderr


def test_a_segmentation_of_other_slices_or_another_file_is_refused(run, series, tmp_path):
    mask = segmentation(tmp_path / "mask.dcm", [rods()], z_mm=[50.0])
    result = run("mar", series, "-o", "out", "--mask", mask)
    assert result.exit_code == 1
    assert "none of its 1 frame is of a slice that was given" in result.stderr
    result = run("mar", series, "-o", "out", "--mask", series / "0.dcm")
    assert result.exit_code == 1
    assert "is CT Image Storage, no segmentation" in result.stderr


END_MM = (SIZE - 1) * PIXEL_MM
FLIPPED = {
    (0, 1): ((END_MM, END_MM), (-1, 0, 0, 0, -1, 0)),
    (0,): ((0, END_MM), (1, 0, 0, 0, -1, 0)),
    (1,): ((END_MM, 0), (-1, 0, 0, 0, 1, 0)),
}


@pytest.mark.parametrize("referred", [True, False])
@pytest.mark.parametrize("flips", list(FLIPPED))
def test_a_segmentation_that_is_stored_flipped_is_flipped_to_the_slice(
    run, series, tmp_path, flips, referred
):
    path, (corner_mm, axes) = series / "1.dcm", FLIPPED[flips]
    metal = rods() & (np.arange(SIZE) < 32)
    sources = [path] if referred else None
    options = {"sources": sources, "z_mm": [2.0], "corner_mm": corner_mm, "axes": axes}
    mask = segmentation(tmp_path / "mask.dcm", [np.flip(metal, flips)], **options)
    result = run("mar", path, "-o", "out.npy", "--mask", mask, "--json")
    assert result.exit_code == 0, result.output
    changed = np.load("out.npy") != stored(path) - 1024.0
    assert json.loads(result.stdout)["metal_px"] == metal.sum()
    assert not changed[metal].any()
    assert changed[rods() & ~metal].any()


@pytest.mark.parametrize(
    ("geometry", "words"),
    [
        ({"corner_mm": (8.0, 0.0)}, "its pixels lie 8 mm away from the slice's, not on them"),
        ({"z_mm": [0.0]}, "its pixels lie 2 mm away"),
        ({"pixel_mm": (4.0, 3.0)}, "its pixels are 4 x 3 mm, not 4 x 4 mm"),
        ({"pixel_mm": (4.0, 3.0), "z_mm": None}, "its pixels are 4 x 3 mm, not 4 x 4 mm"),
        (
            {"axes": (0, 1, 0, 1, 0, 0)},
            "its rows and columns run along 0, 1, 0, 1, 0, 0, not 1, 0, 0, 0, 1, 0",
        ),
        ({"axes": (-1, 0, 0, 0, -1, 0)}, "its pixels lie 356 mm away"),
    ],
)
def test_a_segmentation_on_another_grid_than_the_slice_it_refers_to_is_refused(
    run, series, tmp_path, geometry, words
):
    options = {"sources": [series / "1.dcm"], "z_mm": [2.0], **geometry}
    mask = segmentation(tmp_path / "mask.dcm", [rods()], **options)
    result = run("mar", series / "1.dcm", "-o", "out.npy", "--mask", mask)
    assert result.exit_code == 1, result.output
    told = " ".join(result.stderr.split())
    assert f"mask.dcm: frame 1 refers to {series / '1.dcm'}, but {words}" in told
    assert told.endswith("resample the segmentation to the slices")
    assert not Path("out.npy").exists()


def test_a_segmentation_that_refers_to_all_slices_is_of_those_at_its_place(run, series, tmp_path):
    slices = [series / f"{k}.dcm" for k in range(3)]
    mask = segmentation(tmp_path / "mask.dcm", [rods()], sources=slices[:1], z_mm=[2.02])
    seg = pydicom.dcmread(mask)
    (derivation,) = seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence
    derivation.SourceImageSequence = [Dataset() for _ in slices]
    for source, path in zip(derivation.SourceImageSequence, slices):
        source.ReferencedSOPInstanceUID = pydicom.dcmread(path).SOPInstanceUID
    result = run("mar", series, "-o", "out", "--mask", saved(seg, mask), "--json", "--format", "npy")
    assert result.exit_code == 0, result.output
    assert [json.loads(line)["metal_px"] for line in result.stdout.splitlines()] == [0, 18, 0]


# Sinograms


@pytest.fixture
def measured(tmp_path: Path, sinogram: torch.Tensor) -> tuple[Path, Path]:
    """A sinogram with metal, and its geometry file."""
    np.save(tmp_path / "sinogram.npy", sinogram[0, 0].numpy())
    write_geometry(GEOMETRY, tmp_path / "scan.toml")
    return tmp_path / "sinogram.npy", tmp_path / "scan.toml"


def test_a_measured_sinogram_is_corrected_and_says_so(run, measured, implant, tmp_path):
    path, geometry = measured
    mask = saved_mask("png", tmp_path / "mask", rods(), [])
    options = ("--geometry", geometry, "--mask", mask, "--report", "page.html")
    result = run("mar", path, "-o", "out.npy", *options)
    assert result.exit_code == 0, result.output
    assert "measured sinogram; method nmar" in result.stderr
    assert "image alone" not in result.stderr
    hu, body = np.load("out.npy"), (body_hu() > -500) & ~rods()
    assert rmse(hu, body) < 0.5 * rmse(implant, body)
    assert hu[rods()].mean() > 3071
    assert "Sinogram with the metal" in Path("page.html").read_text()
    assert run("mar", path, "-o", "out.tif", *options, "--no-keep-metal").exit_code == 0
    with tifffile.TiffFile("out.tif") as tiff:
        filled = tiff.pages[0].asarray()
    np.testing.assert_array_equal(filled[~rods()], hu[~rods()])
    assert abs(filled[rods()].mean()) < 400
    assert run("mar", path, "-o", "out.dcm", *options).exit_code == 0
    assert pydicom.dcmread("out.dcm").SeriesDescription == "deepgsr mar nmar"


@pytest.mark.parametrize("method", ["li", "deepgsr"])
def test_beside_gold_in_a_sinogram_nothing_is_beyond_what_tissue_can_be(run, measured, network, method):
    path, geometry = measured
    y = sinogram_of(rods(), "gold")
    np.save(path, y[0, 0].numpy())
    uncorrected = to_hu(Radon(GEOMETRY).fbp(y))
    metal = uncorrected > 2500
    assert uncorrected[~metal].min() < -1100
    options = ("--geometry", geometry, "--method", method)
    options += ("--weights", network) if method == "deepgsr" else ()
    result = run("mar", path, "-o", "out.npy", *options)
    assert result.exit_code == 0, result.output
    hu = np.load("out.npy")
    assert hu.min() >= -1024
    changed = hu != uncorrected
    assert hu[changed].max() <= 3071
    assert hu.max() > 3071


@pytest.fixture
def parts(network):
    """What a reduction takes, and what it mixes of a measured sinogram and of that of an image: what the
    network makes of it, and the reconstruction with the rebuilt trace."""
    y, metal, A = sinogram_of(rods()), torch.from_numpy(rods())[None, None], Radon(GEOMETRY)
    model = load_checkpoint(network).model
    mixed = []
    with torch.no_grad():
        for virtual in (False, True):
            x, completed = model.completed(A, y, metal_start(A, y, metal, virtual=virtual))
            mixed.append((x, A.fbp(completed)))
    return model, (A, y, metal), *mixed


def test_a_result_is_a_mixture_of_the_image_and_of_the_reconstruction_with_the_rebuilt_trace(parts):
    model, scan, (x, consistent), _ = parts
    assert (x - consistent).abs().max() > 1e-4
    method = MetalMethod("deepgsr")
    torch.testing.assert_close(
        method.reduction(model)(*scan), IMAGE_SHARE * x + (1 - IMAGE_SHARE) * consistent
    )


def test_to_an_image_alone_that_of_the_network_is_mixed_near_the_changes_only(parts):
    model, scan, _, (x, consistent) = parts
    _, _, metal = scan
    found = MetalMethod("deepgsr").reduction(model, virtual=True)(*scan)
    share = (found - consistent) / (x - consistent)
    clear = (x - consistent).abs() > 1e-4
    around = torch.nn.functional.max_pool2d(metal.float(), 3, 1, 1) > 0
    assert share[clear & around].min() > 0.99
    assert 0 < share[clear].min() < 0.9  # streaks cross all of this slice
    assert share[clear].max() < 1.01


def test_a_sinogram_without_metal_is_reconstructed_as_it_is(run, measured):
    path, geometry = measured
    y = sinogram_of(np.zeros_like(rods()))
    np.save(path, y[0, 0].numpy())
    result = run("mar", path, "-o", "out.npy", "--geometry", geometry)
    assert result.exit_code == 0, result.output
    assert "no metal above 2500 HU" in result.stdout
    np.testing.assert_array_equal(np.load("out.npy"), to_hu(MetalScan(GEOMETRY).operator.fbp(y)))


def test_a_segmentation_does_not_go_with_a_sinogram(run, measured, tmp_path):
    path, geometry = measured
    mask = segmentation(tmp_path / "mask.dcm", [rods()], z_mm=[0.0])
    result = run("mar", path, "-o", "out.npy", "--geometry", geometry, "--mask", mask)
    assert result.exit_code == 1
    assert "give a PNG or an NPY for a sinogram" in result.stderr


# Usage


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--method", "art"), "--method art: known are deepgsr, li, nmar"),
        (("--metal-threshold", 500), "--metal-threshold 500: give 1000 to 30000 HU"),
        (("--metal-threshold", "nan"), "--metal-threshold nan"),
        (("--skip-existing", "--overwrite"), "exclude each other"),
        (("--geometry", "scan.toml"), "--geometry is for measured sinograms"),
        (("--window", "40"), "--window 40"),
        (("--report", "page.pdf"), "--report page.pdf"),
        (("--format", "png"), "--format png"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(run, series, measured, options, words):
    result = run("mar", series / "1.dcm", "-o", "out.dcm", *options)
    assert result.exit_code == 2
    assert words in result.stderr
    assert not Path("out.dcm").exists()


def test_what_is_no_ct_and_a_sinogram_alone_are_refused(run, series, measured, tmp_path):
    saved_slice(tmp_path / "mr.dcm", body_hu(), Modality="MR", SOPClassUID=uids.MRImageStorage)
    result = run("mar", "mr.dcm", "-o", "out.dcm")
    assert result.exit_code == 1
    assert "not a CT image" in result.stderr
    result = run("mar", measured[0], "-o", "out.dcm")
    assert result.exit_code == 2
    assert "needs --geometry" in result.stderr


def test_a_dry_run_writes_nothing(run, series):
    result = run("mar", series, "-o", "out", "--dry-run")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == f"write: {series / '0.dcm'} -> out/0.dcm"
    assert not Path("out").exists()


# Evaluation


@pytest.fixture
def metals(tmp_path: Path, monkeypatch) -> Path:
    """A folder of three metals, the last in the air, and a small geometry for the evaluation."""
    monkeypatch.setattr(evaluation, "mar_640", lambda: GEOMETRY)
    monkeypatch.setattr(masks, "mar_640", lambda: GEOMETRY)
    (tmp_path / "metals").mkdir()
    for name, (row, column, side) in {"b": (30, 20, 2), "a": (30, 40, 4), "c": (0, 0, 3)}.items():
        mask = np.zeros((SIZE, SIZE), bool)
        mask[row : row + side, column : column + side] = True
        PIL.Image.fromarray(mask).save(tmp_path / f"metals/{name}.png")
    return tmp_path / "metals"


@pytest.mark.parametrize("kind", ["sinogram", "image"])
def test_an_evaluation_tells_figures_by_size_and_its_protocol(run, series, metals, kind):
    (series / "1.dcm").unlink()
    options = ("--limit", 1, "--json", "--csv", "figures.csv", "--report", "page.html")
    options += ("--metal", "iron", "--photons", "1e6", "--seed", 3)
    options += ("--image-only", "--filter", "hann", "--metal-threshold", 2000) if kind == "image" else ()
    result = run(
        "eval", "mar", "--data", series, "--masks", metals, "--method", "li", "--method", "nmar", *options
    )
    assert result.exit_code == 0, result.output
    *scores, last = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(s["mask"], s["metal_px"]) for s in scores[::4]] == [("a.png", 16), ("c.png", 9), ("b.png", 4)]
    assert [s["method"] for s in scores[:4]] == ["input", "li", "nmar", "no metal"]
    assert "in 1 of 3 cases most of the metal is outside the body" in result.stderr
    facts = " ".join(last["protocol"].values())
    for words in (
        "iron",
        "1e+06 photons",
        "SeedSequence((3,",
        "[0, 0.05] per mm",
        "metal pixels do not count",
    ):
        assert words in facts
    assert ("image alone" in facts and "hann" in facts and "2000 HU" in facts) == (kind == "image")
    means = {(m["metal"], m["method"]): m for m in last["means"]}
    assert [key[0] for key in means][::4] == ["16", "9", "4", "all"]
    ours = [s for s in scores if s["method"] == "nmar"]
    assert means["all", "nmar"]["psnr"] == pytest.approx(np.mean([s["psnr"] for s in ours]))
    assert means["all", "nmar"]["lowest_gain"] == min(s["gain"] for s in ours)
    assert means["16", "input"]["psnr"] < means["16", "nmar"]["psnr"] < means["16", "no metal"]["psnr"]
    assert means["16", "no metal"]["free_rmse_hu"] == 0
    assert means["16", "nmar"]["free_rmse_hu"] < means["16", "input"]["free_rmse_hu"]
    with Path("figures.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3 * 4
    assert "Error of nmar" in Path("page.html").read_text()


def test_an_evaluation_prints_a_table_by_size(run, series, metals):
    result = run("eval", "mar", "--data", series, "--masks", metals, "--limit", 1, "--method", "li")
    assert result.exit_code == 0, result.output
    table = result.stdout.splitlines()
    assert any(line.startswith("metal (px)") and "no metal (dB / SSIM)" in line for line in table)
    assert any(line.startswith("all") for line in table)
    (free,) = (line for line in table if line.startswith("metal (px)") and "to metal-free" in line)
    assert "li (dB to metal-free)" in free
    assert "no metal" not in free
    assert table[-1].startswith("no metal")


def test_the_noise_depends_on_the_seed_alone(run, series, metals):
    for name in ("b.png", "c.png"):
        (metals / name).unlink()
    options = ("--data", series, "--masks", metals, "--limit", 1, "--method", "li", "--json")
    options += ("--photons", "1e4")
    first, again, other = (run("eval", "mar", *options, "--seed", seed).stdout for seed in (0, 0, 1))
    first, again, other = (json.loads(text.splitlines()[0])["psnr"] for text in (first, again, other))
    assert first == again != other


def test_scores_are_of_what_is_around_the_metal_and_nothing_is_left_of_it(series, metals):
    evaluation = MetalArtifacts(
        data=series, masks=metals, method_names=("nmar",), image_only=True, limit=1, device="cpu"
    )
    results = {}

    def keep(case, of_case, found):
        for score in of_case:
            key = case.labels["mask"], score.method
            results[key] = score, to_hu(found[score.method]), to_hu(case.truth)

    list(scores(evaluation, keep=keep))
    for shape in evaluation.shapes[:2]:
        before, after = (results[shape.name, method][1] for method in ("input", "nmar"))
        assert (before[shape.metal] > 2500).all()
        assert after.max() < 2500
        for method in ("input", "nmar"):
            score, hu, reference = results[shape.name, method]
            hu, reference = (((1 + a[~shape.metal] / 1000) * 0.0192).clip(0, 0.05) for a in (hu, reference))
            assert score.figures["psnr"] == pytest.approx(
                10 * np.log10(0.05**2 / np.mean((hu - reference) ** 2)), abs=1e-3
            )


def test_what_metal_hides_does_not_count():
    metal = torch.from_numpy(rods())[None, None]
    reference = to_attenuation(body_hu(), CPU)
    x = reference + torch.where(metal, 0.1, 0.0001)
    figures = compare(x, reference, (PIXEL_MM, PIXEL_MM), metal)
    assert figures.rmse_hu == pytest.approx(1000 * 0.0001 / WATER_ATTENUATION, rel=1e-3)
    assert figures.psnr == pytest.approx(20 * np.log10(0.05 / 0.0001), abs=0.01)
    assert figures.ssim > 0.99 > compare(x, reference, (PIXEL_MM, PIXEL_MM)).ssim


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--metal", "wood"), 2, "--metal wood: known are titanium"),
        (("--photons", 0), 2, "--photons 0"),
        (("--filter", "none"), 2, "--filter none"),
        (("--limit", 0), 2, "--limit 0"),
        (("--method", "art"), 2, "--method art"),
        (("--masks", "nowhere"), 1, "nowhere: no such folder"),
        (("--masks", "blank"), 1, "shows no metal"),
    ],
)
def test_a_wrong_evaluation_is_one_sentence(run, series, metals, options, code, words):
    Path("blank").mkdir()
    PIL.Image.fromarray(np.zeros((8, 8), bool)).save("blank/a.png")
    result = run("eval", "mar", "--data", series, "--masks", metals, *options)
    assert result.exit_code == code
    assert words in result.stderr


def test_an_evaluation_goes_on_after_a_broken_slice(run, series, metals):
    whole = (series / "1.dcm").read_bytes()
    (series / "1.dcm").write_bytes(whole[: len(whole) - 3000])
    options = ("--data", series, "--masks", metals, "--method", "li", "--json")
    result = run("eval", "mar", *options)
    assert result.exit_code == 1
    assert "1.dcm: the pixel data are missing, damaged or cut short" in result.stderr.replace("\n", " ")
    assert "1 file could not be used" in result.stderr
    *scores, _ = map(json.loads, result.stdout.splitlines())
    assert {score["slice"] for score in scores} == {"0.dcm", "2.dcm"}
