import csv
import json
import os
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import torch
from typer.testing import CliRunner

from deepgsr_cli.cli import app
from deepgsr_cli.errors import InputError, OptionError, ShapeError, UsageError
from deepgsr_cli.evaluation.metrics import psnr
from deepgsr_cli.evaluation.run import scores
from deepgsr_cli.formats.image import Image, read_image, write_image
from deepgsr_cli.formats.patterns import Measurement, read_measurement, write_measurement
from deepgsr_cli.models import DeepGSRConfig
from deepgsr_cli.phase import methods
from deepgsr_cli.phase.diffraction import Diffraction, coded_masks, oversampled_fourier
from deepgsr_cli.phase.evaluation import PhaseRetrieval, read_gray
from deepgsr_cli.phase.message_passing import _i0e, message_passing, posterior
from deepgsr_cli.phase.methods import Settings, align, retrieve
from deepgsr_cli.phase.network import UnrolledPhase, UnrolledPhaseConfig
from deepgsr_cli.phase.noise import Noise, alpha_noise
from deepgsr_cli.phase.plug_and_play import falling, plug_and_play
from deepgsr_cli.phase.projections import STEPS, Constraints, alternate
from deepgsr_cli.phase.simulation import operator_of
from deepgsr_cli.weights.checkpoint import save_checkpoint
from tests.samples import smooth_picture


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def truth(height, width, seed=0):
    """A picture in [0, 255], (1, 1, H, W)."""
    return torch.from_numpy(smooth_picture(1, height, width, seed))[None] * 255


def fourier_and_coded():
    yield oversampled_fourier((11, 14), dtype=torch.complex128)
    yield Diffraction(coded_masks("quaternary", 2, (11, 14), seeded(), torch.complex128))


BOTH = pytest.mark.parametrize("A", [pytest.param(A, id=str(A.range_shape)) for A in fourier_and_coded()])


@BOTH
def test_projections_are_idempotent_and_go_where_they_should(A):
    y = torch.rand(A.range_shape, dtype=torch.float64, generator=seeded()) * 300
    z = torch.randn(2, *A.range_shape, dtype=torch.complex128, generator=seeded(1)) * 300
    z[0, 0, 0, 0] = 0
    constraints = Constraints(A, y)
    for project in (constraints.magnitudes, constraints.feasible):
        torch.testing.assert_close(project(project(z)), project(z))
    torch.testing.assert_close(constraints.magnitudes(z).abs(), y.expand(2, -1, -1, -1))
    x = constraints.picture(z)
    assert x.min() >= 0
    assert x.max() <= 255


@BOTH
@pytest.mark.parametrize("method", STEPS)
def test_the_true_picture_stays_as_it_is(A, method):
    z = A(truth(11, 14).double())
    torch.testing.assert_close(STEPS[method](Constraints(A, z[0].abs()), z), z)


@BOTH
def test_error_reduction_never_raises_the_residual(A):
    x = truth(11, 14).double()
    y = (A(x)[0].abs().square() + 100 * torch.rand(A.range_shape, generator=seeded())).sqrt()
    result = alternate(Constraints(A, y), "er", restarts=1, iterations=100, generator=seeded(1))
    values = [value for _, value in result.curve]
    assert values == sorted(values, reverse=True)


def test_hio_recovers_a_small_picture_from_its_fourier_magnitudes():
    x = truth(32, 32) * 0
    x[..., 4:27, 3:29] = truth(23, 26, seed=3)
    A = oversampled_fourier((32, 32))
    settings = Settings("hio", restarts=8, iterations=600)
    result = retrieve(A, A(x)[0].abs().square(), settings, seeded(1))
    assert psnr(align(result.picture, x).numpy(), x.numpy(), peak=255) > 40
    assert min(result.restarts) == dict(result.curve)[50]


