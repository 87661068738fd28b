import dataclasses
import math
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

import deepgsr_cli.ct.cutouts
from deepgsr_cli.ct.cutouts import CutOuts
from deepgsr_cli.ct.network import UNROLLED_PRESETS, Unrolled, UnrolledConfig
from deepgsr_cli.ct.slices import eval_slices, read_hu, reduced, slice_paths
from deepgsr_cli.ct.training import (
    CTRecon,
    Scans,
    photons_at,
    projection_noise,
    random_geometry,
    random_photons,
    repeated_scan,
)
from deepgsr_cli.errors import InputError, UsageError
from deepgsr_cli.formats.dicom.derived import write_new
from deepgsr_cli.models import DeepGSRConfig
from deepgsr_cli.tasks import train
from deepgsr_cli.tomography.attenuation import WATER_ATTENUATION, hu_to_attenuation
from deepgsr_cli.tomography.fbp import fbp_weights
from deepgsr_cli.tomography.geometry import sparse_view
from deepgsr_cli.tomography.radon import Radon
from deepgsr_cli.training.config import TrainConfig
from deepgsr_cli.training.task import Draw
from tests.samples import check_resumed_equals_unbroken

CPU = torch.device("cpu")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def anatomy(seed, height=70, width=81):
    """A slice in whole HU, (H, W), float32: an ellipse of tissue with texture and a bone, in air."""
    random = np.random.default_rng(seed)
    row, column = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    hu = np.where(row**2 / 0.7 + column**2 / 0.8 < 1, 40 + random.normal(0, 20, (height, width)), -1000)
    bone = (row - random.uniform(-0.3, 0.3)) ** 2 + (column - random.uniform(-0.3, 0.3)) ** 2 < 0.03
    return np.rint(np.where(bone, 700, hu)).astype(np.float32)


def write_png(path, hu):
    PIL.Image.fromarray((hu + 1024).astype(np.uint16)).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slices")
    for i in range(4):
        write_png(folder / f"{i}.png", anatomy(i))
    return folder


def test_a_png_holds_hu_plus_1024_and_nothing_is_less_than_air(tmp_path):
    hu = anatomy(0)
    hu[0, 0] = -1024
    write_png(tmp_path / "a.png", hu)
    hu[0, 0] = -1000
    (read,) = read_hu(tmp_path / "a.png")
    np.testing.assert_array_equal(read, hu)


def test_dicom_slices_are_read_as_png_are(tmp_path):
    for i in range(2):
        write_new(
            anatomy(i), (1.0, 1.0), tmp_path / f"{i}.dcm", measurement="test", description="", derivation="",
            place=(i + 1, float(i)),
        )  # fmt: skip
    paths = slice_paths(tmp_path)
    assert [path.name for path in paths] == ["0.dcm", "1.dcm"]
    for i, path in enumerate(paths):
        (hu,) = read_hu(path)
        np.testing.assert_allclose(hu, anatomy(i), atol=0.5)


def test_a_folder_of_both_kinds_is_read_whole_to_train_and_to_evaluate(tmp_path):
    (tmp_path / "deeper").mkdir()
    (tmp_path / ".hidden").mkdir()
    write_png(tmp_path / "b.png", anatomy(0))
    write_png(tmp_path / "deeper" / "c.png", anatomy(1))
    write_png(tmp_path / ".hidden" / "d.png", anatomy(2))
    (tmp_path / "notes.txt").write_text("no slice")
    write_new(
        anatomy(3), (1.0, 1.0), tmp_path / "a.dcm", measurement="test", description="", derivation="",
    )  # fmt: skip
    names = ["a.dcm", "b.png", "deeper/c.png"]
    assert [path.relative_to(tmp_path).as_posix() for path in slice_paths(tmp_path)] == names
    slices = eval_slices(tmp_path)
    assert [Path(slice.name).as_posix() for slice in slices] == names
    for slice in slices:
        np.testing.assert_array_equal(slice.read()[0], read_hu(slice.path)[0])


