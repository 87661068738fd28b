import sys

import numpy as np
import pytest
import torch

from deepgsr_cli.errors import InputError, ShapeError, UsageError
from deepgsr_cli.evaluation.metrics import luma_y, psnr, psnr_b, rounded8, ssim
from deepgsr_cli.evaluation.records import Score
from deepgsr_cli.evaluation.run import scores
from deepgsr_cli.evaluation.summary import means
from deepgsr_cli.formats.codecs import gray
from deepgsr_cli.formats.image import Image, read_image, to_uint8, write_image
from deepgsr_cli.formats.jpeg import jpeg_file
from deepgsr_cli.pictures.compression import of_coding
from deepgsr_cli.pictures.evaluation import Dejpeg, Denoising, Deraining, Upscaling
from deepgsr_cli.pictures.noise import protocol_noise
from deepgsr_cli.pictures.resampling import reduced
from deepgsr_cli.pictures.restorer import Restorer, RunOptions
from tests.samples import smooth_picture


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    write_image(tmp_path / "b.png", Image(smooth_picture(3, 41, 52), "uint8", "PNG"))
    write_image(tmp_path / "sub/a.png", Image(smooth_picture(3, 37, 53, seed=1), "uint8", "PNG"))
    return tmp_path


def evaluation(folder, tiny_weights, channels=3, sigmas=(25,), **settings):
    return Denoising(
        data=folder, sigmas=sigmas, weights=str(tiny_weights[channels]), device="cpu", **settings
    )


def test_scores_are_of_the_protocol_noise_clipped_and_rounded(folder, tiny_weights):
    first = list(scores(evaluation(folder, tiny_weights, sigmas=(15, 50))))[:4]
    assert [(*s.labels.values(), s.method) for s in first] == [
        ("b.png", 15, "noisy"),
        ("b.png", 15, "deepgsr"),
        ("b.png", 50, "noisy"),
        ("b.png", 50, "deepgsr"),
    ]
    clean = read_image(folder / "b.png").pixels
    noisy = clean + protocol_noise(clean.shape, 50, 0)
    restored = Restorer(str(tiny_weights[3]), RunOptions(device="cpu")).restore_pixels(noisy, 50)
    assert first[2].figures["psnr"] == psnr(rounded8(noisy), clean)
    assert first[3].figures["psnr"] == psnr(rounded8(restored), clean)


def test_gray_is_the_rounded_luma(folder, tiny_weights):
    first = next(scores(evaluation(folder, tiny_weights, 1, gray=True)))
    clean = np.rint(gray(read_image(folder / "b.png").pixels) * 255) / np.float32(255)
    noisy = clean + protocol_noise(clean.shape, 25, 0)
    assert first.figures["psnr"] == pytest.approx(psnr(rounded8(noisy), clean), abs=1e-9)


@pytest.mark.parametrize("method", ["tv", "nlm"])
@pytest.mark.parametrize("gray_", [False, True])
def test_classical_methods_remove_noise(folder, tiny_weights, method, gray_):
    pytest.importorskip("skimage")
    noisy, restored, *_ = scores(evaluation(folder, tiny_weights, method_names=(method,), gray=gray_))
    assert restored.method == method
    assert restored.figures["psnr"] > noisy.figures["psnr"] + 3


def test_the_mean_is_that_of_each_pictures_psnr(folder, tiny_weights):
    figures = [
        {"psnr": 30, "ssim": 0.8, "pixels": 100, "seconds": 1},
        {"psnr": 20, "ssim": 0.6, "pixels": 300, "seconds": 3},
    ]
    two = [Score({"picture": name, "sigma": 25}, "x", values) for name, values in zip("ab", figures)]
    (mean,) = means(evaluation(folder, tiny_weights), two)
    assert mean.record() == {
        "sigma": 25,
        "method": "x",
        "psnr": 25,
        "ssim": pytest.approx(0.7),
        "pixels_per_second": 100,
    }


def test_the_protocol_names_the_data_the_seed_and_the_weights(folder, tiny_weights):
    facts = evaluation(folder, tiny_weights, seed=3).protocol()
    assert "2 pictures, fingerprint " in facts["data"]
    assert "RandomState(3)" in facts["noise"]
    assert "tiny-3.safetensors, sha256 " in facts["weights"]
    (folder / "b.png").write_bytes((folder / "sub/a.png").read_bytes())
    assert evaluation(folder, tiny_weights, seed=3).protocol()["data"] != facts["data"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"method_names": ("magic",)}, "method magic: known are deepgsr, restore, bm3d"),
        ({"sigmas": (0.0,)}, "sigma=0: give more than 0"),
        ({"limit": 0}, "limit=0: give 1 or more"),
    ],
)
def test_options_out_of_range_are_named(folder, change, sentence):
    with pytest.raises(UsageError, match=sentence):
        Denoising(**{"data": folder, "sigmas": (25.0,), **change})