@pytest.mark.parametrize("method", ["er", "hio", "raar"])
def test_four_coded_patterns_without_noise_give_the_picture(method):
    x = truth(37, 53)
    A = Diffraction(coded_masks("uniform", 4, (37, 53), seeded()))
    result = retrieve(A, A(x)[0].abs().square(), Settings(method, restarts=1), seeded(1))
    assert psnr(result.picture.numpy(), x.numpy(), peak=255) > 60


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("sign", [1, -1])
def test_every_shift_half_turn_and_sign_is_resolved(turned, sign):
    x = torch.rand(1, 1, 5, 6, generator=seeded())
    for row in range(5):
        for column in range(6):
            other = sign * (x.flip(-2, -1) if turned else x).roll((row, column), (-2, -1))
            assert torch.equal(align(other, x), x)


def test_the_global_phase_of_a_complex_picture_is_resolved():
    x = torch.randn(1, 1, 5, 6, dtype=torch.complex128, generator=seeded())
    other = (x * np.exp(2j)).flip(-2, -1).conj().roll((2, 3), (-2, -1))
    torch.testing.assert_close(align(other, x), x)


def test_shifts_are_left_alone_where_they_are_not_ambiguous():
    x = torch.rand(1, 1, 5, 6, generator=seeded())
    moved = x.roll(1, -1)
    assert torch.equal(align(-moved, x, shifts=False), moved)


@pytest.mark.parametrize(
    ("noise", "level"), [(Noise(alpha=30.0), 900.0), (Noise(sigma=4000.0), 900.0), (Noise(alpha=30.0), 0.0)]
)
def test_the_posterior_is_that_of_importance_sampling(noise, level):
    p, variance = torch.full((1, 1, 1, 1), 40 * np.exp(0.7j), dtype=torch.complex128), 900.0
    drawn = torch.randn(10**6, dtype=torch.complex128, generator=seeded()) * variance**0.5 + p.flatten()
    magnitude = drawn.abs()
    deviation = noise.deviation(magnitude)
    if level > 0:
        weight = (-((level - magnitude**2) / deviation).square() / 2).exp() / deviation
    else:
        weight = torch.special.ndtr(-(magnitude**2) / deviation)
    weight = weight / weight.sum()
    mean = (weight * drawn).sum()
    expected = (weight * (drawn - mean).abs().square()).sum()
    found, spread = posterior(p, variance, torch.full((1, 1, 1), level).double(), noise)
    assert abs(found - mean) < 0.3
    assert spread.item() == pytest.approx(expected.item(), rel=0.03)


def test_the_fast_bessel_function_is_that_of_torch():
    x = torch.cat((torch.linspace(0, 8, 2001), torch.logspace(0, 6, 501))).double()
    torch.testing.assert_close(_i0e(x), torch.special.i0e(x), rtol=1e-6, atol=0)


def blur(x, sigma):
    """A denoiser that takes 9 neighbours together, the more the noisier."""
    near = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return torch.lerp(x, near, min(sigma / 40, 1.0))


@pytest.mark.parametrize(("kind", "count"), [("uniform", 4), ("binary", 4)])
def test_message_passing_tells_the_denoiser_the_noise_it_gets(kind, count):
    x = truth(64, 64)
    A = Diffraction(coded_masks(kind, count, (64, 64), seeded()))
    intensity = alpha_noise(A(x), 27.0, seeded(1))[0]
    told = []

    def oracle(noisy, sigma):
        told.append((sigma, float((noisy - x).std())))
        return x + 0.3 * (noisy - x)

    message_passing(A, intensity, Noise(alpha=27.0), oracle, iterations=8, damping=0.8)
    assert told[-1][0] == pytest.approx(told[-1][1], rel=0.15)


def test_a_prior_beats_the_projections_under_noise():
    x = truth(64, 64, seed=2)
    A = Diffraction(coded_masks("uniform", 4, (64, 64), seeded()))
    intensity = alpha_noise(A(x), 60.0, seeded(1))[0]
    scores = {}
    for method in ("er", "red"):
        result = retrieve(A, intensity, Settings(method), seeded(), noise=Noise(alpha=60.0), denoiser=blur)
        scores[method] = psnr(result.picture.numpy(), x.numpy(), peak=255)
    assert scores["red"] > scores["er"] + 3


