"""What several test files use: pictures, slices, small models and checks of training runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import h5py
import imagecodecs
import numpy as np
import pytest
import scipy.io
import torch
from pydicom import uid as uids
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, generate_uid

from deepgsr_cli.ct import network as ct_network
from deepgsr_cli.errors import WeightsError
from deepgsr_cli.mar import network as mar_network
from deepgsr_cli.models import PRESETS, PRIORS, DeepGSR
from deepgsr_cli.models.noise_estimator import NoiseEstimator
from deepgsr_cli.phase import network as phase_network
from deepgsr_cli.pictures import rain
from deepgsr_cli.tasks import train
from deepgsr_cli.training.config import TrainConfig
from deepgsr_cli.weights import checkpoint
from deepgsr_cli.weights.checkpoint import Checkpoint, save_checkpoint

TINY = dataclasses.replace(
    PRESETS["small"],
    widths=(8, 8),
    encoder=(1, 1),
    decoder=(1,),
    encoder_groups=(1, 0),
    decoder_groups=(1,),
    group_channels=2,
)


def in_rain(clean: np.ndarray, seed: int = 1) -> np.ndarray:
    """A picture, (C, H, W) in [0, 1], in rain of the light kind, of 8 bits."""
    generator = torch.Generator().manual_seed(seed)
    layers, _ = rain.draw_layers(1, generator)
    layers = layers._replace(
        angle_rad=torch.full((1, 1), 0.15),
        length_px=torch.full((1, 1), 25.0),
        sigma_px=torch.full((1, 1), 0.7),
        taper=torch.full((1, 1), 0.4),
        density=torch.full((1, 1), 0.006),
        offset=torch.zeros(1, 1),
        gain=torch.full((1, 1), 1.5),
        opacity=torch.full((1, 1), 0.5),
    )
    streaks = rain.streaks(rain.Layers(*(x[0] for x in layers)), clean.shape[1:], generator)
    return np.rint((clean + streaks.numpy()).clip(0, 1) * 255).astype(np.float32) / 255


def tiny_model(channels: int, seed: int = 0, conditions: int = 1, **fields: object) -> DeepGSR:
    """A network of the shipped kind, small, with random weights that change a picture visibly.

    Args:
        channels: Channels of its pictures.
        seed: Seed of its weights.
        conditions: Numbers it is told.
        fields: Of its configuration, in place of those of `TINY`.
    """
    config = dataclasses.replace(TINY, channels=channels, conditions=conditions, **fields)
    torch.manual_seed(seed)
    model = DeepGSR(config).eval()
    with torch.no_grad():
        model.tail.weight.normal_(std=0.02)
    return model


def tiny_demosaicker(seed: int = 0) -> DeepGSR:
    """A network like `tiny_model`, without groups, that demosaicks."""
    config = dataclasses.replace(TINY.without_groups(), channels=3, conditions=1, mosaic=True)
    torch.manual_seed(seed)
    model = DeepGSR(config).eval()
    with torch.no_grad():
        model.tail.weight.normal_(std=0.02)
    return model


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


def short_run(pictures: Path, output: Path) -> TrainConfig:
    """Eight steps of a tiny network; PRESETS must have it."""
    return TrainConfig(
        data=(pictures,), output=output, preset="tiny", held_out=1, steps=8, batch=2, patch=32,
        validate_every=3, device="cpu", learning_rate=3e-3, warmup=2,
    )  # fmt: skip


def weights_of(config: TrainConfig) -> dict[str, torch.Tensor]:
    """The tensors that a run has saved."""
    return load_checkpoint(config.output / "model.safetensors").model.state_dict()


def load_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint of a network of any task."""
    kinds = PRIORS | ct_network.KINDS | mar_network.KINDS | phase_network.KINDS
    return checkpoint.load_checkpoint(path, kinds | {"noise-estimator": NoiseEstimator})


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


STUDY, SERIES, FRAME = (generate_uid(entropy_srcs=[name]) for name in ("study", "series", "frame"))
NATIVE = [uids.ImplicitVRLittleEndian, uids.ExplicitVRLittleEndian, uids.ExplicitVRBigEndian]
ENCODERS = {uids.JPEGLosslessSV1: imagecodecs.ljpeg_encode, uids.JPEGLSLossless: imagecodecs.jpegls_encode}
SYNTAXES = [*NATIVE, uids.DeflatedExplicitVRLittleEndian, uids.JPEG2000Lossless, uids.RLELossless, *ENCODERS]


