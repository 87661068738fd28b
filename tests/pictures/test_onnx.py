"""An exported network gives what the network gives, at sizes it was not traced with."""

import dataclasses

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from deepgsr_cli.cli import app
from deepgsr_cli.models import PRESETS, DeepGSR
from deepgsr_cli.weights.checkpoint import save_checkpoint

pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

PLAIN = dataclasses.replace(
    PRESETS["small"], widths=(8, 8), encoder=(1, 1), decoder=(1,), encoder_groups=(0, 0), decoder_groups=(0,)
)
GROUPS = dataclasses.replace(PLAIN, encoder_groups=(0, 1), group_channels=4, matches=4, embedding=8)


def saved(path, config):
    torch.manual_seed(0)
    model = DeepGSR(config).eval()
    torch.nn.init.normal_(model.tail.weight, std=0.05)
    save_checkpoint(path, model, info={"task": "denoise"})
    return model


def export(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (PLAIN, [(37, 53), (64, 64), (101, 30)]),
        (dataclasses.replace(PLAIN, channels=3, conditions=0), [(37, 53), (64, 48)]),
        (dataclasses.replace(PLAIN, channels=3, mosaic=True), [(36, 52), (64, 64), (18, 74), (37, 53)]),
        (GROUPS, [(128, 128), (131, 140), (136, 129)]),
    ],
)
def test_the_file_gives_what_the_network_gives(tmp_path, config, sizes):
    model = saved(tmp_path / "w.safetensors", config)
    result = export(tmp_path / "w.safetensors", "-o", tmp_path / "w.onnx")
    assert result.exit_code == 0, result.output
    session = runtime.InferenceSession(tmp_path / "w.onnx", providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(1)
    for size in sizes:
        for sigma in (0.1, 0.2)[: 1 + bool(config.conditions)]:
            image = torch.rand(1, 1 if config.mosaic else config.channels, *size, generator=generator)
            condition = torch.full((1, config.conditions), sigma) if config.conditions else None
            feed = {"image": image.numpy()}
            if condition is not None:
                feed["condition"] = condition.numpy()
            with torch.no_grad():
                expected = model(image, condition).numpy()
            (restored,) = session.run(None, feed)
            assert np.abs(expected - image.numpy()).max() > 1e-3
            # A match that stands on the edge may fall either way, and moves a few pixels.
            assert np.quantile(np.abs(restored - expected), 0.99) < 1e-5
    assert session.get_modelmeta().custom_metadata_map["task"] == "denoise"


def test_the_help_names_the_package_to_install():
    assert "pip install 'deepgsr[onnx]'" in " ".join(export("--help").output.split())


def test_a_network_with_the_filter_is_refused(tmp_path):
    result = export("deepgsr-gray", "-o", tmp_path / "w.onnx")
    assert result.exit_code
    assert "WEIGHTS deepgsr-gray: the network has a collaborative filter" in " ".join(result.output.split())
    assert not (tmp_path / "w.onnx").exists()


@pytest.mark.parametrize(
    ("weights", "task", "kind"),
    [
        ("deepgsr-upscale", "upscale", "nsr"),
        ("deepgsr-ct", "ct-recon", "unrolled"),
        ("deepgsr-noise", "noise", "noise-estimator"),
    ],
)
def test_a_network_of_another_kind_is_refused(tmp_path, weights, task, kind):
    result = export(weights, "-o", tmp_path / "w.onnx")
    assert result.exit_code == 2
    sentence = f"WEIGHTS {weights}: trained for {task}, a network of the kind {kind}, and"
    assert sentence in " ".join(result.output.split())
    assert not (tmp_path / "w.onnx").exists()


def test_a_file_that_ends_otherwise_is_refused(tmp_path):
    result = export("deepgsr-gray-fast", "-o", tmp_path / "w.png")
    assert result.exit_code == 2
    assert "give a file that ends in .onnx" in " ".join(result.output.split())
    assert not (tmp_path / "w.png").exists()


def test_a_file_that_is_there_is_kept_unless_told(tmp_path):
    saved(tmp_path / "w.safetensors", PLAIN)
    target = tmp_path / "w.onnx"
    target.write_text("mine")
    assert export(tmp_path / "w.safetensors", "-o", target).exit_code == 1
    assert target.read_text() == "mine"
    assert export(tmp_path / "w.safetensors", "-o", target, "--overwrite").exit_code == 0
    assert export(tmp_path / "w.safetensors", "-o", target, "--format", "tflite").exit_code == 2
