"""What a training run trains on: the batches and the validation of each task."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import PIL.Image
import torch
from torch import Tensor, nn

from deepgsr_cli.ct_data import (
    CutOuts,
    Scan,
    Scans,
    photons_at,
    projection_noise,
    random_photons,
    read_hu,
    reduced,
    repeated_scan,
    slice_paths,
)
from deepgsr_cli.data import (
    Crops,
    fingerprint,
    pair_paths,
    picture_paths,
    read_channels,
    read_pictures,
    smaller_copies,
)
from deepgsr_cli.degrade import as_8_bits, gaussian_noise, protocol_noise
from deepgsr_cli.diffraction import Diffraction, coded_masks
from deepgsr_cli.errors import InputError, UsageError
from deepgsr_cli.geometry import sparse_view
from deepgsr_cli.mar_data import (
    NOMINAL_FIELD_MM,
    CaseScan,
    MetalCase,
    MetalCases,
    Setting,
    implanted_metal,
    read_shapes,
)
from deepgsr_cli.metrics import psnr, rounded8
from deepgsr_cli.models import (
    METAL_PRESETS,
    PRESETS,
    UNROLLED_PHASE_PRESETS,
    UNROLLED_PRESETS,
    DeepGSR,
    MetalReduction,
    Unrolled,
    UnrolledPhase,
)
from deepgsr_cli.models.deepgsr import filter_of
from deepgsr_cli.models.unrolled import ATTENUATION_SCALE_MM, NOMINAL_SIZE, ct_condition
from deepgsr_cli.phase_data import PhaseNoise, measure, random_noise, random_operator
from deepgsr_cli.physics import Radon, hu_to_attenuation
from deepgsr_cli.rain import rainy
from deepgsr_cli.synthetic import structures

if TYPE_CHECKING:
    from deepgsr_cli.train import TrainConfig

T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """A batch: degraded and clean images, (B, C, H, W) in [0, 1] where clean, the condition vectors of the
    network, (B, conditions), if it has any, and what each image's error counts, (B,). For a network with a
    collaborative filter, `filtered` has what the filter makes of `degraded`.

    Of a CT scan, `degraded` is the sinogram, (B, 1, V, N), `clean` the attenuation in 1/mm, and `operator`
    leads from one to the other. Of a scan of metal, `case` has the rest. Of diffraction patterns, `degraded`
    has the magnitudes, (B, J, M, N), of what `diffraction` makes of `clean`.
    """

    degraded: Tensor
    clean: Tensor
    condition: Tensor | None
    weight: Tensor
    operator: Radon | None = None
    case: MetalCase | None = None
    diffraction: Diffraction | None = None
    filtered: Tensor | None = None


def _charbonnier(error: Tensor) -> Tensor:
    return (error.square() + 1e-6).sqrt().mean((1, 2, 3))


def _mse(error: Tensor) -> Tensor:
    return error.square().mean((1, 2, 3))


def _log_mse(error: Tensor) -> Tensor:
    """Minus the PSNR, in nepers (Chen et al., HINet, CVPRW 2021): a crop that is easy, or hardly damaged,
    counts as much as any other."""
    return 0.5 * (_mse(error) + LOG_FLOOR).log()


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {"charbonnier": _charbonnier, "mse": _mse, "psnr": _log_mse}

# Mean squared error below which the logarithm stops rewarding: 50 dB.
LOG_FLOOR = 1e-5


class Task(Protocol):
    """A task's network, data and measures.

    Attributes:
        summary: What is trained on, for the checkpoint's header.
    """

    summary: str

    def network(self) -> nn.Module:
        """The network to train, with random weights."""

    def sample(self, generator: torch.Generator, device_generator: torch.Generator) -> Sample:
        """The batch that the two generators, on the CPU and on the device, stand for."""

    def validation(self) -> list[Sample]:
        """Single images on the CPU, the same at each call."""

    def loss(self, model: nn.Module, sample: Sample) -> Tensor:
        """What is minimised, a scalar."""

    def psnr(self, model: nn.Module, sample: Sample) -> float:
        """Mean PSNR in dB of a sample of `validation`, or of what `joined` made of several."""


class _Pictures:
    """Network and measures of pictures.

    Attributes:
        presets: Shapes that the network comes in.
        conditions: Length of the network's condition vector.
    """

    presets = PRESETS
    conditions: int

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device

    def network(self) -> nn.Module:
        config = self.config
        shape = dataclasses.replace(
            PRESETS[config.preset], channels=config.channels, conditions=self.conditions
        )
        return DeepGSR(shape.without_groups() if config.without_groups else shape)

    def loss(self, model: nn.Module, sample: Sample) -> Tensor:
        with _autocast(self.config, self.device):
            known = {} if sample.filtered is None else {"filtered": sample.filtered}
            output = model(sample.degraded, sample.condition, **known)
        return (LOSSES[self.config.loss](output.float() - sample.clean) * sample.weight).mean()

    def psnr(self, model: nn.Module, sample: Sample) -> float:
        condition = None if sample.condition is None else sample.condition.to(self.device)
        restored = rounded8(model(sample.degraded.to(self.device), condition).cpu().numpy())
        return float(np.mean([psnr(*pair) for pair in zip(restored, sample.clean.numpy())]))


class Denoise(_Pictures):
    """White Gaussian noise; the network is told its level, and whether a file has clipped it."""

    conditions = 2

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        super().__init__(config, device)
        training, self.held_out = _split_pictures(config)
        self.crops = Crops(_pictures(training, config), config.patch, device)
        self.summary = _summary(training)

    def sample(self, generator: torch.Generator, device_generator: torch.Generator) -> Sample:
        config = self.config
        clean = self.crops(config.batch, generator)
        noisy, told = gaussian_noise(
            clean, (config.sigma_min, config.sigma_max), device_generator, clipped=config.clipped
        )
        # On natural pictures the error that a good denoiser leaves has a variance proportional to sigma,
        # roughly (PSNR tables of DnCNN, 15 to 50). Levels below 2 would otherwise outweigh all others.
        power = {"charbonnier": 0.5, "mse": 1.0, "psnr": 0.0}[config.loss]
        weight = (25 / (255 * told[:, 0]).clamp(min=2)) ** power
        # Here rather than in the network, which is then free of what cannot be compiled or recorded.
        search = self.presets[config.preset].search
        filtered = filter_of(noisy, told[:, 0], search) if search else None
        return Sample(noisy, clean, told, weight, filtered=filtered)

    def validation(self) -> list[Sample]:
        config = self.config
        samples = []
        for path in self.held_out:
            clean = _centre(read_channels(path, config.channels))
            for part in (0.2, 1 / 3, 2 / 3):
                sigma = config.sigma_min + part * (config.sigma_max - config.sigma_min)
                noisy = clean + protocol_noise(clean.shape, sigma, config.seed)
                if config.clipped < 1:
                    samples.append(_single(noisy, clean, torch.tensor([[sigma / 255, 0]])))
                if config.clipped > 0:
                    noisy = as_8_bits(torch.from_numpy(noisy)).numpy()
                    samples.append(_single(noisy, clean, torch.tensor([[sigma / 255, 1]])))
        return samples


class Derain(_Pictures):
    """Rain: generated over clean pictures, as it is in pairs of pictures, or both by turns."""

    conditions = 0
    noise = False

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        super().__init__(config, device)
        summaries = []
        self.held_out: list[Path] = []
        self.crops = self.pair_crops = None
        left_out = 0
        if config.data:
            training, self.held_out = _split_pictures(config)
            kept = _without_test_scenes(training)
            left_out = len(training) - len(kept)
            self.held_out = _without_test_scenes(self.held_out)
            self.crops = Crops(_pictures(kept, config), config.patch, device)
            summaries.append(_summary(kept) + f", {left_out} scenes of rain test sets left out")
        self.held_out_pairs: list[tuple[Path, Path]] = []
        if config.pairs:
            pairs = [pair for folder in config.pairs for pair in pair_paths(folder, "rain")]
            pairs, self.held_out_pairs = _split(pairs, config.held_out)
            pictures = [np.concatenate(read_pictures(pair, config.channels, config.patch)) for pair in pairs]
            self.pair_crops = Crops(pictures, config.patch, device)
            summaries.append(_summary([path for pair in pairs for path in pair]) + " in pairs")
        self.summary = "; ".join(summaries)

    def sample(self, generator: torch.Generator, device_generator: torch.Generator) -> Sample:
        batch = self.config.batch
        paired = 0
        if self.pair_crops is not None:
            draws = torch.rand(batch, generator=generator)
            paired = batch if self.crops is None else int((draws < PAIRED_SHARE).sum())
        parts = []
        if self.crops is not None and paired < batch:
            clean = self.crops(batch - paired, generator)
            parts.append((rainy(clean, device_generator), clean))
        if self.pair_crops is not None and paired:
            parts.append(tuple(self.pair_crops(paired, generator).chunk(2, dim=1)))  # type: ignore[arg-type]
        degraded, clean = (torch.cat(images) for images in zip(*parts))
        if self.noise:
            degraded = self._noisy(degraded, clean, device_generator)
        return Sample(degraded, clean, None, torch.ones(batch, device=clean.device))

    def _noisy(self, degraded: Tensor, clean: Tensor, generator: torch.Generator) -> Tensor:
        """A third with noise instead of rain, a third with both."""
        kind = torch.rand(len(clean), 1, 1, 1, device=clean.device, generator=generator)
        noisy, _ = gaussian_noise(
            torch.where(kind < 1 / 3, clean, degraded),
            (self.config.sigma_min, self.config.sigma_max),
            generator,
        )
        return torch.where(kind < 2 / 3, noisy, degraded)

    def validation(self) -> list[Sample]:
        config = self.config
        samples = []
        for i, path in enumerate(self.held_out):
            clean = torch.from_numpy(_centre(read_channels(path, config.channels)))[None]
            generator = torch.Generator().manual_seed(config.seed + i)
            samples.append(Sample(rainy(clean, generator), clean, None, torch.ones(1)))
        for pair in self.held_out_pairs:
            rain, dry = (_centre(read_channels(path, config.channels)) for path in pair)
            samples.append(_single(rain, dry))
        if self.noise:
            for i, sample in enumerate(samples):
                generator = torch.Generator().manual_seed(config.seed + i)
                degraded = self._noisy(sample.degraded, sample.clean, generator)
                samples[i] = Sample(degraded, sample.clean, None, sample.weight)
        return samples


class Restore(Derain):
    """Noise, rain or both, of which the network is told nothing."""

    noise = True


class CTRecon:
    """Sparse-view CT: simulated scans of slices, of random geometry and dose."""

    presets = UNROLLED_PRESETS

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        paths, held_out = _split_slices(config)
        slices = [hu for path in paths for hu in read_hu(path)]
        self.held_out = [hu for path in held_out for hu in read_hu(path)]
        self.cut_outs = CutOuts(slices, config.patch, device)
        self.scans = Scans(config.patch, config.seed)
        self.summary = f"{len(slices)} CT slices of {len(paths)} files, fingerprint {fingerprint(paths)}"

    def network(self) -> nn.Module:
        shape = UNROLLED_PRESETS[self.config.preset]
        if self.config.without_groups:
            shape = dataclasses.replace(shape, prior=shape.prior.without_groups())
        return Unrolled(shape)

    def sample(self, generator: torch.Generator, device_generator: torch.Generator) -> Sample:
        batch = self.config.batch
        x = self.cut_outs(batch, generator)
        scan = self.scans(float(torch.rand(1, generator=generator)))
        return self._scanned(scan, x, random_photons(batch, generator), device_generator)

    def validation(self) -> list[Sample]:
        """Slices reduced to twice the side of a crop, as by 60 views at full size, without noise and with
        that of 1e5 photons."""
        size = 2 * self.config.patch
        num_views = max(3, round(60 * size / NOMINAL_SIZE))
        scan = repeated_scan(sparse_view((size, size), (400 / size, 400 / size), num_views))
        samples = []
        for i, hu in enumerate(self.held_out):
            x = hu_to_attenuation(reduced(torch.from_numpy(hu), size))[None, None]
            for photons in (None, 1e5):
                generator = torch.Generator().manual_seed(self.config.seed + i)
                samples.append(self._scanned(scan, x, [photons], generator))
        return samples

    def _scanned(
        self, scan: Scan, x: Tensor, photons: list[float | None], generator: torch.Generator
    ) -> Sample:
        """Scans of the images, each with its photons of a scan at full size."""
        A, y = scan.operator, scan.measure(x)
        size = max(A.domain_shape)
        conditions = []
        for i, count in enumerate(photons):
            count = None if count is None else photons_at(size, count)
            if count is not None:
                y[i] = projection_noise(y[i], count, generator)
            conditions.append(ct_condition(A.geometry.num_views, count, size))
        return Sample(y, x, torch.cat(conditions).to(y.device), torch.ones(len(x), device=y.device), A)

    def loss(self, model: nn.Module, sample: Sample) -> Tensor:
        """Error of the result and, with a smaller weight, of every stage, where water is about 1; more
        attenuation than the window holds counts as its end."""
        assert isinstance(model, Unrolled)
        assert sample.operator is not None
        assert sample.condition is not None
        with _autocast(self.config, self.device):
            *stages, result = model.iterates(sample.operator, sample.degraded, sample.condition)
        measure = LOSSES[self.config.loss]

        def error(x: Tensor) -> Tensor:
            x = _error_in_window(x, sample.clean)
            return (measure(ATTENUATION_SCALE_MM * x) * sample.weight).mean()

        return error(result) + STAGES_WEIGHT * torch.stack([error(x) for x in stages]).mean()

    def psnr(self, model: nn.Module, sample: Sample) -> float:
        """In the window of attenuation from 0 to 0.05 / mm."""
        assert sample.condition is not None
        y, condition = sample.degraded.to(self.device), sample.condition.to(self.device)
        x = model(sample.operator, y, condition).cpu()
        return psnr(*(t.numpy().clip(0, MAX_ATTENUATION) for t in (x, sample.clean)), peak=MAX_ATTENUATION)


class MAR:
    """Metal artifact reduction: simulated scans of slices with metal in them, half of them known by their
    sinograms and half by their images alone. The truth is the slice itself."""

    presets = METAL_PRESETS

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        paths, held_out = _split_slices(config)
        slices = [hu for path in paths for hu in read_hu(path)]
        self.held_out = [hu for path in held_out for hu in read_hu(path)]
        self.shapes = [shape for folder in config.masks for shape in read_shapes(folder)]
        self.cases = MetalCases(slices, self.shapes, config.patch, config.seed, device)
        self.summary = (
            f"{len(slices)} CT slices of {len(paths)} files, fingerprint {fingerprint(paths)};"
            f" {len(self.shapes)} metal shapes beside generated ones"
        )

    def network(self) -> nn.Module:
        shape = METAL_PRESETS[self.config.preset]
        if self.config.without_groups:
            shape = dataclasses.replace(shape, prior=shape.prior.without_groups())
        return MetalReduction(shape)

    def sample(self, generator: torch.Generator, device_generator: torch.Generator) -> Sample:
        return self._sample(self.cases(self.config.batch, generator))

    def validation(self) -> list[Sample]:
        """Slices reduced to 13/8 of the side of a case (416 of 256 pixels), with titanium of a random shape,
        by turns from the sinogram and from the image alone."""
        size = self.config.patch * 13 // 8
        scans = [
            CaseScan(size, Setting(NOMINAL_FIELD_MM, "titanium", kernel)) for kernel in (None, "ram-lak")
        ]
        samples = []
        for i, hu in enumerate(self.held_out):
            x = hu_to_attenuation(reduced(torch.from_numpy(hu), size))[None, None]
            generator = torch.Generator().manual_seed(self.config.seed + i)
            metal = implanted_metal(x, self.shapes, generator)
            samples.append(self._sample(scans[i % 2](x, metal, generator)))
        return samples

    def _sample(self, case: MetalCase) -> Sample:
        """The error of each image counts in proportion to that of normalised metal artifact reduction."""
        sample = Sample(case.sinogram, case.clean, None, torch.ones(len(case.clean)), case.operator, case)
        weight = 1 / self._errors(case.start.normalised, sample)
        return dataclasses.replace(sample, weight=weight)

    def loss(self, model: nn.Module, sample: Sample) -> Tensor:
        """Error outside metal of the last image and, with a smaller weight, of those before it, over that of
        normalised metal artifact reduction, which has a loss of 1."""
        assert isinstance(model, MetalReduction)
        assert sample.operator is not None
        assert sample.case is not None
        with _autocast(self.config, self.device):
            *passes, result = model.iterates(
                sample.operator, sample.degraded, sample.case.start, unrolled=False
            )
        loss = (self._errors(result, sample) * sample.weight).mean()
        if not passes:
            return loss
        before = torch.stack([(self._errors(x, sample) * sample.weight).mean() for x in passes]).mean()
        return (loss + STAGES_WEIGHT * before) / (1 + STAGES_WEIGHT)

    def _errors(self, x: Tensor, sample: Sample) -> Tensor:
        """Errors of images outside metal, (B,), where water is about 1."""
        assert sample.case is not None
        x = torch.where(sample.clean > 0, x, x.clamp(min=0))  # in air, nothing is less than air
        error = _error_in_window(x, sample.clean) * ~sample.case.metal
        return LOSSES[self.config.loss](ATTENUATION_SCALE_MM * error)

    def psnr(self, model: nn.Module, sample: Sample) -> float:
        """Outside metal, in the window of attenuation from 0 to 0.05 / mm."""
        assert isinstance(model, MetalReduction)
        assert sample.operator is not None
        assert sample.case is not None
        start = sample.case.start.to(self.device)
        x = model.iterates(sample.operator, sample.degraded.to(self.device), start)[-1].cpu()
        outside = (t[~sample.case.metal].numpy().clip(0, MAX_ATTENUATION) for t in (x, sample.clean))
        return psnr(*outside, peak=MAX_ATTENUATION)


class Phase:
    """Phase retrieval: coded diffraction patterns of pictures, of random masks and noise."""

    presets = UNROLLED_PHASE_PRESETS

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        training, self.held_out = _split_pictures(config)
        self.crops = Crops(_pictures(training, config), config.patch, device)
        self.summary = _summary(training)

    def network(self) -> nn.Module:
        shape = UNROLLED_PHASE_PRESETS[self.config.preset]
        if self.config.without_groups:
            shape = dataclasses.replace(shape, prior=shape.prior.without_groups())
        return UnrolledPhase(shape)

    def sample(self, generator: torch.Generator, device_generator: torch.Generator) -> Sample:
        x = self.crops(self.config.batch, generator)
        A = random_operator(self.config.patch, generator).to(x.device)
        return self._measured(A, x, [random_noise(generator) for _ in x], generator)

    def validation(self) -> list[Sample]:
        """Pictures reduced to twice the side of a crop behind four uniform masks, at alpha 9, 27 and 81, and
        behind one quaternary mask at an SNR of 20 dB."""
        side = 2 * self.config.patch
        samples = []
        for i, path in enumerate(self.held_out):
            x = torch.from_numpy(_square(read_channels(path, 1), side))[None]
            for kind, count, noise in VALIDATION:
                generator = torch.Generator().manual_seed(self.config.seed + i)
                A = Diffraction(coded_masks(kind, count, (side, side), generator))
                samples.append(self._measured(A, x, [noise], generator))
        return samples

    def _measured(
        self, A: Diffraction, x: Tensor, noises: list[PhaseNoise], generator: torch.Generator
    ) -> Sample:
        y, condition = measure(A, x, noises, generator)
        return Sample(y, x, condition, torch.ones(len(x), device=x.device), diffraction=A)

    def loss(self, model: nn.Module, sample: Sample) -> Tensor:
        """Error of the result and, with a smaller weight, of every stage."""
        assert isinstance(model, UnrolledPhase)
        assert sample.diffraction is not None
        assert sample.condition is not None
        with _autocast(self.config, self.device):
            *stages, result = model.iterates(sample.diffraction, sample.degraded, sample.condition)
        measure_error = LOSSES[self.config.loss]
        loss = measure_error(result - sample.clean).mean()
        if not stages:
            return loss
        return (
            loss
            + STAGES_WEIGHT * torch.stack([measure_error(x - sample.clean).mean() for x in stages]).mean()
        )

    def psnr(self, model: nn.Module, sample: Sample) -> float:
        assert sample.diffraction is not None
        assert sample.condition is not None
        A, y = sample.diffraction.to(self.device), sample.degraded.to(self.device)
        x = model(A, y, sample.condition.to(self.device)).cpu()
        return psnr(rounded8(x.numpy()), sample.clean.numpy())


TASKS: dict[str, type[Denoise] | type[Derain] | type[CTRecon] | type[MAR] | type[Phase]] = {
    "denoise": Denoise,
    "derain": Derain,
    "restore": Restore,
    "ct-recon": CTRecon,
    "mar": MAR,
    "phase": Phase,
}

# Of all stages' mean error, beside the result's.
STAGES_WEIGHT = 0.3
# End of the window that CT papers measure in, in 1/mm: 1604 HU.
MAX_ATTENUATION = 0.05

# Masks and noise that phase retrieval is validated with.
VALIDATION = (
    *(("uniform", 4, PhaseNoise(alpha=alpha)) for alpha in (9.0, 27.0, 81.0)),
    ("quaternary", 1, PhaseNoise(snr_db=20.0)),
)

# Of a batch, where there are both pairs and clean pictures.
PAIRED_SHARE = 0.3


def _split(items: list[T], held_out: int) -> tuple[list[T], list[T]]:
    """Items to train on, and the evenly spread ones that are held out."""
    _check_held_out(len(items), held_out)
    held = {int((i + 0.5) * len(items) / held_out) for i in range(held_out)}
    return [x for i, x in enumerate(items) if i not in held], [x for i, x in enumerate(items) if i in held]


def joined(samples: list[Sample], most: int) -> list[Sample]:
    """Batches of up to `most` samples of pictures of one size, which a device restores faster than one by
    one; samples of anything else stay as they are."""
    result = [x for x in samples if x.operator or x.case or x.diffraction]
    sizes: dict[torch.Size, list[Sample]] = {}
    for sample in samples:
        if not (sample.operator or sample.case or sample.diffraction):
            sizes.setdefault(sample.clean.shape, []).append(sample)
    for equal in sizes.values():
        for first in range(0, len(equal), most):
            part = equal[first : first + most]
            conditions = [x.condition for x in part if x.condition is not None]
            result.append(
                Sample(
                    torch.cat([x.degraded for x in part]),
                    torch.cat([x.clean for x in part]),
                    torch.cat(conditions) if conditions else None,
                    torch.cat([x.weight for x in part]),
                )
            )
    return result


def _split_slices(config: TrainConfig) -> tuple[list[Path], list[Path]]:
    """Files of slices to train on, and those that are held out."""
    paths = [path for folder in config.data for path in slice_paths(folder)]
    if config.validation is not None:
        return paths, slice_paths(config.validation)
    _check_held_out(len(paths), config.held_out)
    # The last ones, so that most patients are on one side only.
    return paths[: -config.held_out], paths[-config.held_out :]


def _error_in_window(x: Tensor, clean: Tensor) -> Tensor:
    """Error of attenuation in 1/mm; more than the window holds counts as its end."""
    too_much = clean > MAX_ATTENUATION
    return torch.where(too_much, x.clamp(max=MAX_ATTENUATION) - MAX_ATTENUATION, x - clean)


def _check_held_out(count: int, held_out: int) -> None:
    if held_out < 1 or count < 2 * held_out:
        raise InputError(
            f"{count} pictures, of which {held_out} would be held out for validation; "
            "give more pictures, --validation FOLDER, or another --held-out"
        )


def _autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")


def _split_pictures(config: TrainConfig) -> tuple[list[Path], list[Path]]:
    paths = [path for folder in config.data for path in picture_paths(folder)]
    if config.validation is not None:
        return paths, picture_paths(config.validation)
    return _split(paths, config.held_out)


def rain_test_scenes() -> set[str]:
    """SHA-256 of pictures that are the clean side of a test set of rain.

    All of Rain100L and most of Rain100H are scenes of BSDS500; the list has the JPEG files of that set.
    """
    text = resources.files("deepgsr_cli").joinpath("rain_test_scenes.txt").read_text(encoding="ascii")
    return set(text.split())


def _without_test_scenes(paths: list[Path]) -> list[Path]:
    scenes = rain_test_scenes()
    kept = [path for path in paths if hashlib.sha256(path.read_bytes()).hexdigest() not in scenes]
    if not kept and paths:
        raise UsageError(f"{paths[0].parent}: all pictures are test scenes of rain; give others")
    return kept


def _pictures(paths: list[Path], config: TrainConfig) -> list[np.ndarray]:
    """Pictures, generated scenes and smaller copies to take crops from, (C, H, W), uint8."""
    pictures = read_pictures(paths, config.channels, config.patch)
    generator = np.random.default_rng(config.seed)
    scenes = [structures(pictures, generator) for _ in range(config.scenes)]
    return pictures + scenes + smaller_copies(pictures, config.scales, config.patch)


def _summary(paths: list[Path]) -> str:
    return f"{len(paths)} pictures, fingerprint {fingerprint(paths)}"


def _centre(pixels: np.ndarray) -> np.ndarray:
    """Centre of a picture, (C, H, W), up to 256 x 256."""
    top, left = (max(0, (size - 256) // 2) for size in pixels.shape[1:])
    return np.ascontiguousarray(pixels[:, top : top + 256, left : left + 256])


def _square(pixels: np.ndarray, side: int) -> np.ndarray:
    """Middle square of a picture, (1, H, W), reduced to a side in pixels where it is larger, (1, side, side).

    Raises:
        InputError: The picture is smaller.
    """
    size = min(pixels.shape[1:])
    if size < side:
        raise InputError(
            f"a picture to validate on has {pixels.shape[2]} x {pixels.shape[1]} pixels, less than {side}; "
            "give a smaller --patch or another --validation"
        )
    top, left = ((length - size) // 2 for length in pixels.shape[1:])
    middle = np.rint(pixels[0, top : top + size, left : left + size] * 255).clip(0, 255).astype(np.uint8)
    reduced8 = PIL.Image.fromarray(middle).resize((side, side), PIL.Image.Resampling.BICUBIC)
    return np.asarray(reduced8, np.float32)[None] / np.float32(255)


def _single(degraded: np.ndarray, clean: np.ndarray, condition: Tensor | None = None) -> Sample:
    degraded = np.asarray(degraded, np.float32)
    return Sample(torch.from_numpy(degraded)[None], torch.from_numpy(clean)[None], condition, torch.ones(1))
