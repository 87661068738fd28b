import numpy as np
import pytest

from deepgsr_cli.errors import InputError, UsageError
from deepgsr_cli.evaluation.metrics import psnr, rounded8
from deepgsr_cli.formats.codecs import gray
from deepgsr_cli.formats.image import Image, read_image, write_image
from deepgsr_cli.pictures.evaluation import EvalConfig, Score, evaluate, means, protocol
from deepgsr_cli.pictures.noise import protocol_noise
from deepgsr_cli.pictures.restorer import Restorer, RunOptions
from tests.samples import smooth_picture


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    write_image(tmp_path / "b.png", Image(smooth_picture(3, 41, 52), "uint8", "PNG"))
    write_image(tmp_path / "sub/a.png", Image(smooth_picture(3, 37, 53, seed=1), "uint8", "PNG"))
    return tmp_path


def restorers(tiny_weights, channels=3):
    return {"deepgsr": Restorer(str(tiny_weights[channels]), RunOptions(device="cpu"))}


def test_scores_are_of_the_protocol_noise_clipped_and_rounded(folder, tiny_weights):
    scores = list(evaluate(EvalConfig(folder, (15, 50)), restorers(tiny_weights)))
    assert [(s.picture, s.sigma, s.method) for s in scores[:4]] == [
        ("b.png", 15, "noisy"),
        ("b.png", 15, "deepgsr"),
        ("b.png", 50, "noisy"),
        ("b.png", 50, "deepgsr"),
    ]
    clean = read_image(folder / "b.png").pixels
    noisy = clean + protocol_noise(clean.shape, 50, 0)
    assert scores[2].psnr == psnr(rounded8(noisy), clean)
    restored = restorers(tiny_weights)["deepgsr"].restore_pixels(noisy, 50)
    assert scores[3].psnr == psnr(rounded8(restored), clean)


def test_gray_is_the_rounded_luma(folder, tiny_weights):
    scores = list(evaluate(EvalConfig(folder, (25,), gray=True), restorers(tiny_weights, 1)))
    clean = np.rint(gray(read_image(folder / "b.png").pixels) * 255) / np.float32(255)
    noisy = clean + protocol_noise(clean.shape, 25, 0)
    assert scores[0].psnr == pytest.approx(psnr(rounded8(noisy), clean), abs=1e-9)


@pytest.mark.parametrize("method", ["tv", "nlm"])
@pytest.mark.parametrize("gray_", [False, True])
def test_classical_methods_remove_noise(folder, tiny_weights, method, gray_):
    pytest.importorskip("skimage")
    config = EvalConfig(folder, (25,), (method,), gray=gray_)
    noisy, restored, *_ = evaluate(config, restorers(tiny_weights))
    assert restored.method == method
    assert restored.psnr > noisy.psnr + 3


def test_the_mean_is_that_of_each_pictures_psnr():
    scores = [Score("a", 25, "x", 30, 0.8, 1), Score("b", 25, "x", 20, 0.6, 3)]
    (mean,) = means(scores, {"a": 100, "b": 300})
    assert (mean.psnr, mean.ssim, mean.pixels_per_second) == (25, pytest.approx(0.7), 100)


def test_the_protocol_names_the_data_the_seed_and_the_weights(folder, tiny_weights):
    facts = protocol(EvalConfig(folder, (25,), seed=3), restorers(tiny_weights))
    assert "2 pictures, fingerprint " in facts["data"]
    assert "RandomState(3)" in facts["noise"]
    assert "tiny-3.safetensors, sha256 " in facts["weights"]
    (folder / "b.png").write_bytes((folder / "sub/a.png").read_bytes())
    assert protocol(EvalConfig(folder, (25,), seed=3), restorers(tiny_weights))["data"] != facts["data"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"methods": ("magic",)}, "--method magic: known are deepgsr, restore, bm3d"),
        ({"sigmas": (0.0,)}, "--sigma 0: give more than 0"),
        ({"limit": 0}, "--limit 0: give 1 or more"),
    ],
)
def test_options_out_of_range_are_named(folder, change, sentence):
    with pytest.raises(UsageError, match=sentence):
        EvalConfig(**{"data": folder, "sigmas": (25.0,), **change})


def test_an_empty_or_missing_folder_is_refused(tmp_path, tiny_weights):
    for name, sentence in (("none", "no such folder"), ("empty", "no pictures; looked for")):
        if name == "empty":
            (tmp_path / name).mkdir()
        with pytest.raises(InputError, match=sentence):
            list(evaluate(EvalConfig(tmp_path / name, (25,)), restorers(tiny_weights)))
