import dataclasses
import itertools
import math

import numpy as np
import PIL.Image
import pytest
import torch
from typer.testing import CliRunner

import deepgsr_cli.mar.cases
from deepgsr_cli.ct.figures import PEAK_ATTENUATION
from deepgsr_cli.errors import InputError
from deepgsr_cli.mar.cases import (
    NOMINAL_FIELD_MM,
    CaseScan,
    MetalCases,
    Setting,
    implanted_metal,
    implanted_metals,
    turned,
)
from deepgsr_cli.mar.masks import read_shapes
from deepgsr_cli.mar.network import METAL_PRESETS, START_TENSORS, MetalReduction, MetalReductionConfig
from deepgsr_cli.mar.training import MAR
from deepgsr_cli.models import DeepGSRConfig
from deepgsr_cli.tasks import training_of
from deepgsr_cli.tomography.attenuation import WATER_ATTENUATION
from deepgsr_cli.tomography.geometry import mar_640
from deepgsr_cli.training.config import TrainConfig
from deepgsr_cli.training.task import Draw
from tests.samples import check_resumed_equals_unbroken, load_checkpoint

CPU = torch.device("cpu")
SIZE = 32
PLAIN = Setting(NOMINAL_FIELD_MM, ("titanium",), None)
VIRTUAL = Setting(250.0, ("titanium",), "hann")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def anatomy(seed, height=70, width=81):
    """A slice in whole HU, (H, W), float32: an ellipse of tissue with texture and a bone, in air."""
    random = np.random.default_rng(seed)
    row, column = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    hu = np.where(row**2 / 0.7 + column**2 / 0.8 < 1, 40 + random.normal(0, 20, (height, width)), -1000)
    bone = (row - random.uniform(-0.3, 0.3)) ** 2 + (column - random.uniform(-0.3, 0.3)) ** 2 < 0.03
    return np.rint(np.where(bone, 700, hu)).astype(np.float32)


def disk(radius, size=SIZE):
    """Attenuation of water in a disk, (1, 1, size, size)."""
    axis = torch.linspace(-1, 1, size)
    return WATER_ATTENUATION * (axis[:, None] ** 2 + axis**2 < radius**2).float()[None, None]