def test_an_empty_or_missing_folder_is_refused(tmp_path, tiny_weights):
    for name, sentence in (("none", "no such folder"), ("empty", "no pictures; looked for")):
        if name == "empty":
            (tmp_path / name).mkdir()
        with pytest.raises(InputError, match=sentence):
            list(scores(evaluation(tmp_path / name, tiny_weights)))


def test_a_package_that_is_missing_is_said_before_any_work(tmp_path, tiny_weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "bm3d", None)
    with pytest.raises(UsageError, match=r"method bm3d: needs a package that is not installed \(bm3d\)"):
        # The folder is not there, and nothing has looked for it yet.
        next(scores(evaluation(tmp_path / "none", tiny_weights, method_names=("deepgsr", "bm3d"))))


def test_a_clean_picture_on_another_scale_is_refused_by_name(tmp_path, tiny_weights):
    write_image(tmp_path / "a.tif", Image(smooth_picture(1, 40, 41) * 255, "float32", "TIFF"))
    for as_gray in (False, True):
        evaluation = Denoising(data=tmp_path, sigmas=(25.0,), gray=as_gray)
        with pytest.raises(InputError, match=r"a\.tif: its values go from"):
            list(evaluation.cases())


def test_partners_of_two_sizes_are_refused_by_name(tmp_path):
    for folder, width in (("rain", 41), ("clean", 40)):
        (tmp_path / folder).mkdir()
        write_image(tmp_path / folder / "a.png", Image(smooth_picture(3, 30, width), "uint8", "PNG"))
    with pytest.raises(ShapeError, match=r"a\.png: is 41 x 30, its clean partner 40 x 30"):
        list(Deraining(data=tmp_path).cases())


def test_a_picture_that_cannot_be_used_does_not_stop_the_others(folder, tiny_weights):
    (folder / "a.png").write_bytes(b"no picture")
    told = []
    evaluated = evaluation(folder, tiny_weights, sigmas=(10, 25), notify=told.append)
    assert [case.labels["picture"] for case in evaluated.cases()] == ["b.png"] * 2 + ["sub/a.png"] * 2
    assert evaluated.failures == told
    assert len(told) == 1
    assert told[0].startswith(f"{folder / 'a.png'}: is no picture of a format")
    assert evaluated.protocol()["weights"].startswith("tiny-3.safetensors")
    for name in ("b.png", "sub/a.png"):
        (folder / name).write_bytes(b"")
    with pytest.raises(InputError, match="the file is empty"):
        list(evaluation(folder, tiny_weights).cases())


def test_one_pair_of_two_sizes_does_not_stop_the_others(tmp_path):
    for folder, width in (("rain", 41), ("clean", 40)):
        (tmp_path / folder).mkdir()
        write_image(tmp_path / folder / "a.png", Image(smooth_picture(3, 30, width), "uint8", "PNG"))
        write_image(tmp_path / folder / "b.png", Image(smooth_picture(3, 30, 40), "uint8", "PNG"))
    evaluated = Deraining(data=tmp_path)
    assert [case.labels["picture"] for case in evaluated.cases()] == ["b.png"]
    assert "is 41 x 30, its clean partner 40 x 30" in evaluated.failures[0]


def test_a_picture_without_pixels_within_the_edges_is_told(tmp_path):
    write_image(tmp_path / "a.png", Image(smooth_picture(3, 12, 12), "uint8", "PNG"))
    write_image(tmp_path / "b.png", Image(smooth_picture(3, 20, 11), "uint8", "PNG"))
    evaluated = Upscaling(data=tmp_path, method_names=("lanczos",))
    found = list(scores(evaluated))
    assert {score.labels["picture"] for score in found} == {"a.png"}
    assert all(np.isfinite(list(score.figures.values())).all() for score in found)
    assert evaluated.failures == [
        f"{tmp_path / 'b.png'}: is 11 x 20 pixels, and scale 4 asks for 12 a side; leave it out"
    ]


def jpegs(folder, jpeg_weights, channels, **settings):
    return Dejpeg(data=folder, weights=str(jpeg_weights[channels]), device="cpu", **settings)


