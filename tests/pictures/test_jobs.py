import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from deepgsr_cli.errors import InputError, ShapeError
from deepgsr_cli.evaluation.metrics import psnr
from deepgsr_cli.formats.codecs import Metadata
from deepgsr_cli.formats.image import Image, read_image, write_image
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
    source = picture(tmp_path / "a.png", channels, depth, alpha=alpha, metadata=Metadata(dpi=(300.0, 300.0)))
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