def test_plug_and_play_without_a_prior_fits_the_magnitudes():
    x = truth(24, 24)
    A = oversampled_fourier((24, 24), dtype=torch.complex128)
    y = A(x.double())[0].abs()
    start = (x + 8 * torch.randn(x.shape, generator=seeded())).double()
    before = float(Constraints(A, y).residual(start))
    result = plug_and_play(
        A, y, start, lambda v, sigma: v, sigmas=[10.0] * 200, deviation=torch.full_like(y, 5.0)
    )
    assert result.residual < before / 10


def test_measurements_are_read_as_they_were_written(tmp_path):
    generator = np.random.default_rng(0)
    masks = np.exp(1j * generator.random((2, 5, 7)))
    written = Measurement(generator.random((2, 5, 7)), "cdp", masks, alpha=3.0, peak=7.0, scaling="unitary")
    write_measurement(tmp_path / "m.npz", written)
    read = read_measurement(tmp_path / "m.npz")
    for name, value in vars(written).items():
        np.testing.assert_equal(getattr(read, name), value)
    other = read_measurement(tmp_path / "m.npz", alpha=5.0, model=None)
    assert (other.alpha, other.model) == (5.0, "cdp")


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".h5"])
def test_other_formats_hold_the_intensities(tmp_path, suffix):
    intensity = np.random.default_rng(0).random((2, 6, 8)).astype(np.float32)
    path = tmp_path / f"m{suffix}"
    if suffix == ".npy":
        np.save(path, intensity)
    elif suffix == ".tif":
        tifffile.imwrite(path, intensity, photometric="minisblack")
    else:
        with h5py.File(path, "w") as file:
            file["intensity"] = intensity
            file["model"] = "cdp"
    read = read_measurement(path)
    np.testing.assert_array_equal(read.intensity, intensity)
    assert read.model == ("cdp" if suffix == ".h5" else None)


def with_entry(value):
    array = np.ones((2, 4, 4))
    array[0, 1, 2] = value
    return array


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"intensity": with_entry(-3)}, ShapeError, "negative, down to -3"),
        ({"intensity": with_entry(np.nan)}, ShapeError, "1 intensities are NaN"),
        ({"intensity": with_entry(1) + 1j}, ShapeError, "complex; give real"),
        ({"intensity": np.zeros((1, 4, 4))}, ShapeError, "all intensities are 0"),
        ({"intensity": np.ones(4)}, ShapeError, "shape (4,)"),
        ({"patterns": np.ones((4, 4))}, InputError, "no array 'intensity' (it has 'patterns')"),
        ({"intensity": np.ones((2, 4, 4))}, UsageError, "model is missing; give model"),
        ({"intensity": np.ones((2, 4, 4)), "model": "cdp"}, UsageError, "give masks"),
        ({"intensity": np.ones((2, 4, 4)), "model": "fourier"}, ShapeError, "fourier has one"),
        ({"intensity": np.ones((9, 9)), "model": "fourier"}, ShapeError, "whole pixels"),
        (
            {"intensity": np.ones((2, 4, 4)), "model": "cdp", "masks": np.ones((3, 4, 4))},
            ShapeError,
            "masks of shape (3, 4, 4), but intensities of shape (2, 4, 4)",
        ),
        (
            {"intensity": np.ones((4, 4)), "model": "fourier", "support": np.zeros((2, 2))},
            ShapeError,
            "the support is 0 throughout",
        ),
        ({"intensity": np.ones((4, 4)), "alpha": np.ones(2)}, InputError, "'alpha' is not one number"),
    ],
)
def test_bad_measurements_are_told_in_a_sentence(tmp_path, fields, kind, words):
    np.savez(tmp_path / "m.npz", **fields)
    with pytest.raises(kind) as error:
        operator_of(read_measurement(tmp_path / "m.npz"))
    assert words in str(error.value)


@pytest.fixture
def run(tiny_weights, tmp_path, monkeypatch):
    """The command line in an empty folder with a picture, in.png, of 40 x 32 pixels."""
    monkeypatch.chdir(tmp_path)
    write_image(Path("in.png"), Image(smooth_picture(1, 32, 40), "uint8", "PNG"))

    def invoke(*arguments, weights=True):
        arguments = [str(argument) for argument in arguments]
        given = ["--weights", str(tiny_weights[1])] if weights else []
        return CliRunner().invoke(app, [*arguments, "--device", "cpu", *given])

    return invoke


