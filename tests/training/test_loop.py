import csv
import dataclasses
import hashlib
import math
import os
import shutil
import signal

import numpy as np
import pytest
import torch

import deepgsr_cli.pictures.training
from deepgsr_cli.errors import DivergenceError, InputError, OptionError, OutputError, UsageError
from deepgsr_cli.files import atomic_write
from deepgsr_cli.formats.codecs import gray
from deepgsr_cli.formats.image import Image, picture_paths, read_channels, write_image
from deepgsr_cli.models import PRIORS
from deepgsr_cli.pictures.dataset import Crops, read_pictures, smaller_copies
from deepgsr_cli.pictures.training import PRESETS_OF, PictureTraining, joined, split_pictures
from deepgsr_cli.tasks import train
from deepgsr_cli.training import loop
from deepgsr_cli.training.task import Draw
from tests.samples import check_resumed_equals_unbroken, load_checkpoint, smooth_picture, state_of, weights_of


@pytest.mark.parametrize("step", [3, 6])
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(config, trained, step):
    check_resumed_equals_unbroken(config, step, trained)


@pytest.mark.parametrize(
    "place", ["Descent._move", "_Run.validate", "save_checkpoint", "_write_log", "torch.save"]
)
def test_a_run_that_is_interrupted_anywhere_goes_on_as_if_it_was_not(config, trained, monkeypatch, place):
    owner = loop if "." not in place else getattr(loop, place.split(".")[0])
    name, calls = place.split(".")[-1], []
    do = getattr(owner, name)

    def interrupted(*arguments, **options):
        calls.append(name)
        if len(calls) == 3:  # of the validations, the last one
            signal.raise_signal(signal.SIGINT)
        return do(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    assert len(calls) >= 3
    train(config, resume=True)
    for name, value in state_of(trained)["average"].items():
        assert torch.equal(state_of(config)["average"][name], value), name
    for name, value in weights_of(trained).items():
        assert torch.equal(weights_of(config)[name], value), name
    logs = [list(csv.DictReader((run.output / "log.csv").open())) for run in (config, trained)]
    assert [row | {"seconds": 0} for row in logs[0]] == [row | {"seconds": 0} for row in logs[1]]


def test_a_damaged_state_is_one_sentence_and_what_a_killed_run_left_goes(config, trained):
    shutil.copytree(trained.output, config.output)
    state = config.output / "state.pt"
    with atomic_write(state) as temporary:
        temporary.write_bytes(state.read_bytes())
    temporary.write_bytes(b"half")
    os.utime(temporary, (0, 0))
    train(dataclasses.replace(config, steps=trained.steps), resume=True)
    assert not temporary.exists()
    whole = state.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no state", bytes(len(whole))):
        state.write_bytes(damaged)
        with pytest.raises(InputError, match=r"state\.pt: is damaged .*by start"):
            train(config, resume=True)


def test_two_runs_with_one_seed_agree_and_another_seed_does_not(config, trained, tmp_path):
    results = [weights_of(trained)]
    for name, seed in (("b", 0), ("c", 1)):
        run = dataclasses.replace(config, output=tmp_path / name, seed=seed)
        train(run)
        results.append(weights_of(run))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    assert not all(torch.equal(results[0][name], results[2][name]) for name in results[0])


@pytest.mark.parametrize("loss", ["charbonnier", "mse", "psnr"])
def test_training_lowers_the_error_on_held_out_pictures(config, loss):
    config = dataclasses.replace(config, steps=60, validate_every=60, batch=4, loss=loss, learning_rate=1e-2)
    train(config)
    with (config.output / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    noisy = np.mean([-20 * math.log10(75 * part / 255) for part in (0.2, 1 / 3, 2 / 3)])
    assert float(rows[-1]["validation_psnr_db"]) > noisy + 2  # clipping alone gives less than 1


def test_a_run_that_diverges_ends_with_a_sentence_and_keeps_its_weights(config):
    config = dataclasses.replace(config, steps=2, validate_every=1)
    train(config)
    state = torch.load(config.output / "state.pt", weights_only=True)
    for part in ("model", "average"):
        for tensor in state[part].values():
            tensor.fill_(math.nan)
    torch.save(state, config.output / "state.pt")
    kept = [config.output / name for name in ("model.safetensors", "state.pt", "log.csv")]
    before = [path.read_bytes() for path in kept]
    with pytest.raises(DivergenceError, match="step 3: the weights are no numbers any more; give a lower"):
        train(dataclasses.replace(config, steps=4), resume=True)
    assert [path.read_bytes() for path in kept] == before


def test_a_run_draws_its_curve(config, draw_curve, monkeypatch):
    monkeypatch.setattr(loop, "_draw_curve", draw_curve)
    train(dataclasses.replace(config, steps=2, validate_every=1))
    assert (config.output / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_checkpoint_says_what_it_was_trained_on(trained):
    info = load_checkpoint(trained.output / "model.safetensors").info
    assert info["task"] == "denoise"
    assert info["training_data"].startswith("3 pictures, fingerprint ")
    assert '"sigma_max": 75.0' in info["train_config"]
    # What a trainer's folders are called is nobody's business.
    assert str(trained.data[0].parent) not in info["train_config"]


def test_a_run_can_start_from_weights(config, trained):
    first = weights_of(trained)
    start = trained.output / "model.safetensors"
    again = dataclasses.replace(config, start=start, steps=1, learning_rate=1e-12)
    train(again)
    for name, value in weights_of(again).items():
        torch.testing.assert_close(value, first[name], rtol=0, atol=1e-6)


def test_weights_of_another_shape_give_what_fits(config, trained):
    first = weights_of(trained)
    start = trained.output / "model.safetensors"
    colour = dataclasses.replace(config, start=start, steps=1, learning_rate=1e-12, channels=3)
    train(colour)
    other = weights_of(colour)
    taken = [name for name, value in other.items() if value.shape == first[name].shape]
    assert len(taken) == len(other) - 3  # the first and last convolutions' weights, the last one's bias
    for name in taken:
        torch.testing.assert_close(other[name], first[name], rtol=0, atol=1e-6)


def test_time_bounds_a_run(config):
    end = train(dataclasses.replace(config, steps=10**9, max_minutes=0.004))
    assert end.share == 1
    assert end.step < 10**6


def test_a_file_in_place_of_the_folder_is_one_sentence(config, pictures):
    with pytest.raises(OutputError, match=r"0\.png: the folder cannot be made, .*; give another -o"):
        train(dataclasses.replace(config, output=pictures / "0.png"))


def test_a_folder_with_a_run_is_not_overwritten(config, trained):
    with pytest.raises(UsageError, match="holds a run already; add resume to go on"):
        train(dataclasses.replace(config, output=trained.output))
    other = dataclasses.replace(config, output=trained.output, batch=3)
    with pytest.raises(UsageError, match="the run has batch=2, now it is 3"):
        train(other, resume=True)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"preset": "huge"}, "--preset huge: known are small, base, wide, deep, collaborative, paper"),
        ({"task": "derain", "preset": "collaborative"}, "--preset collaborative: its filter has to know"),
        ({"loss": "l3"}, "--loss l3: known are charbonnier, mse, psnr"),
        ({"sigma_min": 80.0}, "--sigma-min 80: give 0 to --sigma-max, 75"),
        ({"sigma_max": 300.0}, "--sigma-max 300: give 0 to 255"),
        ({"channels": 2}, "--channels 2: give 1 for gray or 3 for colour"),
        ({"clipped": 1.5}, "--clipped 1.5: give a share from 0 to 1"),
        ({"model": "unet"}, "--model unet: known are deepgsr, groupsc, nsr"),
        ({"model": "nsr", "preset": "base"}, "--preset base: known are small, sparse, paper, paper-denoise"),
        (
            {"model": "nsr", "preset": "paper"},
            "--preset paper: it enlarges 2 times, and denoise does not enlarge; give small or sparse or",
        ),
        ({"steps": 0}, "--steps 0: give more than 0"),
        ({"precision": "fp8"}, "--precision fp8"),
        ({"scales": (0.5, 1.0)}, "--scale 1: give factors between 0 and 1"),
        ({"scenes": -1}, "--scenes -1: give 0 or more"),
        ({"ema": math.nan}, "--ema nan: give 0 or more, and less than 1"),
        ({"ema": 1.0}, "--ema 1: give 0 or more"),
        ({"clip": math.nan}, "--clip nan: give more than 0"),
        ({"weight_decay": math.inf}, "--weight-decay inf: give 0 to 1"),
        ({"learning_rate": math.inf}, "--learning-rate inf: give more than 0, and at most 1"),
        ({"warmup": -1}, "--warmup -1: give 0 or more"),
        ({"batch": 10**20}, "--batch 100000000000000000000: give 1 to 1000000"),
        ({"patch": 1}, "--patch 1: give 16 or more"),
        ({"seed": 2**32}, "--seed 4294967296: give 0 to 4294967295"),
    ],
)
def test_options_out_of_range_are_named(config, change, sentence):
    with pytest.raises(OptionError) as caught:
        train(dataclasses.replace(config, **change))
    assert caught.value.for_command_line().startswith(sentence)


