import io
import re
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile

from deepgsr_cli.errors import InputError, OutputError, ShapeError
from deepgsr_cli.evaluation.metrics import psnr
from deepgsr_cli.formats.codecs import Metadata, Resolution
from deepgsr_cli.formats.image import Image, read_image, to_uint8, write_image
from deepgsr_cli.jobs.plan import Job
from deepgsr_cli.pictures import jobs as jobs_module
from deepgsr_cli.pictures import restorer as restorer_module
from deepgsr_cli.pictures.findings import NoiseFinding
from deepgsr_cli.pictures.jobs import FileOptions, Preview, Restoration, detailed_corner
from deepgsr_cli.pictures.restorer import Restorer, RunOptions
from deepgsr_cli.weights.checkpoint import save_checkpoint
from tests.samples import in_rain, smooth_picture, tiny_model


@pytest.fixture
def denoiser(tiny_weights):
    return lambda channels=3: Restorer(str(tiny_weights[channels]), RunOptions(device="cpu"))


def picture(path: Path, channels=3, depth="uint8", sigma=25.0, size=(41, 52), **extra) -> Path:
    """A noisy picture with clean/ beside it."""
    clean = smooth_picture(channels, *size)
    noise = np.random.default_rng(5).normal(0, sigma / 255, clean.shape)
    (path.parent / "clean").mkdir(exist_ok=True)
    write_image(path.parent / "clean" / path.name, Image(clean, depth, "PNG"))
    write_image(path, Image((clean + noise).astype(np.float32), depth, "PNG", **extra))
    return path


def job(path: Path) -> Job:
    return Job(path, path.with_name("out" + path.suffix), Path(path.name))


