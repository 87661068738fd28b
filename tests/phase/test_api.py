import numpy as np
import pytest
import torch

from deepgsr_cli.errors import ShapeError, UsageError
from deepgsr_cli.formats.patterns import Measurement, write_measurement
from deepgsr_cli.phase.api import retrieve_phase
from deepgsr_cli.phase.jobs import write_picture
from deepgsr_cli.phase.methods import Settings
from deepgsr_cli.phase.simulation import Simulation
from tests.invoke import invoke
from tests.samples import smooth_picture

SHORT = Settings("hio", restarts=2, iterations=10)


@pytest.mark.parametrize("model", ["cdp", "fourier"])
def test_arrays_give_what_the_command_writes(tmp_path, model):
    measured = Simulation(model, alpha=9.0).measure(smooth_picture(1, 24, 28))
    write_measurement(tmp_path / "y.npz", measured)
    options = "--method hio --restarts 2 --iterations 10 --device cpu"
    invoke(f"phase {tmp_path}/y.npz -o {tmp_path}/a.tif {options}")
    picture = retrieve_phase(measured.intensity, measured.masks, method=SHORT, device="cpu")
    assert (picture.shape, picture.dtype) == ((24, 28), np.float32)
    write_picture(tmp_path / "b.tif", picture[None])
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()
    assert np.array_equal(retrieve_phase(measured, method=SHORT, device="cpu"), picture)
    tensor = torch.from_numpy(measured.intensity).requires_grad_()
    assert np.array_equal(retrieve_phase(tensor, measured.masks, method=SHORT, device="cpu"), picture)


def test_a_denoiser_makes_a_near_picture_of_coded_patterns():
    truth = smooth_picture(1, 24, 28)
    measured = Simulation(alpha=9.0).measure(truth)
    picture = retrieve_phase(measured.intensity, measured.masks, alpha=9.0, device="cpu")
    assert np.abs(picture - truth[0]).mean() < 0.01


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda y: -y, "go down to -.*; clip what is noise to 0"),
        (lambda y: 0 * y, "all intensities are 0"),
        (lambda y: y + np.inf, "NaN or infinity"),
        (lambda y: y.astype(complex), "give real numbers"),
        (lambda y: y[0, 0], r"give real numbers, \(M, N\)"),
        (lambda y: y[:, :-2], "give one mask for each pattern"),
    ],
)
def test_what_are_no_intensities_is_refused(change, sentence):
    measured = Simulation(alpha=9.0).measure(smooth_picture(1, 12, 14))
    with pytest.raises(ShapeError, match=sentence):
        retrieve_phase(change(measured.intensity), measured.masks, method="er", device="cpu")


def test_what_is_missing_or_said_twice_is_named_by_its_argument():
    y = np.ones((8, 8))
    with pytest.raises(UsageError, match='needs the noise level; give alpha, or method="hio"'):
        retrieve_phase(y)
    with pytest.raises(UsageError, match="says masks and alpha itself"):
        retrieve_phase(Measurement(y, "fourier"), alpha=3.0)