@pytest.mark.parametrize("gray_", [False, True])
def test_jpegs_are_files_and_told_what_they_say(folder, jpeg_weights, gray_):
    channels = 1 if gray_ else 3
    given, restored, *others = scores(jpegs(folder, jpeg_weights, channels, qualities=(20, 90), gray=gray_))
    assert [(*s.labels.values(), s.method) for s in (given, restored)] == [
        ("b.png", 20, "jpeg"),
        ("b.png", 20, "deepgsr"),
    ]
    assert [s.labels["quality"] for s in others] == [90, 90, 20, 20, 90, 90]
    clean = read_image(folder / "b.png").pixels
    if gray_:
        clean = rounded8(luma_y(clean)).astype(np.float32)
    image = read_image(jpeg_file(to_uint8(clean), 20))
    compression = of_coding(image.metadata.jpeg, channels)
    restorer = Restorer(str(jpeg_weights[channels]), RunOptions(device="cpu"), task="dejpeg")
    pixels = restorer.restore_compressed(image.pixels, compression)
    assert given.figures["psnr"] == psnr(rounded8(image.pixels), clean)
    for name, measure in (("psnr", psnr), ("ssim", ssim), ("psnr_b", psnr_b)):
        assert restored.figures[name] == measure(rounded8(pixels), clean)


def test_three_equal_channels_are_gray_and_chroma_may_be_whole(tmp_path, jpeg_weights):
    write_image(tmp_path / "a.webp", Image(smooth_picture(1, 41, 52), "uint8", "PNG"))
    evaluation = jpegs(tmp_path, jpeg_weights, 1, qualities=(30,))
    assert [len(case.truth) for case in evaluation.cases()] == [1]
    assert evaluation.protocol()["jpeg"].endswith("colour 4:2:0")
    write_image(tmp_path / "a.webp", Image(smooth_picture(3, 41, 52), "uint8", "PNG"))
    for full, share in ((False, 1), (True, 0)):
        evaluation = jpegs(tmp_path, jpeg_weights, 3, qualities=(30,), full_chroma=full)
        (case,) = evaluation.cases()
        assert case.measurement.compression.told[-1] == share
    assert evaluation.protocol()["jpeg"].endswith("colour 4:4:4")


@pytest.mark.parametrize("quality", [0, 101])
def test_a_quality_that_cannot_be_is_named(folder, jpeg_weights, quality):
    with pytest.raises(UsageError, match=f"quality={quality}: give 1 to 100"):
        jpegs(folder, jpeg_weights, 3, qualities=(quality,))


def upscaling(folder, upscale_weights, **settings):
    return Upscaling(data=folder, weights=str(upscale_weights), device="cpu", **settings)


def test_pictures_are_reduced_to_whole_pixels_and_measured_without_edges(folder, upscale_weights):
    evaluation = upscaling(folder, upscale_weights, scales=(3,), method_names=("deepgsr", "lanczos"))
    case = next(evaluation.cases())
    true = read_image(folder / "b.png").pixels[:, :39, :51]
    assert np.array_equal(case.truth, true)
    small = reduced(torch.from_numpy(true)[None], 3)[0].numpy()
    assert np.array_equal(case.measurement.pixels, small)
    found = list(scores(evaluation))[:3]
    restorer = Restorer(str(upscale_weights), RunOptions(device="cpu"), task="upscale")
    for score, method in zip(found, ("bicubic", "deepgsr", "lanczos")):
        assert (*score.labels.values(), score.method) == ("b.png", 3, method)
        enlarged = rounded8(restorer.enlarge_pixels(small, 3, method))
        y, y_true = luma_y(enlarged)[:, 3:-3, 3:-3], luma_y(rounded8(true))[:, 3:-3, 3:-3]
        assert score.figures["psnr_y"] == psnr(y, y_true)
        assert score.figures["ssim_y"] == ssim(y, y_true)
        assert score.figures["psnr"] == psnr(enlarged[:, 3:-3, 3:-3], true[:, 3:-3, 3:-3])


def test_all_scales_are_evaluated_and_gray_pictures_as_colour_ones(tmp_path, upscale_weights):
    write_image(tmp_path / "a.png", Image(smooth_picture(1, 41, 52), "uint8", "PNG"))
    evaluation = upscaling(tmp_path, upscale_weights)
    assert len(evaluation) == 3
    assert [case.measurement.pixels.shape for case in evaluation.cases()] == [
        (3, 20, 26),
        (3, 13, 17),
        (3, 10, 13),
    ]
    with pytest.raises(UsageError, match="scale is 5: give 2, 3 or 4"):
        upscaling(tmp_path, upscale_weights, scales=(2, 5))