@pytest.mark.parametrize("depth", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_depth_alpha_and_metadata_survive(tmp_path, denoiser, depth, channels):
    alpha = np.random.default_rng(0).integers(0, np.iinfo(depth).max, (41, 52), depth, endpoint=True)
    source = picture(
        tmp_path / "a.png",
        channels,
        depth,
        alpha=alpha,
        metadata=Metadata(resolution=Resolution(300.0, 300.0)),
    )
    Restoration(denoiser(channels), FileOptions(level=25))(job(source))
    before, after = read_image(source), read_image(tmp_path / "out.png")
    assert (after.depth, after.pixels.shape) == (depth, before.pixels.shape)
    assert np.array_equal(after.alpha, alpha)
    assert after.metadata.dpi == pytest.approx((300, 300), abs=0.01)
    expected = denoiser(channels).restore_pixels(before.pixels, 25).clip(0, 1)
    assert np.abs(after.pixels - expected).max() <= 0.501 / np.iinfo(depth).max + 1e-6


def test_the_figures_are_those_of_the_file_written(tmp_path, denoiser):
    source = picture(tmp_path / "a.png")
    options = FileOptions(level=25, reference=tmp_path / "clean")
    facts = Restoration(denoiser(), options)(job(source)).facts
    clean = read_image(tmp_path / "clean/a.png").pixels
    assert facts["psnr_in"] == pytest.approx(psnr(read_image(source).pixels, clean), abs=1e-4)
    assert facts["psnr"] == pytest.approx(psnr(read_image(tmp_path / "out.png").pixels, clean), abs=1e-4)


def test_a_picture_compared_with_itself_has_no_error(tmp_path, denoiser):
    source = picture(tmp_path / "a.png", sigma=0)
    facts = Restoration(denoiser(), FileOptions(level=0, reference=source))(job(source)).facts
    assert facts["psnr"] == float("inf")


def test_a_reference_may_be_stored_in_another_format_but_must_fit(tmp_path, denoiser):
    source = picture(tmp_path / "a.png")
    clean = tmp_path / "clean/a.png"
    image = read_image(clean)
    clean.unlink()
    write_image(tmp_path / "clean/a.tif", image)
    options = FileOptions(level=25, reference=tmp_path / "clean")
    assert "psnr" in Restoration(denoiser(), options)(job(source)).facts
    (tmp_path / "clean/a.tif").unlink()
    with pytest.raises(InputError, match=r"has no picture a\.png; give a reference for each input"):
        Restoration(denoiser(), options)(job(source))
    write_image(clean, Image(smooth_picture(3, 40, 52), "uint8", "PNG"))
    with pytest.raises(ShapeError, match=r"clean/a\.png: is 52 x 40 x 3, the picture itself 52 x 41 x 3"):
        Restoration(denoiser(), options)(job(source))


def test_an_estimated_level_is_used_and_reported(tmp_path, denoiser):
    source = picture(tmp_path / "a.png", size=(160, 170))
    facts = Restoration(denoiser(), FileOptions())(job(source)).facts
    assert len(facts["sigma_estimated"]) == 3
    assert facts["sigma"] == pytest.approx(25, rel=0.1)
    assert facts["noise"] in ("white", "camera")


def test_what_was_found_is_noted_and_the_run_can_be_repeated(tmp_path, denoiser):
    source = picture(tmp_path / "a.png", size=(160, 170))
    work = Restoration(denoiser(), FileOptions())
    result = work(job(source))
    assert re.fullmatch(r".* found, .*, removed by the weights for white noise", result.note)
    assert work.protocol["noise"] == "auto"
    assert "tiny-3.safetensors" in work.protocol["weights (colour)"]


def test_nothing_is_looked_for_where_the_level_is_given(tmp_path, denoiser):
    result = Restoration(denoiser(), FileOptions(level=25))(job(picture(tmp_path / "a.png")))
    assert result.note == ""
    assert "noise" not in result.facts
    assert "sigma_estimated" not in result.facts


def test_a_clean_picture_is_written_unchanged(tmp_path, denoiser):
    source = picture(tmp_path / "a.png", sigma=0, size=(160, 170))
    result = Restoration(denoiser(), FileOptions())(job(source))
    assert result.note == "no noise found, written unchanged"
    assert np.array_equal(read_image(tmp_path / "out.png").pixels, read_image(source).pixels)


def test_where_nobody_can_tell_noise_from_texture_the_way_out_is_said(tmp_path, denoiser, monkeypatch):
    unsure = NoiseFinding("unknown", (4.0, 4.0, 4.0), 4.0, False, False, 0.5)
    monkeypatch.setattr(restorer_module, "noise_of", lambda *_: unsure)
    source = picture(tmp_path / "a.png")
    result = Restoration(denoiser(), FileOptions())(job(source))
    assert result.note == (
        "what may be noise may be texture, written unchanged;"
        " give --noise camera, or --sigma, to have it removed"
    )
    assert (tmp_path / "out.png").read_bytes() == source.read_bytes()


def test_written_unchanged_is_the_bytes_of_the_file(tmp_path, denoiser, monkeypatch):
    path = tmp_path / "a.jpg"
    PIL.Image.fromarray(to_uint8(smooth_picture(3, 160, 170))).save(path, quality=60, comment=b"a cat")
    result = Restoration(denoiser(), FileOptions())(job(path))
    assert result.note == "no noise found, written unchanged"
    assert (tmp_path / "out.jpg").read_bytes() == path.read_bytes()
    noisy = picture(tmp_path / "b.png")
    for options in (FileOptions(level=0), FileOptions(level=25, strength=0)):
        assert not Restoration(denoiser(), options)(job(noisy)).note
        assert (tmp_path / "out.png").read_bytes() == noisy.read_bytes()
        (tmp_path / "out.png").unlink()
    anew = Job(path, tmp_path / "out2.jpg", Path("a.jpg"))
    result = Restoration(denoiser(), FileOptions(format="PNG"))(anew)
    assert result.note == "no noise found, pixels unchanged"
    assert np.array_equal(read_image(anew.target).pixels, read_image(path).pixels)


def test_one_colour_stays_that_colour_whatever_the_task(tmp_path, denoiser):
    write_image(tmp_path / "a.png", Image(np.full((3, 20, 30), 0.3, np.float32), "uint8", "PNG"))
    result = Restoration(denoiser(), FileOptions(level=25))(job(tmp_path / "a.png"))
    assert result.note == "one colour throughout, written unchanged"
    assert (tmp_path / "out.png").read_bytes() == (tmp_path / "a.png").read_bytes()


def test_a_picture_too_small_to_estimate_is_called_so(tmp_path, denoiser):
    source = picture(tmp_path / "a.png", size=(15, 400))
    result = Restoration(denoiser(), FileOptions())(job(source))
    assert result.note == ("too small to tell its noise, written unchanged; give --sigma to have it removed")


def test_values_on_another_scale_are_refused_before_any_guess(tmp_path, denoiser):
    source = picture(tmp_path / "a.tif", 1, "float32", metadata=Metadata(white=255.0))
    for options in (FileOptions(), FileOptions(level=25)):
        with pytest.raises(InputError, match=r"a\.tif: its values go from .* but white is 1"):
            Restoration(denoiser(1), options)(job(source))
    assert not (tmp_path / "out.tif").exists()
    Restoration(denoiser(1), FileOptions(level=25, white=255))(job(source))
    restored = read_image(tmp_path / "out.tif", white=255).pixels
    assert 0 < restored.std() < 1


def test_double_precision_that_is_lost_is_told(tmp_path, denoiser):
    source = picture(tmp_path / "a.tif", 1, "float64")
    assert "32-bit precision" in Restoration(denoiser(1), FileOptions(level=25))(job(source)).note


def test_what_the_output_cannot_hold_is_told(tmp_path, denoiser):
    source = picture(tmp_path / "a.png", metadata=Metadata(xmp=b"<x/>", resolution=Resolution(300, 300)))
    result = Restoration(denoiser(), FileOptions(level=25, format="WEBP"))(job(source))
    assert result.note == "a WEBP file holds no resolution"


def test_a_stream_goes_in_and_out(tmp_path, denoiser, monkeypatch):
    source = picture(tmp_path / "a.png")
    Restoration(denoiser(), FileOptions(level=25))(job(source))

    class Stream:
        def __init__(self, data=b""):
            self.buffer = io.BytesIO(data)

    monkeypatch.setattr(sys, "stdin", Stream(source.read_bytes()))
    monkeypatch.setattr(sys, "stdout", out := Stream())
    Restoration(denoiser(), FileOptions(level=25))(Job(None, None, Path("stdin")))
    monkeypatch.undo()
    assert out.buffer.getvalue() == (tmp_path / "out.png").read_bytes()


def test_pictures_for_a_report_are_before_after_and_reference(tmp_path, denoiser):
    source = picture(tmp_path / "a.png")
    options = FileOptions(level=25, reference=tmp_path / "clean")
    result = Restoration(denoiser(), options)(job(source), for_report=True)
    assert [image.label for image in result.images] == ["Input", "Restored", "Reference"]
    shown = [image.pixels.astype(np.float32).transpose(2, 0, 1) / 255 for image in result.images]
    for pixels, path in zip(shown, (source, tmp_path / "out.png", tmp_path / "clean/a.png"), strict=True):
        assert np.abs(pixels - read_image(path).pixels).max() < 1e-6


def stack(path: Path, count: int, size=(33, 40), **options) -> np.ndarray:
    """Write a TIFF of noisy 16-bit pages, and return them."""
    clean = smooth_picture(1, *size)[0]
    noise = np.random.default_rng(1).normal(0, 0.1, (count, *size))
    pages = ((clean + noise).clip(0, 1) * 65535).astype(np.uint16)
    tifffile.imwrite(path, pages, photometric="minisblack", **options)
    return pages


def test_every_page_of_a_stack_is_restored_as_it_would_be_alone(tmp_path, denoiser):
    pages = stack(tmp_path / "a.tif", 4, imagej=True, metadata={"axes": "ZYX", "spacing": 2.0, "unit": "um"})
    result = Restoration(denoiser(1), FileOptions(level=25))(job(tmp_path / "a.tif"))
    assert result.facts["pages"] == 4
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        restored = file.asarray()
        assert file.imagej_metadata["spacing"] == 2.0
    for page, after in zip(pages, restored, strict=True):
        tifffile.imwrite(tmp_path / "one.tif", page)
        Restoration(denoiser(1), FileOptions(level=25))(
            Job(tmp_path / "one.tif", tmp_path / "x.tif", Path("x"))
        )
        assert np.array_equal(after, tifffile.imread(tmp_path / "x.tif"))


def test_levels_of_pages_are_estimated_one_by_one_and_clean_pages_stay(tmp_path, denoiser):
    pages = stack(tmp_path / "a.tif", 3, size=(160, 170))
    pages[1] = 65535 * smooth_picture(1, 160, 170)[0]
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
    result = Restoration(denoiser(1), FileOptions())(job(tmp_path / "a.tif"))
    assert [sigma > 20 for sigma in result.facts["sigma_by_page"]] == [True, False, True]
    assert result.facts["noise_by_page"] == ["white", "none", "white"]
    assert "noise" not in result.facts
    assert result.facts["sigma"] == round(float(np.median(result.facts["sigma_by_page"])), 2)
    low, high = sorted(filter(None, result.facts["sigma_by_page"]))
    assert f"noise found, sigma {low:g} to {high:g} (0-255 scale)" in result.note
    assert "written unchanged: 1 of them (no noise found)" in result.note
    assert np.array_equal(tifffile.imread(tmp_path / "out.tif")[1], pages[1])


def test_what_to_do_about_pages_follows_why_they_stay(tmp_path, denoiser):
    stack(tmp_path / "a.tif", 2, size=(12, 14))
    result = Restoration(denoiser(1), FileOptions())(job(tmp_path / "a.tif"))
    assert result.note == (
        "2 pictures; written unchanged: 2 of them (too small to tell its noise);"
        " give --sigma to have it removed"
    )


def test_a_stack_takes_the_memory_of_a_page(tmp_path, denoiser):
    peaks = []
    for count in (2, 2, 6):  # what is imported and kept at first does not count
        stack(tmp_path / "a.tif", count, size=(200, 300))
        tracemalloc.start()
        Restoration(denoiser(1), FileOptions(level=25))(job(tmp_path / "a.tif"))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] + 2 * 200 * 300