def test_a_simulation_is_measured_kept_and_retrieved_again(run):
    simulated = run(
        *("phase", "--simulate", "in.png", "--alpha", 3, "--method", "er", "--json"),
        *("--keep-measurement", "m.npz", "--report", "r.html"),
    )
    assert simulated.exit_code == 0, simulated.output
    facts = json.loads(simulated.stdout)
    assert facts["output"] == "in_phase.png"
    assert facts["psnr"] > 35
    report = Path("r.html").read_text(encoding="utf-8")
    assert all(words in report for words in ("Retrieved", "Truth", "residual by iteration", "alpha 3"))
    again = run("phase", "m.npz", "--method", "er", "-o", "again.png", "--reference", "in.png", "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["psnr"] == facts["psnr"]
    assert Path("again.png").read_bytes() == Path("in_phase.png").read_bytes()


@pytest.fixture(scope="session")
def unrolled_weights(tmp_path_factory):
    """Checkpoint file of a tiny unrolled network with random weights."""
    prior = DeepGSRConfig(
        widths=(8, 8),
        encoder=(1, 1),
        decoder=(1,),
        encoder_groups=(0, 1),
        decoder_groups=(0,),
        group_channels=2,
    )
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("unrolled") / "tiny-phase.safetensors"
    save_checkpoint(path, UnrolledPhase(UnrolledPhaseConfig(stages=3, prior=prior)), info={"task": "phase"})
    return path


def test_trained_weights_are_a_method(run, unrolled_weights):
    options = ("--simulate", "in.png", "--alpha", 3, "--method", "unrolled", "--weights", unrolled_weights)
    result = run("phase", *options, "--report", "r.html", "--json", weights=False)
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert (facts["method"], facts["iterations"]) == ("unrolled", 3)
    assert facts["psnr"] > 15  # of the steps, without trained networks
    assert "tiny-phase.safetensors, sha256" in Path("r.html").read_text(encoding="utf-8")


def test_weights_for_another_method_are_refused(run, tiny_weights, unrolled_weights):
    simulate = ("phase", "--simulate", "in.png")
    for method, weights, words in (
        ("unrolled", tiny_weights[1], "needs weights of deepgsr train phase"),
        ("red", unrolled_weights, "trained for phase; give weights for denoise"),
    ):
        result = run(*simulate, "--method", method, "--weights", weights, weights=False)
        assert result.exit_code == 2
        assert words in result.stderr
    result = run(*simulate, "--method", "unrolled", weights=False)
    assert result.exit_code == 1
    assert "no weights for it come with deepgsr" in result.stderr
    fourier = ("--model", "fourier", "--method", "unrolled", "--weights", unrolled_weights)
    result = run(*simulate, *fourier, weights=False)
    assert result.exit_code == 2
    assert "unrolled is for coded patterns" in result.stderr


def test_another_prior_is_asked_instead_of_the_weights(run):
    pytest.importorskip("skimage")
    result = run("phase", "--simulate", "in.png", "--alpha", 27, "--prior", "tv", "--report", "r.html")
    assert result.exit_code == 0, result.output
    run("phase", "--simulate", "in.png", "--alpha", 27, "-o", "ours.png")
    assert Path("in_phase.png").read_bytes() != Path("ours.png").read_bytes()
    assert ", sha256 " not in Path("r.html").read_text(encoding="utf-8")


def test_a_prior_whose_package_is_missing_is_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "bm3d", None)
    result = run("phase", "--simulate", "in.png", "--prior", "bm3d")
    assert result.exit_code == 2
    assert "--prior bm3d: needs a package that is not installed (bm3d)" in result.stderr


