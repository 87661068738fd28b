"""What several test files use: a small model's weights, pictures, and the command line in a process."""

import dataclasses
import gc
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from deepgsr_cli.errors import WeightsError
from deepgsr_cli.images import Image, write_image
from deepgsr_cli.models import PRESETS, DeepGSR
from deepgsr_cli.train import TrainConfig, train
from deepgsr_cli.weights import Checkpoint, load_checkpoint, save_checkpoint


def pytest_configure(config):
    """Give each worker of pytest-xdist one thread: they inherit the environment before they import torch."""
    if getattr(config.option, "numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish():
    """Spare the garbage collector the modules and tests, which stay until the end."""
    gc.freeze()


TINY = dataclasses.replace(
    PRESETS["small"],
    widths=(8, 8),
    encoder=(1, 1),
    decoder=(1,),
    encoder_groups=(1, 0),
    decoder_groups=(1,),
    group_channels=2,
)


def tiny_model(channels: int, seed: int = 0, conditions: int = 1) -> DeepGSR:
    """A network of the shipped kind, small, with random weights that change a picture visibly."""
    config = dataclasses.replace(TINY, channels=channels, conditions=conditions)
    torch.manual_seed(seed)
    model = DeepGSR(config).eval()
    with torch.no_grad():
        model.tail.weight.normal_(std=0.02)
    return model


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory):
    """Checkpoint files of tiny models by channel count."""
    folder = tmp_path_factory.mktemp("weights")
    paths = {channels: folder / f"tiny-{channels}.safetensors" for channels in (1, 3)}
    for channels, path in paths.items():
        save_checkpoint(
            path, tiny_model(channels), info={"task": "denoise", "train_config": '{"sigma_max": 75}'}
        )
    return paths


@pytest.fixture(scope="session")
def blind_weights(tmp_path_factory):
    """Checkpoint files of tiny colour models that are told no noise level, by task."""
    folder = tmp_path_factory.mktemp("blind")
    paths = {task: folder / f"tiny-{task}.safetensors" for task in ("derain", "restore")}
    for seed, (task, path) in enumerate(paths.items()):
        save_checkpoint(path, tiny_model(3, seed, conditions=0), info={"task": task})
    return paths


def smooth_picture(channels: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture with edges and slopes, (C, H, W), float32 in [0, 1]."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    planes = []
    for _ in range(channels):
        a, b, c, d = generator.uniform(1, 6, 4)
        plane = 0.5 + 0.2 * np.sin(a * x + b * y) + 0.15 * np.sign(np.sin(c * x) * np.cos(d * y))
        planes.append(plane)
    return np.stack(planes).clip(0.05, 0.95).astype(np.float32)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder with four small colour pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(4):
        write_image(folder / f"{i}.png", Image(smooth_picture(3, 70, 81, seed=i), "uint8", "PNG"))
    return folder


def short_run(pictures: Path, output: Path) -> TrainConfig:
    """Eight steps of a tiny network; PRESETS must have it."""
    return TrainConfig(
        data=(pictures,), output=output, preset="tiny", held_out=1, steps=8, batch=2, patch=32,
        validate_every=3, device="cpu", learning_rate=3e-3, warmup=2,
    )  # fmt: skip


@pytest.fixture
def config(pictures, tmp_path, monkeypatch):
    """Eight steps of a tiny network."""
    monkeypatch.setitem(PRESETS, "tiny", TINY)
    return short_run(pictures, tmp_path / "run")


@pytest.fixture(scope="session")
def trained(pictures, tmp_path_factory):
    """The same run, done: to read only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", TINY)
        config = short_run(pictures, tmp_path_factory.mktemp("trained") / "run")
        train(config)
    return config


def weights_of(config: TrainConfig) -> dict[str, torch.Tensor]:
    """The tensors that a run has saved."""
    return load_checkpoint(config.output / "model.safetensors").model.state_dict()


def state_of(config: TrainConfig) -> dict:
    """What a run of training can be resumed from."""
    return torch.load(config.output / "state.pt", weights_only=True)


def check_resumed_equals_unbroken(
    config: TrainConfig, step: int, unbroken: TrainConfig | None = None
) -> Checkpoint:
    """A run that is interrupted at a step and resumed equals an unbroken one, bit for bit.

    Args:
        config: The run to interrupt.
        step: Where to interrupt it.
        unbroken: The same run, done already, in another folder; without one it is done here.

    Returns:
        What the unbroken run made.
    """

    class Stop(KeyboardInterrupt):
        pass

    def stop(progress):
        if progress.step >= step:
            raise Stop

    if unbroken is None:
        unbroken = dataclasses.replace(config, output=config.output.with_name("unbroken"))
        train(unbroken)
    with pytest.raises(Stop):
        train(config, report=stop)
    assert state_of(config)["step"] == step
    train(config, resume=True)
    whole, resumed = state_of(unbroken), state_of(config)
    for part in ("model", "average"):
        assert all(torch.equal(value, resumed[part][name]) for name, value in whole[part].items())
    moments = [
        [s[name] for part in x["optimizers"] for s in part["state"].values() for name in sorted(s)]
        for x in (whole, resumed)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*moments, strict=True))
    assert [row[3] for row in whole["rows"]] == [row[3] for row in resumed["rows"]]
    return load_checkpoint(unbroken.output / "model.safetensors")


def check_foreign_configuration_is_refused(model: torch.nn.Module, path, fields: str) -> None:
    """A checkpoint of the network, whose configuration has no field but "stages", is refused.

    Args:
        model: The network; its configuration is overwritten.
        path: Of the checkpoint to write.
        fields: Those that the network's configuration has.
    """
    name = model.config_dict()["model"]
    model.config_dict = lambda: {"model": name, "stages": 2}
    save_checkpoint(path, model, info={})
    with pytest.raises(WeightsError, match=f"its fields are stages, not {fields}"):
        load_checkpoint(path)