def test_what_holds_no_slices_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        slice_paths(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no CT slices; give a folder of DICOM"):
        slice_paths(tmp_path)
    PIL.Image.new("L", (8, 8)).save(tmp_path / "gray.png")
    with pytest.raises(InputError, match=r"gray.png: its pixels are 8-bit; give 16-bit gray PNG"):
        read_hu(tmp_path / "gray.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match=r"text.png: cannot be read as a PNG"):
        read_hu(tmp_path / "text.png")


def test_a_reduced_slice_is_whole_and_has_its_mean():
    hu = torch.from_numpy(anatomy(0))
    square = torch.full((81, 81), -1000.0)
    square[5:75] = hu
    small = reduced(hu, 27)
    torch.testing.assert_close(small, square.reshape(27, 3, 27, 3).mean((1, 3)), rtol=1e-4, atol=1e-2)


def test_cut_outs_are_a_function_of_the_generator():
    cut_outs = CutOuts([anatomy(0), anatomy(1, 20, 25)], 32, CPU)
    first, again, other = (cut_outs(20, generator(seed)) for seed in (0, 0, 1))
    assert first.shape == (20, 1, 32, 32)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.min() >= 0
    assert first.isfinite().all()


def turned(x, turn):
    """One of the eight orientations of a square."""
    return (x.mT if turn % 2 else x).rot90(turn // 2, (-2, -1))


def test_exact_cut_outs_are_pixels_of_the_slice_in_any_of_eight_orientations(monkeypatch):
    monkeypatch.setattr(deepgsr_cli.ct.cutouts, "_EXACT", 1)
    hu = anatomy(0, 35, 36)
    whole = hu_to_attenuation(torch.from_numpy(hu))
    found = set()
    for cut_out in CutOuts([hu], 32, CPU, masked=0, with_objects=0)(150, generator())[:, 0]:
        for turn in range(8):
            for top in range(4):
                for left in range(5):
                    part = turned(whole[top : top + 32, left : left + 32], turn)
                    contrast = (cut_out * part).sum() / (part * part).sum()
                    if (cut_out - contrast * part).abs().max() < 1e-5:
                        found.add(turn)
                        assert 0.85 <= contrast <= 1.15
                        break
    assert found == set(range(8))


def test_every_geometry_sees_the_whole_slice():
    """No ray through its corners misses the detector, whose bins are about a pixel wide at the isocentre."""
    kinds = set()
    for i in range(40):
        geometry = random_geometry(32, i / 40, generator(i))
        kinds.add(geometry.kind)
        assert 0.9 <= geometry.bin_mm / geometry.magnification / geometry.pixel_mm[0] <= 1.2
        x, y = ((31 - 2 * row) / 2 * geometry.pixel_mm[0] for row in (0, 31))
        corners = np.array([(a, b) for a in (x, y) for b in (x, y)])
        theta = np.array(geometry.angles_rad)[:, None]
        across = corners[:, 0] * np.cos(theta) + corners[:, 1] * np.sin(theta)
        along = geometry.source_mm + corners[:, 1] * np.cos(theta) - corners[:, 0] * np.sin(theta)
        reach = geometry.source_mm + geometry.detector_mm
        position = {
            "parallel": across,
            "fan-flat": reach * across / along,
            "fan-arc": reach * np.arctan(across / along),
        }[geometry.kind]
        assert np.abs(position).max() <= np.abs(geometry.bin_positions_mm()).max() + geometry.bin_mm
    assert kinds == {"parallel", "fan-flat", "fan-arc"}


def test_some_scans_are_short_and_some_detectors_see_half_of_the_slice():
    """And filtered backprojection, which the network starts from, takes them all."""
    short = shifted = 0
    for i in range(300):
        geometry = random_geometry(256, i / 300, generator(i))
        assert np.isfinite(fbp_weights(geometry)).all()
        first, last = geometry.bin_positions_mm()[[0, -1]]
        angles = np.array(geometry.angles_rad)
        turn = (angles[1] - angles[0]) * len(angles)
        if abs(geometry.offset_bins) > 1:
            shifted += 1
            assert 0.2 < min(-first, last) / max(-first, last) < 0.8
            assert turn == pytest.approx(2 * np.pi)
        elif geometry.kind != "parallel" and turn < 0.99 * 2 * np.pi:
            short += 1
            assert turn > np.pi + 2 * np.abs(geometry.fan_angles_rad()).max()
    assert 10 < short < 40
    assert 10 < shifted < 40


def test_most_cut_outs_have_the_resolution_of_the_slice():
    cut_outs = CutOuts([anatomy(0)], 16, CPU, masked=0, with_objects=0)
    assert [len(level) for level in cut_outs.levels[0]] == [70, 35, 17]
    cut_outs.levels = [[torch.full((64, 64), 1000 * i - 500, dtype=torch.int16) for i in range(3)]]
    means = cut_outs(400, generator()).mean((1, 2, 3)) / WATER_ATTENUATION
    counts = [int(((means > low) & (means < high)).sum()) for low, high in ((0.3, 0.7), (1.1, 1.9), (1.9, 3))]
    assert sum(counts) == 400
    np.testing.assert_allclose(np.array(counts) / 400, [0.6, 0.2, 0.2], atol=0.08)


def test_views_are_20_to_360_of_a_full_slice_mostly_30_to_180():
    counts = np.array([random_geometry(512, i / 100, generator()).num_views for i in range(100)])
    assert counts.min() == 20
    assert 330 < counts.max() <= 360
    assert ((counts >= 30) & (counts <= 180)).mean() == pytest.approx(0.7, abs=0.02)
    assert random_geometry(128, 0.3, generator()).num_views == round(counts[30] / 4)


def test_scans_are_a_function_of_the_seed_and_made_once():
    scans = Scans(32, 3)
    scan = scans(0.4)
    assert scans(0.4) is scan
    geometry = scan.operator.geometry
    assert geometry == Scans(32, 3)(0.4).operator.geometry
    assert geometry != Scans(32, 4)(0.4).operator.geometry
    assert geometry.num_views < scans(0.9).operator.geometry.num_views


def test_large_operators_are_not_kept_as_matrices():
    assert repeated_scan(sparse_view((128, 128), (1, 1), 60)).operator.engine == "csr"
    assert repeated_scan(sparse_view((512, 512), (1, 1), 360)).operator.engine == "auto"


def test_noise_has_the_variance_of_counted_photons():
    for integral in (0.0, 3.0, 5.0):
        y = torch.full((200_000,), integral)
        error = projection_noise(y, 1e4, generator()) - y
        assert float(error.var()) == pytest.approx(math.exp(integral) / 1e4, rel=0.02)
        counts = np.random.default_rng(0).poisson(1e4 * math.exp(-integral), len(y))
        assert float(error.var()) == pytest.approx(np.var(np.log(counts.clip(1) / 1e4)), rel=0.15)
    assert float(projection_noise(torch.full((9999,), 50.0), 1e4, generator()).std()) < 1.1


def test_a_small_slice_has_the_noise_of_a_large_one():
    """Noise of a pixel, filtered and backprojected, in water where every ray is alike."""
    deviations = []
    for size in (64, 128):
        A = Radon(sparse_view((size, size), (256 / size,) * 2, size // 4), engine="csr")
        y = torch.full((1, 1, *A.range_shape), 3.0)
        noise = A.fbp(projection_noise(y, photons_at(size, 1e5), generator()) - y)
        deviations.append(float(noise.std()))
    assert deviations[0] == pytest.approx(deviations[1], rel=0.05)


def test_doses_are_20_thousand_to_10_million_photons_or_none():
    photons = random_photons(2000, generator())
    counts = np.array([n for n in photons if n is not None])
    assert photons == random_photons(2000, generator())
    assert 1 - len(counts) / 2000 == pytest.approx(0.25, abs=0.03)
    assert counts.min() >= 2e4
    assert counts.max() <= 1e7
    assert np.median(np.log(counts)) == pytest.approx(np.log(2e4 * 1e7) / 2, abs=0.2)


@pytest.fixture
def config(folder, tmp_path, monkeypatch):
    """Six steps of a tiny network."""
    shape = UnrolledConfig(
        stages=2,
        prior=DeepGSRConfig(
            widths=(8, 8),
            encoder=(1, 1),
            decoder=(1,),
            encoder_groups=(0, 1),
            decoder_groups=(0,),
            group_channels=2,
        ),
    )
    monkeypatch.setitem(UNROLLED_PRESETS, "tiny", shape)
    return TrainConfig(
        data=(folder,), output=tmp_path / "run", task="ct-recon", preset="tiny", held_out=1, steps=6,
        batch=2, patch=32, validate_every=2, device="cpu", warmup=2,
    )  # fmt: skip


def test_a_batch_is_a_function_of_the_seed(config):
    first, again, other = (CTRecon(config, CPU).sample(Draw.of(CPU, s, 0)) for s in (0, 0, 2))
    assert torch.equal(first.sinogram, again.sinogram)
    assert torch.equal(first.clean, again.clean)
    assert torch.equal(first.condition, again.condition)
    assert first.sinogram.shape != other.sinogram.shape or not torch.equal(first.sinogram, other.sinogram)
    assert first.condition.shape == (2, 2)


def test_the_last_files_are_held_out(config):
    task = CTRecon(config, CPU)
    np.testing.assert_array_equal(task.held_out[0], anatomy(3))
    assert task.summary.startswith("3 CT slices of 3 files, fingerprint ")
    clean, noisy = task.validation()
    assert clean.clean.shape == (1, 1, 64, 64)
    assert len(clean.operator.geometry.angles_rad) == round(60 * 64 / 512)
    projected = clean.operator(clean.clean)
    torch.testing.assert_close(clean.sinogram, projected, rtol=0, atol=0.05 * float(projected.max()))
    assert (noisy.sinogram - clean.sinogram).abs().max() > 0
    with pytest.raises(InputError, match="4 pictures, of which 3 would be held out"):
        CTRecon(dataclasses.replace(config, held_out=3), CPU)
    with pytest.raises(InputError, match="has no files but those of"):
        CTRecon(dataclasses.replace(config, validation=config.data[0]), CPU)


def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(config):
    checkpoint = check_resumed_equals_unbroken(config, 2)
    assert isinstance(checkpoint.model, Unrolled)
    assert checkpoint.info["task"] == "ct-recon"


def test_attenuation_beyond_the_window_counts_as_its_end(config):
    task = CTRecon(config, CPU)
    sample = task.sample(Draw.of(CPU, 0, 0))

    class Given(Unrolled):
        def iterates(self, A, y, condition):
            return [self.image] * 2

    model = Given(UNROLLED_PRESETS["tiny"])
    metal = torch.full_like(sample.clean, 0.07)
    sample = dataclasses.replace(sample, clean=metal)
    losses = []
    for value in (0.05, 0.06, 0.2, 0.04):
        model.image = torch.full_like(metal, value)
        losses.append(float(task.loss(model, sample)))
    assert losses[0] == losses[1] == losses[2]
    assert losses[3] > 100 * losses[0]


def test_an_unknown_preset_is_named(config):
    with pytest.raises(UsageError, match="preset is paper: known are small, tiny"):
        train(dataclasses.replace(config, preset="paper"))