def test_pictures_that_are_validated_on_are_not_trained_on(config, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(config.data[0], folder)
    config = dataclasses.replace(config, data=(folder,))
    below = folder / "validation"
    below.mkdir()
    shutil.copy(picture_paths(folder)[0], below / "another.png")
    paths = picture_paths(folder)
    training, held_out = split_pictures(dataclasses.replace(config, validation=below))
    assert held_out == [below / "another.png"]
    assert training == [path for path in paths if path != held_out[0]]
    with pytest.raises(InputError, match="has no files but those of"):
        split_pictures(dataclasses.replace(config, validation=folder))


def test_too_few_or_too_small_pictures_are_refused(config):
    with pytest.raises(
        InputError, match=r"4 pictures, of which 3 would be held out .*, and half at most can be;"
    ):
        train(dataclasses.replace(config, held_out=3))
    with pytest.raises(
        InputError, match=r"81 x 70 pixels are less than a crop of 71; leave the file, and 2 more such, out"
    ):
        train(dataclasses.replace(config, patch=71))


def turned(x, turn):
    """One of the eight orientations of a square."""
    return (x.mT if turn % 2 else x).rot90(turn // 2, (-2, -1))


def test_crops_are_a_function_of_the_generator_in_any_of_eight_orientations(tmp_path):
    write_image(tmp_path / "a.png", Image(smooth_picture(3, 34, 37), "uint8", "PNG"))
    crops = Crops(read_pictures([tmp_path / "a.png"], 3, 32), 32, torch.device("cpu"))
    first, second = (crops(200, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    whole = torch.from_numpy(read_channels(tmp_path / "a.png", 3))
    known = [(turn, top, left) for turn in range(8) for top in range(3) for left in range(6)]
    cuts = torch.stack([turned(whole[:, y : y + 32, x : x + 32], turn) for turn, y, x in known])
    found = set()
    for crop in first:
        places = torch.isclose(cuts[:, 0], crop[0], atol=1e-6).all((1, 2)).nonzero()[:, 0].tolist()
        assert len(places) == 1
        torch.testing.assert_close(crop, cuts[places[0]], rtol=1e-5, atol=1e-6)
        found.add(known[places[0]])
    assert {turn for turn, _, _ in found} == set(range(8))
    assert {(top, left) for _, top, left in found} == {(top, left) for top in range(3) for left in range(6)}


def test_smaller_copies_keep_the_picture():
    picture = np.rint(smooth_picture(3, 70, 90) * 255).astype(np.uint8)
    (half,) = smaller_copies([picture], (0.5, 0.3), 32)  # at 0.3 it is less than a crop
    means = picture.reshape(3, 35, 2, 45, 2).mean((2, 4))
    assert half.shape == means.shape
    assert np.abs(half - means).mean() < 1


def test_scenes_and_smaller_copies_join_the_pictures(config):
    plain = PictureTraining(config, torch.device("cpu")).crops.pictures
    more = PictureTraining(
        dataclasses.replace(config, scales=(0.5,), scenes=2), torch.device("cpu")
    ).crops.pictures
    assert [tuple(p.shape) for p in plain] == [(1, 70, 81)] * 3
    assert [tuple(p.shape) for p in more[3:]] == [(1, 384, 384)] * 2 + [(1, 35, 40)] * 3


@pytest.fixture
def rainy_pairs(tmp_path):
    for name in ("rain", "clean"):
        (tmp_path / "pairs" / name).mkdir(parents=True)
    for i in range(4):
        clean = smooth_picture(3, 40, 48, seed=i)
        write_image(tmp_path / f"pairs/clean/{i}.png", Image(clean, "uint8", "PNG"))
        write_image(tmp_path / f"pairs/rain/{i}.png", Image(clean / 2 + 0.5, "uint8", "PNG"))
    return tmp_path / "pairs"


def test_pairs_are_cropped_and_turned_together(config, rainy_pairs):
    config = dataclasses.replace(config, data=(), pairs=(rainy_pairs,), task="derain", channels=3, batch=20)
    sample = PictureTraining(config, torch.device("cpu")).sample(draw())
    torch.testing.assert_close(sample.degraded, sample.clean / 2 + 0.5, rtol=0, atol=1.1 / 255)
    assert len(sample.shown) == 1


def test_both_kinds_of_rain_are_in_a_batch(config, rainy_pairs):
    config = dataclasses.replace(config, pairs=(rainy_pairs,), task="derain", channels=3, batch=100)
    sample = PictureTraining(config, torch.device("cpu")).sample(draw())
    assert sample.degraded.shape == sample.clean.shape == (100, 3, 32, 32)
    paired = ((sample.degraded - sample.clean / 2 - 0.5).abs() < 1.1 / 255).all((1, 2, 3)).sum()
    assert 15 < paired < 45  # 30 are expected


@pytest.mark.parametrize(("model", "shape"), [("groupsc", {"steps": 2, "atoms": 16}), ("nsr", {"blocks": 2})])
def test_other_models_learn_to_denoise(config, monkeypatch, model, shape):
    tiny = dataclasses.replace(PRESETS_OF[model]["small"], **shape)
    monkeypatch.setitem(PRESETS_OF[model], "tiny", tiny)
    end = train(dataclasses.replace(config, model=model, steps=120, validate_every=60, batch=4, ema=0.9))
    assert end.best > end.psnr_given + 1
    checkpoint = load_checkpoint(config.output / "model.safetensors")
    assert isinstance(checkpoint.model, PRIORS[model])
    assert checkpoint.model.config.conditions == 2


def test_a_run_tells_of_its_validations_and_of_the_noisy_input(config):
    told = []
    end = train(config, report=told.append)
    assert [p.step for p in told if p.validated] == [3, 6, 8]
    assert end.given == "the noisy input"
    task = PictureTraining(config, torch.device("cpu"))
    mse = [(s.degraded.clamp(0, 1) - s.clean).square().mean() for s in task.validation()]
    # Rounding to 8 bits, which the figure has, is less than a hundredth of a dB here.
    assert end.psnr_given == pytest.approx(float(np.mean([-10 * math.log10(x) for x in mse])), abs=0.02)


def test_a_blind_batch_has_rain_noise_and_both(config, rainy_pairs):
    config = dataclasses.replace(
        config,
        data=(),
        pairs=(rainy_pairs,),
        task="restore",
        channels=3,
        batch=90,
        sigma_min=20,
        sigma_max=20,
        clipped=0.0,
    )
    sample = PictureTraining(config, torch.device("cpu")).sample(draw())
    kinds = [0, 0, 0]
    for degraded, clean in zip(sample.degraded, sample.clean):
        for kind, under in enumerate((clean, clean / 2 + 0.5)):
            if (degraded - under).square().mean().sqrt() * 255 == pytest.approx(20, rel=0.1):
                kinds[kind] += 1
        kinds[2] += bool(((degraded - clean / 2 - 0.5).abs() < 1.1 / 255).all())
    assert sum(kinds) == 90
    assert min(kinds) > 15


def test_a_share_of_the_noise_of_a_blind_batch_is_clipped_as_in_a_file(config):
    config = dataclasses.replace(
        config, task="restore", channels=3, batch=60, sigma_min=50, sigma_max=50, clipped=1.0
    )
    task = PictureTraining(config, torch.device("cpu"))
    levels = [255 * x.degraded for x in (task.sample(draw()), *task.validation())]
    assert all(float((x - x.round()).abs().max()) < 1e-4 for x in levels)
    assert all(float(x.min()) >= 0 and float(x.max()) <= 255 for x in levels)
    half = PictureTraining(dataclasses.replace(config, clipped=0.5), torch.device("cpu")).sample(draw())
    rounded = ((255 * half.degraded - (255 * half.degraded).round()).abs() < 1e-3).flatten(1).all(1)
    assert 30 < int(rounded.sum()) < 52  # a third has no noise, and half of the others


def draw():
    return Draw.of(torch.device("cpu"), 0, 0)


def test_pictures_without_a_partner_are_refused(config, rainy_pairs):
    (rainy_pairs / "clean/2.png").unlink()
    config = dataclasses.replace(config, pairs=(rainy_pairs,), task="derain")
    with pytest.raises(InputError, match=r"pairs: 2 is not both in rain and in clean \(1 such pictures\)"):
        train(config)


def test_scenes_of_rain_test_sets_are_left_out_of_derain_alone(config, pictures, monkeypatch):
    paths = picture_paths(pictures)
    digest = hashlib.sha256(paths[0].read_bytes()).hexdigest()
    monkeypatch.setattr(deepgsr_cli.pictures.training, "rain_test_scenes", lambda: {digest})
    config = dataclasses.replace(config, channels=3)
    device = torch.device("cpu")
    assert len(PictureTraining(config, device).crops.pictures) == 3
    for task in ("derain", "restore"):
        found = PictureTraining(dataclasses.replace(config, task=task), device)
        assert len(found.crops.pictures) == 2
        assert found.summary.startswith("2 pictures")
        assert found.summary.endswith("1 scenes of rain test sets left out")


def test_the_shipped_list_names_79_scenes():
    assert len(deepgsr_cli.pictures.training.rain_test_scenes()) == 79


def test_gray_training_data_is_the_luma_rounded_to_8_bits(pictures):
    path = picture_paths(pictures)[0]
    colour = read_channels(path, 3)
    assert np.array_equal(read_channels(path, 1), np.rint(gray(colour) * 255) / np.float32(255))


@pytest.mark.parametrize("channels", [1, 3])
def test_gathered_crops_equal_cut_and_turned_ones(channels):
    pictures = [
        np.rint(smooth_picture(channels, h, w) * 255).astype(np.uint8) for h, w in ((40, 51), (33, 32))
    ]
    crops = Crops(pictures, 32, torch.device("cpu"))
    found = crops(50, torch.Generator().manual_seed(1))

    generator = torch.Generator().manual_seed(1)
    chosen = torch.multinomial(crops.shares, 50, replacement=True, generator=generator)
    for crop, i, (u, v, w) in zip(found, chosen, torch.rand(50, 3, generator=generator).tolist()):
        picture = torch.from_numpy(pictures[i])
        top, left = int(u * (picture.shape[1] - 31)), int(v * (picture.shape[2] - 31))
        cut = picture[:, top : top + 32, left : left + 32]
        turn = int(w * 8)
        cut = (cut.mT if turn & 1 else cut).flip([d for d, bit in ((1, 2), (2, 4)) if turn & bit])
        assert torch.equal(crop, cut.float() / 255)


def test_samples_of_one_size_are_validated_together(config):
    task = PictureTraining(dataclasses.replace(config, held_out=2), torch.device("cpu"))
    model = task.network().eval()
    torch.nn.init.normal_(model.tail.weight, std=0.01)
    samples = task.validation()
    batches = joined(samples, 8)
    assert [len(batch.clean) for batch in batches] == [8, 4]
    with torch.inference_mode():
        alone = [task.psnr(model, sample) for sample in samples]
        together = [task.psnr(model, batch) for batch in batches]
    assert np.average(together, weights=[8, 4]) == pytest.approx(np.mean(alone), abs=1e-3)
