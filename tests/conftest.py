"""What several test files use: a small model's weights, pictures, and the command line in a process."""

import contextlib
import functools
import gc
import multiprocessing
import os
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pydicom
import pytest
import torch
import typer.testing

from deepgsr_cli.compute import precision
from deepgsr_cli.ct.methods import ITERATIONS
from deepgsr_cli.ct.reconstruction import Reconstruction
from deepgsr_cli.formats.image import Image, write_image
from deepgsr_cli.models import NSR, PRESETS, DeepGSR, NSRConfig
from deepgsr_cli.pictures import restorer
from deepgsr_cli.tasks import train
from deepgsr_cli.training import loop
from deepgsr_cli.weights.checkpoint import save_checkpoint
from tests.forks import FORKS
from tests.samples import TINY, short_run, smooth_picture, tiny_demosaicker, tiny_model
from tests.waiting import META


def pytest_configure(config):
    """Give each worker of pytest-xdist one thread: they inherit the environment before they import torch."""
    if getattr(config.option, "numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give each worker of pytest-xdist whole files, whose fixtures are then made once."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log) if config.getvalue("dist") == "load" else None


def pytest_collection_finish():
    """Spare the garbage collector the modules and tests, which stay until the end."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def draw_curve():
    """Draw no curve of the short runs of tests, which takes longer than the runs; returns what does."""
    with pytest.MonkeyPatch.context() as patch:
        draw = loop._draw_curve
        patch.setattr(loop, "_draw_curve", lambda target, rows: None)
        yield draw


@pytest.fixture(scope="session", autouse=True)
def compared():
    """Have total variation, which a report of ct-recon shows beside the result, take 20 iterations for 300;
    returns what takes all."""
    with pytest.MonkeyPatch.context() as patch:
        beside = Reconstruction._beside

        def briefly(work, *arguments):
            with pytest.MonkeyPatch.context() as short:
                short.setitem(ITERATIONS, "tv", 20)
                return beside(work, *arguments)

        patch.setattr(Reconstruction, "_beside", briefly)
        yield beside


@pytest.fixture(scope="session", autouse=True)
def same_everywhere():
    """Have --precision auto be fp32, as on most machines: results are compared to the last bit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "has_bf16_units", lambda: False)
        yield


@pytest.fixture(scope="session", autouse=True)
def built_once():
    """Let CliRunner build the commands of an app once, which takes longer than most of them run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.testing, "_get_command", functools.cache(typer.testing._get_command))
        yield


@pytest.fixture
def on_meta(monkeypatch):
    """A device where nothing has a value, for `NoWaiting`; it has no autocast."""
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: contextlib.nullcontext())
    return META


@pytest.fixture
def forked(monkeypatch):
    """Have the processes of a run, those of Dask too, begin with torch imported."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda method=None: FORKS)


@pytest.fixture(scope="session")
def small_examples(tmp_path_factory):
    """The samples, with a sixth of the pictures and coarse slices of CT, in which commands do what they do in
    the whole."""
    folder = tmp_path_factory.mktemp("small") / "examples"
    shutil.copytree(Path(__file__).parent.parent / "examples", folder)
    for path in [*folder.glob("*.png"), *folder.glob("*.jpg")]:
        with PIL.Image.open(path) as picture:
            left, top, width, height = 140, 60, 170 + picture.width % 2, 130
            part = picture.crop((left, top, left + width, top + height))
            tables = getattr(picture, "quantization", None)
        part.save(path, **({} if tables is None else {"qtables": tables, "subsampling": "4:2:0"}))
    for path in folder.glob("ct/*.dcm"):
        file = pydicom.dcmread(path)
        coarse = file.pixel_array[::4, ::4]
        file.PixelSpacing = [4 * float(size) for size in file.PixelSpacing]
        file.set_pixel_data(np.ascontiguousarray(coarse), file.PhotometricInterpretation, file.BitsStored)
        file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        file.save_as(path)
    for name, fine, few in (
        ("scan", "shape = [512, 512]", "shape = [128, 128]"),
        ("scan", "pixel_mm = [0.78125, 0.78125]", "pixel_mm = [3.125, 3.125]"),
        ("implant", "shape = [256, 256]", "shape = [128, 128]"),
        ("implant", "pixel_mm = [1.25, 1.25]", "pixel_mm = [2.5, 2.5]"),
    ):
        text = (folder / f"{name}.toml").read_text(encoding="utf-8")
        assert fine in text
        (folder / f"{name}.toml").write_text(text.replace(fine, few), encoding="utf-8")
    return folder


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


@pytest.fixture(scope="session")
def jpeg_weights(tmp_path_factory):
    """Checkpoint files of tiny models for JPEG by channel count."""
    folder = tmp_path_factory.mktemp("jpeg")
    paths = {channels: folder / f"tiny-{channels}.safetensors" for channels in (1, 3)}
    for channels, path in paths.items():
        save_checkpoint(path, tiny_model(channels, conditions=5), info={"task": "dejpeg"})
    return paths


@pytest.fixture(scope="session")
def mosaic_weights(tmp_path_factory):
    """Checkpoint file of a tiny model that demosaicks."""
    path = tmp_path_factory.mktemp("mosaic") / "tiny-demosaick.safetensors"
    info = {"task": "demosaick", "train_config": '{"sigma_max": 20}'}
    save_checkpoint(path, tiny_demosaicker(), info=info)
    return path


@pytest.fixture(scope="session")
def ct_weights(tmp_path_factory):
    """Checkpoint file of a tiny network for CT slices, without groups."""
    path = tmp_path_factory.mktemp("ct") / "tiny-ct.safetensors"
    torch.manual_seed(0)
    model = DeepGSR(TINY.without_groups()).eval()
    torch.nn.init.normal_(model.tail.weight, std=0.02)
    save_checkpoint(path, model, info={"task": "ct-denoise"})
    return path


@pytest.fixture(scope="session")
def upscale_weights(tmp_path_factory):
    """Checkpoint file of a tiny network that enlarges, with random weights that change a picture visibly."""
    torch.manual_seed(0)
    model = NSR(NSRConfig(scales=(2, 3, 4), width=8, blocks=1))
    torch.nn.init.constant_(model.tail.gain, 0.2)
    path = tmp_path_factory.mktemp("enlarging") / "tiny.safetensors"
    save_checkpoint(path, model, info={"task": "upscale"})
    return path


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder with four small colour pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(4):
        write_image(folder / f"{i}.png", Image(smooth_picture(3, 70, 81, seed=i), "uint8", "PNG"))
    return folder


@pytest.fixture
def free_bytes_given(monkeypatch):
    """Free memory that tiles are chosen for, a number a call, on a machine that has 12 GiB of it."""
    given = []

    def choose(*size, free_bytes, **options):
        given.append(free_bytes)
        return 0, 1

    monkeypatch.setattr(restorer, "free_memory", lambda device: 12 << 30)
    monkeypatch.setattr(restorer, "choose_tile", choose)
    return given


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