def test_an_animation_keeps_durations_and_loop_and_a_broken_one_leaves_nothing(tmp_path, denoiser):
    frames = [PIL.Image.fromarray(to_uint8(smooth_picture(3, 33, 40, seed))) for seed in range(3)]
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=[50, 60, 70], loop=2)
    result = Restoration(denoiser(), FileOptions(level=25))(job(path))
    assert result.note == "3 pictures; a GIF holds 256 colours a picture"
    with PIL.Image.open(tmp_path / "out.gif") as after:
        assert (after.n_frames, after.info["loop"], after.info["duration"]) == (3, 2, 50)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 300])
    (tmp_path / "out.gif").unlink()
    with pytest.raises(InputError, match=r"a\.gif.*: the GIF data is damaged"):
        Restoration(denoiser(), FileOptions(level=25))(job(path))
    assert not (tmp_path / "out.gif").exists()


def test_pages_unchanged_are_the_bytes_of_the_file_and_need_a_format_that_holds_them(tmp_path, denoiser):
    stack(tmp_path / "a.tif", 3)
    Restoration(denoiser(1), FileOptions(level=0))(job(tmp_path / "a.tif"))
    assert (tmp_path / "out.tif").read_bytes() == (tmp_path / "a.tif").read_bytes()
    for name, words in (("o.png", "frames of an animation"), ("o.jpg", "holds one")):
        with pytest.raises(OutputError, match=f"there are 3 pictures.*{words}; write .tif"):
            Restoration(denoiser(1), FileOptions(level=25))(
                Job(tmp_path / "a.tif", tmp_path / name, Path(name))
            )


