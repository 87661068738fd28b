import csv
import dataclasses
import math

import numpy as np
import pytest
import torch
from conftest import smooth_picture

from deepgsr_cli.data import Crops, picture_paths, read_channels
from deepgsr_cli.errors import InputError, UsageError
from deepgsr_cli.images import Image, write_image
from deepgsr_cli.metrics import gray
from deepgsr_cli.train import TrainConfig, train
from deepgsr_cli.weights import load_checkpoint


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(4):
        write_image(folder / f"{i}.png", Image(smooth_picture(3, 70, 81, seed=i), "uint8", "PNG"))
    return folder


@pytest.fixture
def config(pictures, tmp_path, monkeypatch):
    """Eight steps of a tiny network."""
    import deepgsr_cli.train
    from deepgsr_cli.models import PRESETS

    tiny = dataclasses.replace(
        PRESETS["small"],
        widths=(8, 8),
        encoder=(1, 1),
        decoder=(1,),
        encoder_groups=(1, 0),
        decoder_groups=(1,),
        group_channels=2,
    )
    monkeypatch.setitem(deepgsr_cli.train.PRESETS, "tiny", tiny)
    return TrainConfig(
        (pictures,), tmp_path / "run", preset="tiny", held_out=1, steps=8, batch=2, patch=32,
        validate_every=3, device="cpu", learning_rate=3e-3, warmup=2,
    )  # fmt: skip


def weights_of(config):
    return load_checkpoint(config.output / "model.safetensors").model.state_dict()


def state_of(config):
    return torch.load(config.output / "state.pt", weights_only=True)


class Stop(KeyboardInterrupt):
    pass


def stop_at(step):
    def report(progress):
        if progress.step >= step:
            raise Stop

    return report


@pytest.mark.parametrize("step", [3, 6])
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(config, tmp_path, step):
    train(config)
    broken = dataclasses.replace(config, output=tmp_path / "broken")
    with pytest.raises(Stop):
        train(broken, report=stop_at(step))
    assert state_of(broken)["step"] == step
    train(broken, resume=True)
    whole, resumed = state_of(config), state_of(broken)
    for part in ("model", "average"):
        assert all(torch.equal(value, resumed[part][name]) for name, value in whole[part].items())
    moments = [
        [s[name] for s in x["optimizer"]["state"].values() for name in sorted(s)] for x in (whole, resumed)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*moments, strict=True))
    assert [row[3] for row in whole["rows"]] == [row[3] for row in resumed["rows"]]


def test_two_runs_with_one_seed_agree_and_another_seed_does_not(config, tmp_path):
    results = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run = dataclasses.replace(config, output=tmp_path / name, seed=seed)
        train(run)
        results.append(weights_of(run))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    assert not all(torch.equal(results[0][name], results[2][name]) for name in results[0])