def ct(stored: np.ndarray, *, bits: int = 16, signed: bool = True, **elements: object) -> Dataset:
    """A CT slice as a scanner writes it; an element that is None is left out."""
    slice = Dataset()
    slice.SOPClassUID = uids.CTImageStorage
    slice.SOPInstanceUID = generate_uid()
    slice.StudyInstanceUID, slice.SeriesInstanceUID, slice.FrameOfReferenceUID = STUDY, SERIES, FRAME
    slice.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    slice.Modality, slice.Manufacturer = "CT", "Scanner works"
    slice.PatientName, slice.PatientID = "Doe^Jane", "17"
    slice.SeriesDescription, slice.SeriesNumber, slice.InstanceNumber = "Thorax", 4, 1
    slice.PixelSpacing = ["0.8", "0.8"]
    slice.ImagePositionPatient = ["-20", "-15", "0"]
    slice.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    slice.RescaleSlope, slice.RescaleIntercept = "1", "-1024"
    slice.WindowCenter, slice.WindowWidth = "40", "400"
    slice.Rows, slice.Columns = stored.shape[-2:]
    slice.SamplesPerPixel, slice.PhotometricInterpretation = 1, "MONOCHROME2"
    slice.BitsAllocated, slice.BitsStored, slice.HighBit = 16, bits, bits - 1
    slice.PixelRepresentation = int(signed)
    slice.add_new("PixelData", "OW", stored.astype("<u2").tobytes())
    for keyword, value in elements.items():
        if value is None:
            del slice[keyword]
        else:
            setattr(slice, keyword, value)
    return slice


def saved(slice: Dataset, path: Path, syntax: UID = uids.ExplicitVRLittleEndian) -> Path:
    slice.file_meta = FileMetaDataset()
    slice.file_meta.TransferSyntaxUID = uids.ExplicitVRLittleEndian
    if syntax in ENCODERS:
        pixels = np.frombuffer(slice.PixelData, "<u2").reshape(slice.Rows, slice.Columns)
        slice.PixelData = encapsulate([ENCODERS[syntax](pixels & (2**slice.BitsStored - 1))])
        slice["PixelData"].is_undefined_length = True
    elif syntax.is_encapsulated:
        slice.compress(syntax, generate_instance_uid=False)
    elif syntax == uids.ExplicitVRBigEndian:
        slice.PixelData = np.frombuffer(slice.PixelData, "<u2").byteswap().tobytes()
    slice.file_meta.TransferSyntaxUID = syntax
    slice.save_as(path, enforce_file_format=True)
    return path


def saved_matlab(path: Path, fields: dict, version: str) -> Path:
    """Variables as MATLAB saves them, in version "5" or "7.3"; dictionaries are structures."""
    if version == "5":
        scipy.io.savemat(path, fields)
        return path
    with h5py.File(path, "w", userblock_size=512) as file:
        _matlab_group(file, fields)
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    return path


def _matlab_group(group: h5py.Group, fields: dict) -> None:
    """Members as in version 7.3: axes in reverse, texts as codes, complex numbers as pairs."""
    for name, value in fields.items():
        if isinstance(value, dict):
            _matlab_group(group.create_group(name), value)
            continue
        codes = np.array([[ord(c)] for c in value], np.uint16) if isinstance(value, str) else None
        array = np.atleast_2d(np.asarray(value)).T if codes is None else codes
        if array.dtype.kind == "c":
            pairs = np.empty(array.shape, [("real", "f8"), ("imag", "f8")])
            pairs["real"], pairs["imag"] = array.real, array.imag
            array = pairs
        group[name] = array
        group[name].attrs["MATLAB_class"] = np.bytes_(b"double" if codes is None else b"char")


SIZE, PIXEL_MM = 64, 4.0


def body_hu(shift: float = 0.0, size: int = SIZE) -> np.ndarray:
    """A smooth body in air with an organ and a bone, (size, size), whole numbers of HU as float32."""
    y, x = (np.mgrid[:size, :size] - (size - 1) / 2) * 64 / size

    def disk(row: float, column: float, radius: float) -> np.ndarray:
        return 1 / (1 + np.exp((np.hypot(y - row, x - column) - radius) / 1.2))

    hu = -1000 + 1000 * disk(0, 0, 24) + 60 * disk(5, -6 + shift, 8) + 500 * disk(-9, 6, 5)
    return np.rint(hu).astype(np.float32)


def saved_slice(path: Path, hu: np.ndarray, **elements: object) -> Path:
    stored = np.rint(hu + 1024).astype(int)
    spacing = [str(PIXEL_MM)] * 2
    return saved(
        ct(stored, **{"PixelSpacing": spacing, "ImagePositionPatient": ["0", "0", "0"], **elements}), path
    )