def test_references_of_pages_are_as_many_or_one(tmp_path, denoiser):
    pages = stack(tmp_path / "a.tif", 3)
    for count, kept in ((3, pages), (1, pages[0] // 2)):
        tifffile.imwrite(tmp_path / "clean.tif", kept, photometric="minisblack")
        options = FileOptions(level=0, reference=tmp_path / "clean.tif")
        facts = Restoration(denoiser(1), options)(job(tmp_path / "a.tif")).facts
        assert (facts["psnr"] > 200) == (count == 3)
    tifffile.imwrite(tmp_path / "clean.tif", pages[:2], photometric="minisblack")
    with pytest.raises(ShapeError, match=r"has 2 pictures, .* has 3; give one, or 3"):
        Restoration(denoiser(1), FileOptions(level=25, reference=tmp_path / "clean.tif"))(
            job(tmp_path / "a.tif")
        )


def test_a_preview_shows_one_crop_at_several_levels(tmp_path, denoiser):
    source = picture(tmp_path / "a.png", size=(300, 290))
    result = Preview(Restoration(denoiser(), FileOptions(level=20)))(job(source), for_report=True)
    assert result.facts["sigmas"] == [10, 15, 20, 30, 40]
    names = [image.label for image in result.images]
    assert names == ["input", *(f"--sigma {sigma}" for sigma in (10, 15, 20, 30, 40))]
    sheet = to_uint8(read_image(tmp_path / "out.png").pixels)
    assert sheet.shape[0] > 2 * 256
    top, left = detailed_corner(read_image(source).pixels, 256)
    crop = np.ascontiguousarray(read_image(source).pixels[:, top : top + 256, left : left + 256])
    assert np.array_equal(sheet[:256, :256], to_uint8(crop))
    restored = to_uint8(denoiser().restore_pixels(crop, 15.0, clipped=True))
    assert np.array_equal(result.images[2].pixels, restored)
    assert np.array_equal(sheet[:256, -256:], restored)


def test_a_preview_of_a_cameras_noise_names_the_options_that_give_each_crop(tmp_path, tiny_weights):
    weights = tmp_path / "photo.safetensors"
    save_checkpoint(weights, tiny_model(3, conditions=2), info={"task": "photo"})
    restorer = Restorer(str(weights), RunOptions(device="cpu"), noise="camera")
    source = picture(tmp_path / "a.png", size=(40, 50))
    result = Preview(Restoration(restorer, FileOptions(level=20)))(job(source), for_report=True)
    names = [image.label for image in result.images[1:]]
    assert names == [f"--noise camera --sigma {sigma}" for sigma in (10, 15, 20, 30, 40)]
    expected = restorer.camera.restore_pixels(read_image(source).pixels, 30, clipped=True)
    assert np.array_equal(result.images[4].pixels, to_uint8(expected))


def test_rain_of_pages_is_looked_for_one_by_one(tmp_path):
    dry = smooth_picture(1, 160, 170) * np.float32(0.6) + np.float32(0.1)
    pages = np.stack([to_uint8(x) for x in (dry, in_rain(dry), dry)])
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
    work = Restoration(Restorer(options=RunOptions(device="cpu"), task="derain"), FileOptions())
    result = work(job(tmp_path / "a.tif"))
    assert result.facts["rain_by_page"] == [False, True, False]
    assert "rain found in 1 of them" in result.note
    after = tifffile.imread(tmp_path / "out.tif")
    assert np.array_equal(after[[0, 2]], pages[[0, 2]])
    assert psnr(after[1] / 255, dry[0]) > psnr(pages[1] / 255, dry[0]) + 3


def test_a_preview_of_another_task_mixes_the_input_back(tmp_path, denoiser):
    source = picture(tmp_path / "a.png", size=(40, 50))
    restoration = Restoration(denoiser(), FileOptions(level=25))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Restorer, "takes_sigma", False)
        patch.setattr(restoration, "restored", lambda image: image.pixels * 0)
        result = Preview(restoration)(job(source), for_report=True)
    given = read_image(source).pixels
    assert [image.label for image in result.images[1:]] == [
        f"--strength {s:g}" for s in (0.2, 0.4, 0.6, 0.8, 1)
    ]
    for image, strength in zip(result.images[1:], (0.2, 0.4, 0.6, 0.8, 1)):
        assert np.array_equal(image.pixels, to_uint8(given - np.float32(strength) * given))


def test_the_crop_of_a_preview_is_where_there_is_structure():
    pixels = np.random.default_rng(0).normal(0.5, 0.1, (1, 400, 700)).astype(np.float32)
    pixels[0, 250:330, 500:560] += 0.5
    top, left = detailed_corner(pixels, 128)
    assert top < 330
    assert top + 128 > 250
    assert left < 560
    assert left + 128 > 500
    assert detailed_corner(pixels[:, :20, :30], 128) == (0, 0)


def test_memory_is_given_back_before_a_large_picture_is_written(monkeypatch, tmp_path, denoiser):
    told, source = [], picture(tmp_path / "a.png")
    monkeypatch.setattr(jobs_module, "give_back_freed_memory", lambda: told.append(True))
    for limit, expected in ((3 * 41 * 52 + 1, 0), (3 * 41 * 52, 1)):
        monkeypatch.setattr(jobs_module, "_LARGE_BYTES", limit)
        Restoration(denoiser(), FileOptions(level=25))(job(source))
        assert len(told) == expected


@pytest.mark.parametrize("name", ["a.pgm", "a.pnm"])
def test_a_pgm_without_noise_is_its_own_bytes(tmp_path, denoiser, name):
    source = tmp_path / name
    source.write_bytes(b"P5 # odd\n32 20\n100\n" + bytes(640))
    result = Restoration(denoiser(1), FileOptions())(
        Job(source, tmp_path / f"out{source.suffix}", Path(name))
    )
    assert "written unchanged" in result.note
    assert (tmp_path / f"out{source.suffix}").read_bytes() == source.read_bytes()


def test_a_picture_with_the_suffix_of_another_format_is_told(tmp_path, denoiser):
    source = picture(tmp_path / "a.png").rename(tmp_path / "a.jpg")
    result = Restoration(denoiser(), FileOptions(level=20))(Job(source, tmp_path / "out.jpg", Path("a.jpg")))
    assert "is a PNG by its content, and is written as JPEG by its name" in result.note
