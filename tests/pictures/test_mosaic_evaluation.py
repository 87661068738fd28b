import numpy as np
import pytest
import torch

from deepgsr_cli.errors import UsageError
from deepgsr_cli.evaluation.metrics import psnr, rounded8
from deepgsr_cli.evaluation.run import scores
from deepgsr_cli.evaluation.summary import means
from deepgsr_cli.formats.image import Image, read_image, write_image
from deepgsr_cli.models.mosaics import malvar, mosaic_of
from deepgsr_cli.pictures.demosaicking import Demosaicker
from deepgsr_cli.pictures.mosaic_evaluation import BORDER, MosaicEvaluation
from deepgsr_cli.pictures.noise import protocol_noise
from tests.samples import smooth_picture


@pytest.fixture
def folder(tmp_path):
    write_image(tmp_path / "a.png", Image(smooth_picture(3, 41, 52), "uint8", "PNG"))
    write_image(tmp_path / "b.png", Image(smooth_picture(3, 16, 17, seed=1), "uint8", "PNG"))
    return tmp_path


def evaluation(folder, mosaic_weights, **settings):
    return MosaicEvaluation(data=folder, weights=str(mosaic_weights), device="cpu", **settings)


def test_scores_are_those_of_the_protocol(folder, mosaic_weights):
    found = list(scores(evaluation(folder, mosaic_weights, sigmas=(0, 10))))
    assert len(found) == 2 * 2 * 3
    assert [(*s.labels.values(), s.method) for s in found[3:6]] == [
        ("a.png", 10, "deepgsr"),
        ("a.png", 10, "bilinear"),
        ("a.png", 10, "malvar"),
    ]
    clean = read_image(folder / "a.png").pixels[:, :40]  # even sides
    mosaic = mosaic_of(torch.from_numpy(clean)[None])[0].numpy()
    noisy = mosaic + protocol_noise(mosaic.shape, 10, 0)
    restored = Demosaicker(str(mosaic_weights))(noisy[0], sigma=10)
    assert found[3].figures["psnr"] == psnr(rounded8(restored), clean)
    inner = np.s_[:, BORDER:-BORDER, BORDER:-BORDER]
    interpolated = malvar(torch.from_numpy(mosaic)[None])[0].numpy()
    expected = psnr(rounded8(interpolated)[inner], clean[inner])
    assert found[2].figures["psnr_inner"] == pytest.approx(expected, abs=1e-4)


def test_a_picture_that_is_border_alone_counts_whole(folder, mosaic_weights):
    *_, last = scores(evaluation(folder, mosaic_weights))
    assert last.figures["psnr_inner"] == last.figures["psnr"]


def test_denoising_comes_after_demosaicking(folder, mosaic_weights, tiny_weights, monkeypatch):
    run = evaluation(folder, mosaic_weights, sigmas=(10,), method_names=("denoise",), limit=1)
    run.restorers["denoise"].weights = str(tiny_weights[3])
    (score,) = scores(run)
    case = next(run.cases())
    demosaicked = np.ascontiguousarray(Demosaicker(str(mosaic_weights))(case.measurement.pixels[0]))
    expected = run.restorers["denoise"].restore_pixels(demosaicked, 10)
    assert score.figures["psnr"] == psnr(rounded8(expected), case.truth)
    assert "weights of denoise" in run.protocol()


def test_means_and_the_report_have_both_figures(folder, mosaic_weights):
    run = evaluation(folder, mosaic_weights, method_names=("malvar",))
    (mean,) = means(run, list(scores(run)))
    assert {"psnr", "psnr_inner", "ssim", "pixels_per_second"} <= mean.figures.keys()
    ((heading, row),) = run.tables([mean])
    assert heading[2:4] == ["CPSNR (dB)", "without 10 px of border"]
    assert row[:2] == ["0", "malvar"]
    case = next(run.cases())
    images, _ = run.images(case, {"malvar": run.methods["malvar"](case.measurement)})
    assert [image.label for image in images] == ["malvar", "clean"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"sigmas": (-1,)}, "sigma -1: give 0 to 255"),
        ({"method_names": ("ahd",)}, "method ahd: known are"),
    ],
)
def test_what_cannot_be_is_a_sentence(folder, mosaic_weights, settings, sentence):
    with pytest.raises(UsageError, match=sentence):
        evaluation(folder, mosaic_weights, **settings)
