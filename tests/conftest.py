"""What several test files use: a small model's weights, pictures, and the command line in a process."""

import dataclasses

import numpy as np
import pytest
import torch

from deepgsr_cli.errors import WeightsError
from deepgsr_cli.models import PRESETS, DeepGSR
from deepgsr_cli.train import TrainConfig, train
from deepgsr_cli.weights import Checkpoint, load_checkpoint, save_checkpoint


def tiny_model(channels: int, seed: int = 0, conditions: int = 1) -> DeepGSR:
    """A network of the shipped kind, small, with random weights that change a picture visibly."""
    config = dataclasses.replace(
        PRESETS["small"],
        channels=channels,
        conditions=conditions,
        widths=(8, 8),
        encoder=(1, 1),
        decoder=(1,),
        encoder_groups=(1, 0),
        decoder_groups=(1,),
        group_channels=2,
    )
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


def state_of(config: TrainConfig) -> dict:
    """What a run of training can be resumed from."""
    return torch.load(config.output / "state.pt", weights_only=True)


def check_resumed_equals_unbroken(config: TrainConfig, step: int) -> Checkpoint:
    """A run that is interrupted at a step and resumed equals an unbroken one, bit for bit.

    Returns:
        What the first run made.
    """

    class Stop(KeyboardInterrupt):
        pass

    def stop(progress):
        if progress.step >= step:
            raise Stop

    train(config)
    broken = dataclasses.replace(config, output=config.output.with_name("broken"))
    with pytest.raises(Stop):
        train(broken, report=stop)
    assert state_of(broken)["step"] == step
    train(broken, resume=True)
    whole, resumed = state_of(config), state_of(broken)
    for part in ("model", "average"):
        assert all(torch.equal(value, resumed[part][name]) for name, value in whole[part].items())
    moments = [
        [s[name] for part in x["optimizers"] for s in part["state"].values() for name in sorted(s)]
        for x in (whole, resumed)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*moments, strict=True))
    assert [row[3] for row in whole["rows"]] == [row[3] for row in resumed["rows"]]
    return load_checkpoint(config.output / "model.safetensors")


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