def write_mask(path, size=60):
    pixels = np.zeros((size, size), np.uint8)
    pixels[size // 2 : size // 2 + 4, size // 2 : size // 2 + 3] = 255
    PIL.Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Slices and masks."""
    slices, masks = tmp_path_factory.mktemp("slices"), tmp_path_factory.mktemp("masks")
    for i in range(5):
        PIL.Image.fromarray((anatomy(i) + 1024).astype(np.uint16)).save(slices / f"{i}.png")
    write_mask(masks / "a.png")
    return slices, masks


@pytest.fixture
def config(folders, tmp_path, monkeypatch):
    """Four steps of a tiny network on six cases of two settings."""
    monkeypatch.setattr(deepgsr_cli.mar.cases, "SETTINGS", (PLAIN, VIRTUAL))
    monkeypatch.setattr(deepgsr_cli.mar.cases, "_NUM_CASES", 6)
    prior = DeepGSRConfig(
        widths=(8, 8),
        encoder=(1, 1),
        decoder=(1,),
        encoder_groups=(0, 1),
        decoder_groups=(0,),
        group_channels=2,
    )
    monkeypatch.setitem(METAL_PRESETS, "tiny", MetalReductionConfig(prior=prior))
    slices, masks = folders
    return TrainConfig(
        data=(slices,), masks=(masks,), output=tmp_path / "run", task="mar", preset="tiny", held_out=2,
        steps=4, batch=2, patch=SIZE, validate_every=2, device="cpu", warmup=2,
    )  # fmt: skip


def images(case):
    """Every tensor of a case, by name."""
    start = {f"start.{name}": getattr(case.start, name) for name in START_TENSORS}
    return {
        "sinogram": case.sinogram, "truth": case.truth, "clean": case.clean, "metal": case.metal, **start,
    }  # fmt: skip


@pytest.mark.parametrize("size", [416, 256, SIZE])
def test_a_scan_of_fewer_pixels_is_alike_pixel_by_pixel(size):
    nominal, geometry = mar_640(), CaseScan(size, PLAIN).operator.geometry
    assert geometry.shape == (size, size)
    assert geometry.pixel_mm[0] * size == pytest.approx(nominal.pixel_mm[0] * 416)
    assert geometry.num_bins * geometry.bin_mm == pytest.approx(nominal.num_bins * nominal.bin_mm)
    assert geometry.num_bins / size == pytest.approx(641 / 416, abs=0.5 / size)
    assert geometry.num_views / size == pytest.approx(640 / 416, abs=0.5 / size)
    assert geometry.source_mm == geometry.detector_mm == pytest.approx(nominal.source_mm)


def test_a_case_of_the_image_alone_is_a_virtual_scan_of_a_reconstruction():
    x, metal = disk(0.7), disk(0.3) > 0
    case = CaseScan(SIZE, VIRTUAL)(x, metal, generator())
    geometry = case.operator.geometry
    assert geometry.kind == "parallel"
    assert geometry.num_views == round(720 * SIZE / 416)
    image = case.operator.fbp(case.sinogram)
    # Cut off at 3071 HU, metal is not brighter than that but for overshoot.
    assert image.max() < 1.2 * 4.071 * WATER_ATTENUATION
    assert (case.start.metal & metal).sum() == metal.sum()
    assert torch.equal(case.metal, metal)
    assert case.start.virtual
    assert not CaseScan(SIZE, PLAIN)(x, metal, generator()).start.virtual


@pytest.mark.parametrize("setting", [PLAIN, VIRTUAL])
def test_clean_is_the_reconstruction_of_the_same_scan_without_metal(setting):
    """With its noise and its blur: only what metal does differs. Of an image alone, that is the truth."""
    x, none, metal = disk(0.7), torch.zeros(1, 1, SIZE, SIZE, dtype=torch.bool), disk(0.1) > 0
    scan = CaseScan(SIZE, setting)
    case, empty = (scan(x, mask, generator()) for mask in (metal, none))
    assert torch.equal(case.clean, empty.clean)
    assert not torch.equal(case.clean, x)
    assert torch.equal(case.truth, x if setting.kernel is None else case.clean)
    if setting.kernel is None:
        assert torch.equal(empty.clean, empty.operator.fbp(empty.sinogram))
    error = float((case.start.normalised - case.clean)[~metal].square().mean())
    assert error < float((case.start.image - case.clean)[~metal].square().mean())


def test_two_metals_lie_beside_each_other():
    setting = Setting(200.0, ("gold", "titanium"), None)
    metals = implanted_metals(2, disk(0.9), (), generator(1))
    assert metals.shape == (1, 2, SIZE, SIZE)
    assert metals.any((2, 3)).all()
    assert not metals.all(1).any()
    case = CaseScan(SIZE, setting)(disk(0.9), metals, generator())
    assert torch.equal(case.metal[:, 0], metals.any(1))
    other = CaseScan(SIZE, setting)(disk(0.9), metals.flip(1), generator())
    assert not torch.equal(case.sinogram, other.sinogram)


def test_where_no_metal_is_found_in_the_image_it_is_where_it_was_put(monkeypatch):
    monkeypatch.setattr(
        deepgsr_cli.mar.cases, "metal_mask", lambda image: torch.zeros_like(image, dtype=bool)
    )
    x, metal = disk(0.7), disk(0.1) > 0
    case = CaseScan(SIZE, VIRTUAL)(x, metal, generator())
    assert (case.start.metal & metal).sum() == metal.sum()


def test_implants_are_small_and_in_tissue(monkeypatch):
    large, in_air, small = (torch.zeros(SIZE, SIZE, dtype=torch.bool) for _ in range(3))
    large[10:16, 10:16] = in_air[1:4, 1:4] = small[14:17, 14:17] = True
    for order in ((large, in_air, small), (in_air, large, small)):
        draws = iter(order)
        monkeypatch.setattr(deepgsr_cli.mar.cases, "random_metal", lambda *_, draws=draws: next(draws))
        assert torch.equal(implanted_metal(disk(0.5), (), generator())[0, 0], small)
    # Where there is no tissue, some metal all the same.
    monkeypatch.setattr(deepgsr_cli.mar.cases, "random_metal", lambda *_: small)
    assert torch.equal(implanted_metal(0 * disk(0.5), (), generator())[0, 0], small)


def test_cases_are_a_function_of_the_seed_and_made_once(folders, monkeypatch):
    slices = [anatomy(i) for i in range(3)]
    made = []
    call = CaseScan.__call__
    monkeypatch.setattr(CaseScan, "__call__", lambda *a: made.append(1) or call(*a))
    shapes = read_shapes(folders[1])

    def cases(seed):
        return MetalCases(slices, shapes, SIZE, seed, CPU)

    first, other = cases(3), cases(4)
    case = first._case(0, 8, 0)
    assert first._case(0, 8, 1) is case
    assert len(made) == 1
    # Whatever came before.
    again = cases(3)
    again._case(1, 9, 0)
    for name, tensor in images(again._case(0, 8, 0)).items():
        assert torch.equal(tensor, images(case)[name]), name
    assert not torch.equal(other._case(0, 8, 0).sinogram, case.sinogram)


def test_cases_are_renewed_one_after_another_as_a_function_of_the_step(monkeypatch):
    monkeypatch.setattr(deepgsr_cli.mar.cases, "_NUM_CASES", 4)
    monkeypatch.setattr(deepgsr_cli.mar.cases, "_LIFE", 8)

    def cases():
        return MetalCases([anatomy(0)], (), SIZE, 0, CPU)

    run = cases()
    steps = [[run._case(0, place, step) for place in range(4)] for step in range(17)]
    changes = [sum(a is not b for a, b in zip(*pair, strict=True)) for pair in itertools.pairwise(steps)]
    assert changes == [0, 1] * 8
    resumed = cases()
    for place in range(4):
        assert torch.equal(resumed._case(0, place, 16).sinogram, run._case(0, place, 16).sinogram)


def test_a_batch_has_one_operator_and_every_setting_comes(monkeypatch):
    monkeypatch.setattr(deepgsr_cli.mar.cases, "SETTINGS", (PLAIN, VIRTUAL))
    monkeypatch.setattr(deepgsr_cli.mar.cases, "_NUM_CASES", 6)
    cases = MetalCases([anatomy(0)], (), SIZE, 0, CPU)
    kinds = []
    for seed in range(8):
        batch = cases(2, generator(seed), seed)
        A = batch.operator
        assert batch.clean.shape == (2, 1, SIZE, SIZE)
        y = A(batch.clean)
        assert y.shape == batch.sinogram.shape == batch.start.trace.shape
        outside = ~batch.start.trace
        # The scan of the slice, but for metal, noise and the hardening of the beam.
        assert float((batch.sinogram - y)[outside].norm() / y[outside].norm()) < 0.15
        kinds.append(A._A.geometry.kind)
        assert batch.start.virtual == (kinds[-1] == "parallel")
    assert {"fan-flat", "parallel"} == set(kinds)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("quarters", range(4))
def test_a_turned_case_is_of_the_same_sinogram(quarters, mirror):
    case = MetalCases([anatomy(0)], (), SIZE, 0, CPU)._case(0, 0, 0)
    other = turned(case, quarters, mirror=mirror)
    for name in ("truth", "clean"):
        expected = np.rot90(getattr(case, name).numpy(), quarters, (2, 3))
        expected = expected[..., ::-1] if mirror else expected
        np.testing.assert_array_equal(getattr(other, name).numpy(), expected)
    torch.testing.assert_close(other.operator(other.clean), case.operator(case.clean), rtol=1e-5, atol=1e-5)
    image = other.operator.fbp(case.sinogram)
    outside = ~other.start.metal
    torch.testing.assert_close(image[outside], other.start.image[outside], rtol=1e-5, atol=1e-6)
    assert torch.equal(other.sinogram, case.sinogram)


def test_the_task_is_registered_and_says_what_it_trains_on(config):
    task = training_of("mar")(config, CPU)
    assert isinstance(task, MAR)
    assert task.summary.startswith("3 CT slices of 3 files, fingerprint ")
    assert task.summary.endswith("; 1 metal shape beside generated ones")
    np.testing.assert_array_equal(task.held_out[1], anatomy(4))


class Given(MetalReduction):
    """A network whose passes all have one image."""

    image: torch.Tensor

    def iterates(self, A, y, start, *, unrolled=True):
        return [self.image] * 2


class Reconstructed:
    """An operator by which every sinogram is reconstructed as one image."""

    def __init__(self, A, image):
        self.A, self.image = A, image

    def __call__(self, x, where=None):
        return self.A(x, where)

    def fbp(self, y):
        return self.image


@pytest.fixture(params=[PLAIN, VIRTUAL], ids=["sinogram", "image"])
def loss(request, config, monkeypatch):
    """The loss, by name, of an image and of the reconstruction of the completed sinogram; and the sample."""
    monkeypatch.setattr(deepgsr_cli.mar.cases, "SETTINGS", (request.param,))
    model = Given(METAL_PRESETS["tiny"])

    def loss_of(name, image, reconstruction):
        task = MAR(dataclasses.replace(config, loss=name), CPU)
        sample = task.sample(Draw.of(CPU, 0, 0))
        A, model.image = Reconstructed(sample.case.operator, reconstruction), image
        sample = dataclasses.replace(sample, case=dataclasses.replace(sample.case, operator=A))
        return float(task.loss(model, sample))

    return loss_of, MAR(config, CPU).sample(Draw.of(CPU, 0, 0)).case


def test_normalised_metal_artifact_reduction_has_a_loss_of_1(loss):
    """And no error inside metal counts."""
    loss, case = loss
    nmar = case.start.normalised
    with_metal = torch.where(case.metal, 1.0, nmar)
    assert loss("charbonnier", nmar, nmar) == pytest.approx(1, rel=1e-5)
    assert loss("charbonnier", with_metal, with_metal) == pytest.approx(1, rel=1e-5)
    assert loss("charbonnier", nmar + 0.01, nmar) > 1.1
    assert loss("charbonnier", nmar, nmar + 0.01) > 1.1


def test_the_image_is_to_be_the_truth_and_the_completed_sinogram_that_of_the_scan_without_metal(loss):
    """Anything below zero is right in air, and anything above the window where the truth is."""
    loss, case = loss

    def right(x):
        return x.clamp(min=0).masked_fill(x > PEAK_ATTENUATION, 2 * PEAK_ATTENUATION) - 0.01 * (x <= 0)

    truth, clean = case.truth, case.clean
    assert loss("mse", right(truth), right(clean)) == pytest.approx(0, abs=1e-9)
    if not torch.equal(truth, clean):
        assert loss("mse", right(clean), right(clean)) > 0.01
        assert loss("mse", right(truth), right(truth)) > 0.01


def test_the_psnr_loss_is_what_is_gained_on_normalised_metal_artifact_reduction(loss):
    """In nepers: half of each error is a gain of log 2, whatever the case."""
    loss, case = loss
    nmar = case.start.normalised
    assert loss("psnr", nmar, nmar) == pytest.approx(0, abs=1e-6)

    def halfway(truth):
        return torch.lerp(*(x.clamp(0, PEAK_ATTENUATION) for x in (nmar, truth)), 0.5)

    assert loss("psnr", halfway(case.truth), halfway(case.clean)) == pytest.approx(-math.log(2), abs=0.02)


def test_validation_is_by_turns_from_the_sinogram_and_from_the_image(config):
    task = MAR(config, CPU)
    samples = task.validation()
    assert [s.case.operator.geometry.kind for s in samples] == ["fan-flat", "parallel"]
    assert all(s.clean.shape == (1, 1, 52, 52) for s in samples)
    model = task.network()
    sample = samples[0]
    outside = ~sample.case.metal
    with torch.no_grad():
        x = model(sample.case.operator, sample.case.sinogram, sample.case.start.metal)
    error = (x.clamp(0, PEAK_ATTENUATION) - sample.clean.clamp(0, PEAK_ATTENUATION))[outside]
    expected = 10 * math.log10(PEAK_ATTENUATION**2 / float(error.double().square().mean()))
    with torch.no_grad():
        assert task.psnr(model, sample) == pytest.approx(expected, abs=1e-3)


def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(config, monkeypatch):
    monkeypatch.setattr(deepgsr_cli.mar.cases, "_LIFE", 2)
    checkpoint = check_resumed_equals_unbroken(config, 2)
    assert isinstance(checkpoint.model, MetalReduction)
    assert checkpoint.info["task"] == "mar"


def test_training_lowers_the_loss_on_one_case(config, monkeypatch):
    task = MAR(config, CPU)
    torch.manual_seed(0)
    model = task.network()
    sample = task.sample(Draw.of(CPU, 0, 0))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(20):
        loss = task.loss(model, sample)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.95 * losses[0]


def test_the_command_trains_and_its_header_names_the_folders(folders, tmp_path, monkeypatch):
    from deepgsr_cli.cli import app

    shape = METAL_PRESETS["small"]
    prior = dataclasses.replace(shape.prior, widths=(8, 8, 8, 8), group_channels=2)
    monkeypatch.setitem(METAL_PRESETS, "small", dataclasses.replace(shape, prior=prior))
    slices, masks = folders
    result = CliRunner().invoke(
        app,
        [
            "train", "mar", "--data", str(slices), "--masks", str(masks), "-o", str(tmp_path / "run"),
            "--steps", "1", "--patch", "32", "--held-out", "1", "--quiet",
        ],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    info = load_checkpoint(tmp_path / "run" / "model.safetensors").info
    assert f'"masks": ["{masks.name}"]' in info["train_config"]
    assert "1 metal shape" in info["training_data"]


def test_bad_masks_are_one_sentence(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        read_shapes(tmp_path / "none")
    with pytest.raises(InputError, match="no pictures"):
        read_shapes(tmp_path)
    PIL.Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png: .* give a mask whose metal is not zero"):
        read_shapes(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"a\.png: is no picture of a format that is read"):
        read_shapes(tmp_path)