@pytest.mark.parametrize("model", ["fourier", "cdp"])
def test_the_same_seed_gives_the_same_bytes(run, model, monkeypatch):
    monkeypatch.setattr(methods, "falling", lambda first, last, count: falling(first, last, 8))
    options: tuple[object, ...] = ("--simulate", "in.png", "--model", model)
    options += ("--restarts", 2, "--iterations", 20) if model == "fourier" else ()
    for name, seed in (("a.png", 1), ("b.png", 1), ("c.png", 2)):
        result = run("phase", *options, "-o", name, "--seed", seed)
        assert result.exit_code == 0, result.output
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes() != Path("c.png").read_bytes()
    assert ("resolved against the truth" in result.stderr) == (model == "fourier")


def test_a_measurement_in_other_units_gives_the_same_picture(run):
    run("phase", "--simulate", "in.png", "--alpha", 3, "-o", "a.png", "--keep-measurement", "m.npz")
    with np.load("m.npz") as file:
        fields = dict(file)
    gain = 2.0**-6  # exact in floating point
    fields |= {"intensity": fields["intensity"] * gain**2, "peak": 255 * gain, "alpha": 3 * gain}
    np.savez("scaled.npz", **fields)
    result = run("phase", "scaled.npz", "-o", "b.tif")
    assert result.exit_code == 0, result.output
    difference = read_image(Path("b.tif")).pixels - read_image(Path("a.png")).pixels
    assert np.abs(difference).max() <= 0.5 / 255 + 1e-6


def test_an_alpha_that_is_typed_is_for_pictures_up_to_255_and_one_of_a_file_in_the_unit_of_its_peak(run):
    run("phase", "--simulate", "in.png", "--alpha", 3, "-o", "a.png", "--keep-measurement", "m.npz")
    with np.load("m.npz") as file:
        fields = dict(file)
    fields |= {"intensity": fields["intensity"] / 255**2, "peak": 1.0, "alpha": 3 / 255}
    np.savez("scaled.npz", **fields)
    for name, typed in (("file.tif", ()), ("typed.tif", ("--alpha", 3))):
        result = run("phase", "scaled.npz", "-o", name, "--report", f"{name}.html", *typed)
        assert result.exit_code == 0, result.output
        assert "alpha 3" in Path(f"{name}.html").read_text(encoding="utf-8")
    assert np.abs(read_image(Path("file.tif")).pixels - read_image(Path("typed.tif")).pixels).max() < 1e-4
    result = run("phase", "scaled.npz", "-o", "out.png", "--alpha", 2000)
    assert (result.exit_code, result.stderr.strip()) == (
        2,
        "--alpha 2000: give 0 to 1000, as for pictures in 0-255",
    )
    np.savez("wrong.npz", **{**fields, "alpha": 5.0})
    result = run("phase", "wrong.npz", "-o", "out.png")
    assert "--alpha 5: give 0 to 3.92157, as for pictures in 0-1" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "either a measurement or --simulate"),
        (("m.npz", "--simulate", "in.png"), 2, "either a measurement or --simulate"),
        (("m.npz", "--alpha", 3, "--snr", 10), 2, "exclude each other"),
        (("m.npz", "--size", 32), 2, "--size needs --simulate"),
        (("--simulate", "in.png", "--size", -5), 2, "--size -5: give 1 to 4096 pixels"),
        (("--simulate", "in.png", "--size", 100_000), 2, "--size 100000: give 1 to 4096 pixels"),
        (("--simulate", "in.png", "--reference", "in.png"), 2, "does not go with --simulate"),
        (("--simulate", "in.png", "--method", "fista"), 2, "known are red, unrolled, er, hio, raar"),
        (("--simulate", "in.png", "--prior", "nlm"), 2, "--prior nlm: known are deepgsr, tv, bm3d"),
        (("--simulate", "in.png", "--method", "er", "--prior", "tv"), 2, "the method er has none"),
        (("--simulate", "in.png", "--restarts", 0), 2, "--restarts 0: give 1 or more"),
        (("--simulate", "in.png", "--restarts", 2), 2, "--restarts 2 is of --method er, hio or raar, and"),
        (("--simulate", "in.png", "--iterations", 9), 2, "and of red for fourier, not of red for cdp; leave"),
        (
            ("--simulate", "in.png", "--method", "unrolled", "--iterations", 9),
            2,
            ", not of unrolled; leave it",
        ),
        (("--simulate", "in.png", "--alpha", -1), 2, "--alpha -1"),
        (("--simulate", "in.png", "--seed", -1), 2, "--seed -1: give 0 to 4294967295"),
        (("--simulate", "in.png", "--model", "lens"), 2, "--model lens"),
        (("--simulate", "in.png", "-o", "in.png", "--overwrite"), 2, "no input is overwritten"),
        (("--simulate", "in.png", "--keep-measurement", "no/m.npz"), 2, "there is no folder no"),
        (("--simulate", "in.png", "-o", "out.txt"), 2, "no picture format is written by this name"),
        (("missing.npz",), 1, "there is no such file; check the path"),
        (
            ("bare.npy", "--model", "cdp", "--alpha", 1, "--masks", "none.npy"),
            1,
            "none.npy: there is no such file; check the path",
        ),
        (
            ("bare.npy", "--model", "fourier"),
            1,
            "bare.npy: the method red needs the noise level; give --alpha or --snr",
        ),
    ],
)
def test_wrong_usage_is_told_before_anything_is_written(run, arguments, code, words):
    np.save("bare.npy", np.ones((8, 8)))
    before = sorted(os.listdir())
    result = run("phase", *arguments)
    assert (result.exit_code, result.exception is None or isinstance(result.exception, SystemExit)) == (
        code,
        True,
    )
    assert words in result.stderr
    assert sorted(os.listdir()) == before