@pytest.mark.parametrize("loss", ["charbonnier", "mse"])
def test_training_lowers_the_error_on_held_out_pictures(config, loss):
    config = dataclasses.replace(config, steps=100, validate_every=50, batch=4, loss=loss, learning_rate=1e-2)
    train(config)
    with (config.output / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    noisy = np.mean([-20 * math.log10(75 * part / 255) for part in (0.2, 1 / 3, 2 / 3)])
    assert float(rows[-1]["validation_psnr_db"]) > noisy + 2  # clipping alone gives less than 1
    assert (config.output / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_checkpoint_says_what_it_was_trained_on(config):
    train(config)
    info = load_checkpoint(config.output / "model.safetensors").info
    assert info["task"] == "denoise"
    assert info["training_data"].startswith("3 pictures, fingerprint ")
    assert '"sigma_max": 75.0' in info["train_config"]
    # What a trainer's folders are called is nobody's business.
    assert str(config.data[0].parent) not in info["train_config"]


def test_a_run_can_start_from_weights(config, tmp_path):
    train(config)
    first = weights_of(config)
    start = config.output / "model.safetensors"
    again = dataclasses.replace(config, output=tmp_path / "next", start=start, steps=1, learning_rate=1e-12)
    train(again)
    for name, value in weights_of(again).items():
        torch.testing.assert_close(value, first[name], rtol=0, atol=1e-6)


def test_weights_of_another_shape_give_what_fits(config, tmp_path):
    train(config)
    first = weights_of(config)
    start = config.output / "model.safetensors"
    colour = dataclasses.replace(
        config, output=tmp_path / "next", start=start, steps=1, learning_rate=1e-12, channels=3
    )
    train(colour)
    other = weights_of(colour)
    taken = [name for name, value in other.items() if value.shape == first[name].shape]
    assert len(taken) == len(other) - 3  # the first and last convolutions' weights, the last one's bias
    for name in taken:
        torch.testing.assert_close(other[name], first[name], rtol=0, atol=1e-6)


def test_time_bounds_a_run(config):
    end = train(dataclasses.replace(config, steps=10**9, max_minutes=0.02))
    assert end.share == 1
    assert end.step < 10**6


def test_a_folder_with_a_run_is_not_overwritten(config):
    train(config)
    with pytest.raises(UsageError, match="holds a run already; add --resume"):
        train(config)
    other = dataclasses.replace(config, batch=3)
    with pytest.raises(UsageError, match="the run has --batch 2, now it is 3"):
        train(other, resume=True)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"preset": "huge"}, "--preset huge: known are small, paper"),
        ({"loss": "l3"}, "--loss l3: known are charbonnier, mse"),
        ({"sigma_min": 80.0}, "--sigma-min 80 --sigma-max 75: give 0 <="),
        ({"steps": 0}, "--steps 0: give more than 0"),
        ({"precision": "fp8"}, "--precision fp8"),
        ({"scales": (0.5, 1.0)}, "--scale 1: give factors between 0 and 1"),
        ({"scenes": -1}, "--scenes -1: give 0 or more"),
    ],
)
def test_options_out_of_range_are_named(config, change, sentence):
    with pytest.raises(UsageError, match=sentence):
        dataclasses.replace(config, **change)


def test_too_few_or_too_small_pictures_are_refused(config):
    with pytest.raises(InputError, match="4 pictures, of which 3 would be held out"):
        train(dataclasses.replace(config, held_out=3))
    with pytest.raises(InputError, match=r"81 x 70 pixels are less than a crop of 71"):
        train(dataclasses.replace(config, patch=71))


def turned(x, turn):
    """One of the eight orientations of a square."""
    return (x.mT if turn % 2 else x).rot90(turn // 2, (-2, -1))


def test_crops_are_a_function_of_the_generator_in_any_of_eight_orientations(tmp_path):
    write_image(tmp_path / "a.png", Image(smooth_picture(3, 34, 37), "uint8", "PNG"))
    crops = Crops([tmp_path / "a.png"], 3, 32, torch.device("cpu"))
    first, second = (crops(200, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    whole = torch.from_numpy(read_channels(tmp_path / "a.png", 3))
    found = set()
    for crop in first:
        places = [
            (turn, top, left)
            for turn in range(8)
            for top in range(3)
            for left in range(6)
            if torch.allclose(crop, turned(whole[:, top : top + 32, left : left + 32], turn), atol=1e-6)
        ]
        assert len(places) == 1
        found.update(places)
    assert {turn for turn, _, _ in found} == set(range(8))
    assert {(top, left) for _, top, left in found} == {(top, left) for top in range(3) for left in range(6)}


def test_smaller_copies_and_scenes_join_the_pictures(tmp_path):
    picture = smooth_picture(3, 70, 90)
    write_image(tmp_path / "a.png", Image(picture, "uint8", "PNG"))
    device = torch.device("cpu")
    paths = [tmp_path / "a.png"]
    crops = Crops(paths, 3, 32, device, scales=(0.5, 0.3), scenes=2, seed=4)
    assert [tuple(p.shape) for p in crops.pictures] == [
        (3, 70, 90), (3, 384, 384), (3, 384, 384), (3, 35, 45),  # at 0.3 less than a crop
    ]  # fmt: skip
    means = torch.from_numpy(picture).unfold(1, 2, 2).unfold(2, 2, 2).mean((-2, -1)) * 255
    assert (crops.pictures[3].float() - means).abs().mean() < 1
    again = Crops(paths, 3, 32, device, scenes=2, seed=4)
    assert torch.equal(again.pictures[1], crops.pictures[1])
    assert not torch.equal(crops.pictures[1], crops.pictures[2])


def test_gray_training_data_is_the_luma_rounded_to_8_bits(pictures):
    path = picture_paths(pictures)[0]
    colour = read_channels(path, 3)
    assert np.array_equal(read_channels(path, 1), np.rint(gray(colour) * 255) / np.float32(255))
