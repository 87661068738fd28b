import io
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from deepgsr_cli.errors import InputError, ShapeError
from deepgsr_cli.evaluation.metrics import psnr
from deepgsr_cli.formats.codecs import Metadata, Resolution
from deepgsr_cli.formats.image import Image, read_image, to_uint8, write_image
from deepgsr_cli.jobs.plan import Job
from deepgsr_cli.pictures.jobs import FileOptions, Restoration
from deepgsr_cli.pictures.restorer import Restorer, RunOptions
from tests.samples import smooth_picture


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
    with pytest.raises(ShapeError, match="is 52 x 40 x 3, the picture itself 52 x 41 x 3"):
        Restoration(denoiser(), options)(job(source))


def test_an_estimated_level_is_used_and_reported(tmp_path, denoiser):
    source = picture(tmp_path / "a.png", size=(160, 170))
    facts = Restoration(denoiser(), FileOptions())(job(source)).facts
    assert len(facts["sigma_estimated"]) == 3
    assert facts["sigma"] == pytest.approx(25, rel=0.1)


def test_a_clean_picture_is_written_unchanged(tmp_path, denoiser):
    source = picture(tmp_path / "a.png", sigma=0, size=(160, 170))
    result = Restoration(denoiser(), FileOptions())(job(source))
    assert result.note == "no noise found, written unchanged"
    assert np.array_equal(read_image(tmp_path / "out.png").pixels, read_image(source).pixels)


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
    assert result.note == "too small to estimate its noise, give --sigma, written unchanged"


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