def test_what_a_measurement_lacks_does_not_stop_the_others(run):
    intensity = np.ones((2, 8, 8))
    masks = np.exp(1j * np.arange(128.0).reshape(2, 8, 8))
    np.savez("a.npz", intensity=intensity, masks=masks, alpha=1.0)
    np.savez("b.npz", intensity=intensity, model="cdp", alpha=1.0)
    np.savez("c.npz", intensity=intensity, masks=masks, model="cdp")
    np.savez("d.npz", intensity=intensity, masks=masks, model="cdp", alpha=1.0)
    result = run("phase", *(f"{name}.npz" for name in "abcd"), "-o", "out")
    assert result.exit_code == 1
    assert os.listdir("out") == ["d.png"]
    for words in (
        "a.npz: the measurement's model is missing; give --model",
        "b.npz: the model cdp needs the masks",
        "c.npz: the method red needs the noise level; give --alpha or --snr",
    ):
        assert words in result.stderr


@pytest.mark.parametrize(
    ("option", "value", "advice"),
    [
        ("--model", "abc", "known are fourier, cdp"),
        ("--oversampling", "0", "give 1 to 16"),
        ("--scaling", "abc", "known are prdeep, unitary"),
        ("--peak", "-3", "give the largest value of the picture"),
        ("--snr", "300", "give -20 to 200 dB"),
    ],
)
def test_an_option_that_cannot_be_is_no_fault_of_a_file(run, option, value, advice):
    np.savez("a.npz", intensity=np.ones((1, 8, 8)), model="fourier", alpha=1.0)
    result = run("phase", "a.npz", "-o", "a.png", option, value)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"{option} {value}: {advice}")
    np.savez("b.npz", intensity=np.ones((1, 8, 8)), model="fourier", alpha=1.0, peak=-3)
    result = run("phase", "b.npz", "-o", "b.png")
    assert result.exit_code == 1
    assert result.stderr.startswith("b.npz: ")


def test_eval_scores_all_methods_in_one_run(run):
    Path("data").mkdir()
    Path("in.png").rename("data/in.png")
    result = run(
        *("eval", "phase", "--data", "data", "--model", "cdp", "--size", 32, "--alpha", 3, "--snr", 30),
        *("--method", "er", "--method", "red", "--csv", "scores.csv", "--json", "--report", "r.json"),
    )
    assert result.exit_code == 0, result.output
    *scores, summary = map(json.loads, result.stdout.splitlines())
    assert [(s["level"], s["method"]) for s in scores] == [
        (level, method) for level in ("alpha 3", "SNR 30 dB") for method in ("er", "red")
    ]
    assert [mean["psnr"] for mean in summary["means"]] == [s["psnr"] for s in scores]
    assert "bicubic" in summary["protocol"]["pictures"]
    with open("scores.csv", encoding="utf-8", newline="") as file:
        assert [float(row["psnr"]) for row in csv.DictReader(file)] == [s["psnr"] for s in scores]
    assert len(json.loads(Path("r.json").read_text(encoding="utf-8"))["items"]) == 2


