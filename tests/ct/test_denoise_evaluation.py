import numpy as np
import pytest

from deepgsr_cli.ct.denoise_evaluation import LowDoseCT
from deepgsr_cli.errors import OptionError, UsageError
from deepgsr_cli.evaluation.run import scores
from deepgsr_cli.tomography.attenuation import attenuation_to_hu
from tests.samples import body_hu, saved_slice


@pytest.fixture
def slices(tmp_path):
    folder = tmp_path / "slices"
    folder.mkdir()
    saved_slice(folder / "a.dcm", body_hu())
    return folder


def settings(folder, **others):
    return {"data": folder, "method_names": ("tv",), "device": "cpu", **others}


def test_less_dose_has_more_noise_and_a_smooth_kernel_less(slices):
    evaluation = LowDoseCT(**settings(slices, doses=(0.5, 0.1), filters=("ram-lak", "hann")))
    levels = {
        (case.labels["dose"], case.labels["filter"]): case.measurement.level_hu for case in evaluation.cases()
    }
    assert len(levels) == len(evaluation) == 4
    # Added variance goes with (1 - dose) / dose, but for the electronics.
    assert levels[0.1, "hann"] > 2.9 * levels[0.5, "hann"]
    assert levels[0.5, "ram-lak"] > 1.5 * levels[0.5, "hann"]


def test_the_noise_is_what_parts_the_slice_from_its_reference(slices):
    (case,) = LowDoseCT(**settings(slices, filters=("cosine",))).cases()
    (again,) = LowDoseCT(**settings(slices, filters=("cosine",))).cases()
    slice, truth = case.measurement, attenuation_to_hu(case.truth)[0, 0].numpy()
    assert (slice.hu == again.measurement.hu).all()
    assert (slice.hu == slice.hu.round()).all()
    in_body = truth > -200
    assert (slice.hu - truth)[in_body].std() == pytest.approx(slice.level_hu, rel=0.1)
    assert np.abs(truth - body_hu())[20:44, 20:44].mean() < 25  # the reference is the slice


def test_a_gain_is_the_psnr_over_that_of_the_input(slices):
    evaluation = LowDoseCT(**settings(slices, filters=("ram-lak",), doses=(0.05,)))
    (score,) = scores(evaluation)
    figures = score.figures
    assert figures["gain"] == pytest.approx(figures["psnr"] - figures["psnr_in"])
    assert figures["gain"] > 0.5
    assert figures["rmse_hu"] < figures["rmse_in_hu"]


def test_the_network_estimates_the_level_or_is_told(slices, ct_weights):
    common = settings(slices, filters=("hann",), weights=str(ct_weights)) | {"method_names": ("deepgsr",)}
    estimated, told = LowDoseCT(**common), LowDoseCT(**common, level_hu=0.0)
    (score,) = scores(told)
    assert score.figures["gain"] == pytest.approx(0, abs=1e-6)
    assert told.protocol()["level"] == "deepgsr is told 0 HU"
    assert estimated.protocol()["level"] == "deepgsr estimates it"
    assert estimated.protocol()["weights"].startswith("tiny-ct")


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"doses": (1.0,)}, OptionError, "dose is 1: give a share of the full dose"),
        ({"filters": ("soft",)}, OptionError, "filter is soft: known are ram-lak"),
        ({"method_names": ("fbp",)}, UsageError, "known are deepgsr, bm3d, nlm, tv"),
        ({"level_hu": -1.0}, OptionError, "sigma is -1: of CT, give the level in HU"),
    ],
)
def test_options_out_of_range_are_named(slices, options, error, sentence):
    with pytest.raises(error, match=sentence):
        LowDoseCT(**settings(slices) | options)
