"""What several test files use: a small model's weights, pictures, and the command line in a process."""

import dataclasses

import numpy as np
import pytest
import torch

from deepgsr_cli.models import PRESETS, DeepGSR
from deepgsr_cli.weights import save_checkpoint


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