def test_eval_takes_restarts_for_the_methods_that_have_such_and_refuses_them_for_none(run):
    Path("data").mkdir()
    Path("in.png").rename("data/in.png")
    given = (
        "eval",
        "phase",
        "--data",
        "data",
        "--size",
        32,
        "--alpha",
        3,
        "--restarts",
        1,
        "--iterations",
        2,
    )
    result = run(*given, "--method", "red")
    assert result.exit_code == 2
    assert (
        "--restarts 1 is of --method er, hio or raar, and of red for fourier, not of red for cdp"
        in " ".join(result.stderr.split())
    )
    result = run(*given, "--method", "red", "--method", "er")
    assert result.exit_code == 0, result.output


def test_eval_draws_noise_and_starts_from_the_seed(run):
    Path("data").mkdir()
    Path("in.png").rename("data/in.png")
    short = Settings("hio", restarts=1, iterations=1)
    (score,) = scores(
        PhaseRetrieval(
            data=Path("data"), model="fourier", alphas=(3.0,), method_names=("hio",), size=32, seed=5,
            restarts=1, iterations=1, device="cpu",
        )
    )  # fmt: skip
    A = oversampled_fourier((32, 32))
    x = torch.from_numpy(read_gray(Path("data/in.png"), 32))[None] * 255
    result = retrieve(A, alpha_noise(A(x), 3.0, seeded(5))[0], short, seeded(5))
    assert score.figures["residual"] == pytest.approx(result.residual, rel=1e-6)


def test_eval_tells_the_weights_of_each_method(run, tiny_weights, unrolled_weights, monkeypatch):
    monkeypatch.setattr("deepgsr_cli.phase.evaluation.DENOISER", str(tiny_weights[1]))
    Path("data").mkdir()
    Path("in.png").rename("data/in.png")
    result = run(
        *("eval", "phase", "--data", "data", "--size", 32, "--snr", 20, "--json"),
        *("--method", "unrolled", "--method", "red", "--method", "raar", "--weights", unrolled_weights),
        weights=False,
    )
    assert result.exit_code == 0, result.output
    *scores, summary = map(json.loads, result.stdout.splitlines())
    assert [score["method"] for score in scores] == ["unrolled", "red", "raar"]
    assert len({score["psnr"] for score in scores}) == 3
    assert summary["protocol"]["weights of unrolled"].startswith("tiny-phase.safetensors, sha256")
    assert summary["protocol"]["weights of red"].startswith("tiny-1.safetensors, sha256")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give --alpha or --snr"),
        (("--alpha", 3, "--model", "lens"), "known are fourier, cdp, cdp1"),
        (("--alpha", 3, "--method", "fista"), "known are red"),
        (("--alpha", -1), "--alpha -1"),
        (("--snr", 1000), "--snr 1000"),
    ],
)
def test_wrong_usage_of_eval_is_told(run, arguments, words):
    result = run("eval", "phase", "--data", ".", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"method": ["hio"]}, r"method is \['hio'\]: known are red, unrolled, er, hio, raar"),
        ({"prior": 3}, "prior is 3: known are deepgsr, tv, bm3d"),
        ({"restarts": "3"}, "restarts is 3: its type is str; give a number"),
        ({"iterations": 2.5}, "iterations is 2.5: give a whole number"),
    ],
)
def test_a_setting_of_a_wrong_type_is_refused_in_a_sentence(settings, sentence):
    with pytest.raises(OptionError, match=f"^{sentence}"):
        Settings(**settings)


def test_settings_may_be_numbers_of_numpy():
    assert Settings("hio", restarts=np.int64(2), iterations=np.array(3)) == Settings("hio", "deepgsr", 2, 3)
