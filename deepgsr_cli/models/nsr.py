"""NSR: residual networks whose convolutions choose among several kernels by what they see.

Source:
    Fan et al., Neural sparse representation for image restoration, NeurIPS 2020; its equations are meant
    below. The network is that of the authors' code, with three departures: its last layer starts at zero, so
    that training starts from an interpolation; that interpolation is the skip's kernel, which a mosaic's
    network learns and one that enlarges keeps; and pools may run over square cells, so that the result does
    not depend on how a picture is cut.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepgsr_cli.compute.tiling import TileNeeds
from deepgsr_cli.models.configuration import Configuration
from deepgsr_cli.models.mosaics import bilinear
from deepgsr_cli.models.patches import reflect_to


@dataclass(frozen=True)
class NSRConfig(Configuration):
    """Shape of an NSR network.

    Attributes:
        channels: Channels of the restored images.
        conditions: Length of the condition vector, 0 for none.
        scales: Sides of the restored images over those of the images that go in, each 1 to 4. Of several,
            each has last layers of its own.
        mosaic: Whether a Bayer mosaic goes in, one channel whose first row is R G R G ...
        shuffle: Side of the squares of pixels that become channels before the first layer; a mosaic needs 2,
            scales above 1 need 1.
        width: Feature channels.
        blocks: Residual blocks of two convolutions.
        hidden: Channels within a block, 0 for `width`.
        groups: Kernels that each convolution of a block mixes, k; 0 or 1 for plain convolutions.
        cardinality: Sets of output channels that have a mixture of their own, d.
        cell: Side, in features, of the squares over which the input of a convolution is pooled to predict
            its mixture; 0 to pool over whole images.
    """

    channels: int = 3
    conditions: int = 0
    scales: tuple[int, ...] = (1,)
    mosaic: bool = False
    shuffle: int = 1
    width: int = 32
    blocks: int = 16
    hidden: int = 0
    groups: int = 0
    cardinality: int = 16
    cell: int = 48

    def without_groups(self) -> NSRConfig:
        """The same shape with plain convolutions, for ablations."""
        return dataclasses.replace(self, groups=0)

    def __post_init__(self) -> None:
        if not self.scales or not {*self.scales} <= ({1, 2, 3, 4} if self.shuffle == 1 else {1}):
            raise ValueError(f"scales are {self.scales}; 1 to 4 are possible, 1 alone with a shuffle")
        if self.mosaic and (self.channels, self.scales, self.shuffle) != (3, (1,), 2):
            raise ValueError("a mosaic has 3 channels, scale 1 and shuffle 2")
        least = min(self.channels, self.shuffle, self.width, self.blocks, self.cardinality)
        if least < 1 or min(self.conditions, self.hidden, self.groups, self.cell) < 0:
            raise ValueError(
                "channels, shuffle, width, blocks and cardinality are at least 1, the others at least 0"
            )
        if self.groups > 1 and (self.width % self.cardinality or self.hidden % self.cardinality):
            raise ValueError(f"cardinality is {self.cardinality}, which must divide width and hidden")


# `paper`: EDSR(S) with sparse convolutions, for scale 2. `paper-denoise`: the larger one for noise.
# `small`: for a laptop's CPU; `sparse`: the same with sparse convolutions. `upscale`: one network for all
# scales, of the width and depth of EDSR's baseline (Lim et al., CVPRW 2017).
NSR_PRESETS = {
    "small": NSRConfig(shuffle=2),
    "sparse": NSRConfig(shuffle=2, groups=4),
    "paper": NSRConfig(scales=(2,), width=64, groups=4),
    "paper-denoise": NSRConfig(hidden=64, groups=2),
    "upscale": NSRConfig(scales=(2, 3, 4), width=64),
}


class SparseConv2d(nn.Module):
    """Convolution whose kernel is a mixture that each image, or each cell of it, chooses for itself (eq. 10).

    The mean over the input leads, by a linear map, to one softmax over the kernels for each cardinal set of
    outputs. Outputs have the size of the input, and zeros lie beyond it. Weights are normalised: a kernel is
    a direction times a gain. With one kernel it is `nn.Conv2d` with normalised weights.

    Args:
        inputs: Channels that go in.
        outputs: Channels that come out.
        size: Side of a kernel, odd.
        groups: Kernels of an output, k.
        cardinality: Sets of outputs, d; divides `outputs`.
        gain: Norm of the kernels at first.
        cell: Side of a cell, 0 for the whole input.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int = 3,
        *,
        groups: int = 1,
        cardinality: int = 1,
        gain: float = 1.0,
        cell: int = 0,
    ) -> None:
        super().__init__()
        self.groups, self.cardinality, self.cell, self.pad = groups, cardinality, cell, size // 2
        weight = torch.randn(groups * outputs, inputs, size, size)
        self.weight = nn.Parameter(
            weight / math.sqrt(inputs * size * size)
        )  # first the kernels, then outputs
        self.gain = nn.Parameter(torch.full((groups * outputs,), gain))
        self.bias = nn.Parameter(torch.zeros(groups * outputs))
        self.gate = nn.Linear(inputs, groups * cardinality) if groups > 1 else None

    def kernels(self) -> Tensor:
        """Normalised kernels, (k, outputs, inputs, s, s)."""
        scale = self.gain / self.weight.flatten(1).norm(dim=1)
        return (self.weight * scale[:, None, None, None]).unflatten(0, (self.groups, -1))

    def mixture(self, mean: Tensor) -> Tensor:
        """Shares of the kernels, (N, k, outputs), which sum to 1 over k, of mean inputs, (N, inputs)."""
        assert self.gate is not None
        logits = self.gate(mean).unflatten(1, (self.groups, self.cardinality))
        repeats = len(self.bias) // (self.groups * self.cardinality)
        return logits.softmax(1).repeat_interleave(repeats, dim=2)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, outputs, H, W) of maps (B, inputs, H, W)."""
        height, width = x.shape[-2:]
        if self.gate is None:
            return F.conv2d(x, self.kernels()[0], self.bias, padding=self.pad)
        if not self.cell or max(height, width) <= self.cell:
            return self._mixed(F.pad(x, (self.pad,) * 4), x.mean((-2, -1)))
        down, across = (-(-length // self.cell) for length in (height, width))
        x = F.pad(x, (0, across * self.cell - width, 0, down * self.cell - height))
        held = F.pad(x.new_ones(1, 1, height, width), (0, x.shape[-1] - width, 0, x.shape[-2] - height))
        mean = F.avg_pool2d(x, self.cell) / F.avg_pool2d(held, self.cell)  # over what is in the picture
        side = self.cell + 2 * self.pad
        cells = F.pad(x, (self.pad,) * 4).unfold(2, side, self.cell).unfold(3, side, self.cell)
        cells = cells.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)  # (B * cells, inputs, side, side)
        y = self._mixed(cells, mean.permute(0, 2, 3, 1).flatten(0, 2))
        y = y.unflatten(0, (-1, down, across)).permute(0, 3, 1, 4, 2, 5)
        return y.flatten(4).flatten(2, 3)[..., :height, :width]

    def _mixed(self, x: Tensor, mean: Tensor) -> Tensor:
        """Convolution, without padding, of each of N inputs with its own mixture, as N groups of channels."""
        shares = self.mixture(mean)
        weight = torch.einsum("nko,koihw->noihw", shares, self.kernels()).flatten(0, 1)
        bias = torch.einsum("nko,ko->no", shares, self.bias.view(self.groups, -1)).flatten()
        return F.conv2d(x.flatten(0, 1)[None], weight, bias, groups=len(x)).unflatten(1, (len(x), -1))[0]


class NSR(nn.Module):
    """Residual network at the resolution of its input or below.

    What is added to the interpolation of a mosaic, or of a smaller picture, is learned; other pictures are
    their own interpolation. A condition is a bias of the first layer.
    """

    def __init__(self, config: NSRConfig) -> None:
        super().__init__()
        self.config = config
        inputs = (1 if config.mosaic else config.channels) * config.shuffle**2
        outputs = config.channels * sum((scale * config.shuffle) ** 2 for scale in config.scales)
        hidden = config.hidden or config.width
        kind: dict[str, int] = {"cell": config.cell}
        if config.groups > 1:
            kind |= {"groups": config.groups, "cardinality": config.cardinality}
        self.head = SparseConv2d(inputs, config.width)
        self.head_bias = nn.Linear(2 * config.conditions, config.width) if config.conditions else None
        # Gains of the authors' code: branches of n blocks add up to a constant variance.
        self.body = nn.ModuleList(
            nn.Sequential(
                SparseConv2d(config.width, hidden, gain=2.0, **kind),
                nn.ReLU(),
                SparseConv2d(hidden, config.width, gain=1 / math.sqrt(config.blocks), **kind),
            )
            for _ in range(config.blocks)
        )
        self.tail = SparseConv2d(config.width, outputs, gain=0.0)
        self.skip = None
        if config.mosaic or config.scales != (1,):
            cubic = [bicubic_kernels(scale, config.channels) for scale in config.scales]
            kernel = bilinear_kernels() if config.mosaic else torch.cat(cubic)
            self.skip = SparseConv2d(inputs, outputs, size=5)
            # A high learning rate would put noise into it as large as what the network adds: fixed, scale 2
            # is 0.14 dB better after 90 seconds on a CPU.
            self.skip.requires_grad_(config.mosaic)
            with torch.no_grad():
                self.skip.weight.copy_(kernel)
                self.skip.gain.copy_(kernel.flatten(1).norm(dim=1))

    @classmethod
    def from_config(cls, fields: dict[str, Any]) -> NSR:
        """Network with random weights; fields as `config_dict` returns them, without "model"."""
        return cls(NSRConfig.from_dict(fields))

    def config_dict(self) -> dict[str, Any]:
        """Configuration as JSON types, with the model's name under "model"."""
        return {"model": "nsr", **dataclasses.asdict(self.config)}

    @property
    def tile_needs(self) -> TileNeeds:
        """What tiles must respect: the grid of shuffled pixels or of cells, and the halo, both in pixels.

        Up to 32 the halo is the radius of all convolutions, exact for plain ones. Beyond, little comes so
        far: of `small`'s 68 px, 32 leave a difference between tiles and whole of less than 0.001 levels of
        255 (trained for minutes; Urban100, noise of 25). With cells, a pool near a cut differs, and with it
        the rest of its cell; with pools over whole images, every pixel does.
        """
        config = self.config
        radius = config.shuffle * (2 * config.blocks + 2)
        cell = config.cell if config.groups > 1 and config.cell else 1
        return TileNeeds(grid=config.shuffle * cell, halo=min(radius, 32))

    @property
    def bytes_per_pixel(self) -> float:
        """Memory that `forward` takes at its peak for a pixel that goes in, roughly: maps of features."""
        config = self.config
        features = (4 * config.width + 4 * (config.hidden or config.width)) / config.shuffle**2
        return 4 * (features + 3 * config.channels * max(config.scales) ** 2)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Restored images, (B, channels, H, W); at other scales, the planes that `shuffled` makes images of.

        Args:
            x: Images, (B, channels, H, W), or mosaics, (B, 1, H, W), in [0, 1] where clean; any H and W.
            condition: (B, conditions) or (1, conditions) for all; None for a model without.

        Returns:
            (B, channels * S, H, W), where S is the sum of the squares of the scales: one scale's planes after
            another's.
        """
        return self._planes(x, condition, slice(None))

    def enlarge(self, x: Tensor, scale: int, condition: Tensor | None = None) -> Tensor:
        """Restored images at one of the scales, (B, channels, scale * H, scale * W); arguments as of
        `forward`."""
        return F.pixel_shuffle(self._planes(x, condition, self._part(scale)), scale)

    def shuffled(self, planes: Tensor, scale: int) -> Tensor:
        """Images at one of the scales, (B, channels, scale * H, scale * W), of what `forward` returns."""
        return F.pixel_shuffle(planes[:, self._part(scale)], scale)

    def _part(self, scale: int) -> slice:
        """Which of the last layer's outputs are a scale's."""
        scales, each = self.config.scales, self.config.channels * self.config.shuffle**2
        before = sum(other**2 for other in scales[: scales.index(scale)])
        return slice(each * before, each * (before + scale**2))

    def _planes(self, x: Tensor, condition: Tensor | None, part: slice) -> Tensor:
        """Planes that a part of the last layer's outputs give, (B, planes, H, W)."""
        height, width = x.shape[-2:]
        shuffle = self.config.shuffle
        y = reflect_to(x - 0.5, *(-(-length // shuffle) * shuffle for length in (height, width)))
        y = F.pixel_unshuffle(y, shuffle)
        features = self.head(y)
        if self.head_bias is not None:
            assert condition is not None
            told = torch.cat((4 * condition, torch.log1p(255 * condition) / 4), dim=-1)
            features = features + self.head_bias(told)[..., None, None]
        for block in self.body:
            features = features + block(features)
        last = F.conv2d(features, self.tail.kernels()[0][part], self.tail.bias[part], padding=1)
        y = last + (y if self.skip is None else self._interpolate(y, part))
        return (F.pixel_shuffle(y, shuffle)[..., :height, :width] + 0.5).to(x.dtype)

    def _interpolate(self, y: Tensor, part: slice) -> Tensor:
        """A part of the skip, with edges repeated rather than black around."""
        assert self.skip is not None
        kernels, bias = self.skip.kernels()[0][part], self.skip.bias[part]
        # In half precision an interpolation by itself would be a quarter of an 8-bit level off.
        with torch.autocast(y.device.type, enabled=False):
            return F.conv2d(F.pad(y, (2, 2, 2, 2), mode="replicate"), kernels, bias)


def bicubic_kernels(scale: int, channels: int) -> Tensor:
    """Kernels, (channels * scale**2, channels, 5, 5), whose maps, shuffled, are the enlarged picture: each
    channel by itself, by the cubic of Keys with a = -1/2."""
    place = (torch.arange(scale, dtype=torch.float64)[:, None] + 0.5) / scale - 0.5  # in pixels, (scale, 1)
    t = (place - torch.arange(-2, 3)).abs()
    near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    taps = torch.where(t <= 1, near, torch.where(t < 2, far, 0.0))  # (scale, 5)
    kernel = torch.einsum("ay,bx->abyx", taps, taps).flatten(0, 1)
    return torch.einsum("cd,kyx->ckdyx", torch.eye(channels).double(), kernel).flatten(0, 1).float()


def bilinear_kernels() -> Tensor:
    """Kernels, (12, 4, 5, 5), that lead from the four planes of a Bayer mosaic to three colours, shuffled, of
    `mosaics.bilinear`: its answer, in the middle of 5 x 5 cells, to one pixel of the mosaic."""
    impulses = F.pixel_shuffle(torch.eye(4 * 25).view(100, 4, 5, 5), 2)  # (100, 1, 10, 10)
    answers = F.pixel_unshuffle(bilinear(impulses), 2)[:, :, 2, 2]  # (100, 12)
    return answers.mT.unflatten(1, (4, 5, 5)).contiguous()


def restore_in_patches(
    model: NSR, x: Tensor, scale: int, *, patch: int = 48, rim: int = 4, step: int = 32
) -> Tensor:
    """What a model without cells makes of large images in patches, as the authors evaluate it.

    Each patch is pooled by itself, as in training. All but a rim of the results are averaged. The last patch
    of an axis is moved inward, where the authors add patches of less weight.

    Args:
        model: A network without a condition, or a shuffle.
        x: Images, (B, C, H, W); those smaller than the inner part of a patch are done whole.
        scale: One of the model's.
        patch: Side of a patch.
        rim: Pixels left out at each side of a patch, 1 or more; beyond the image they are its reflection.
        step: Distance of neighbouring patches, at most what is left of one.
    """
    height, width = x.shape[-2:]
    inner = patch - 2 * rim
    if min(height, width) < inner:
        return model.enlarge(x, scale)
    framed = F.pad(x, (rim,) * 4, mode="reflect")
    total = x.new_zeros(len(x), model.config.channels, scale * height, scale * width)
    count = torch.zeros_like(total[:1, :1])
    for top in {*range(0, height - inner, step), height - inner}:
        for left in {*range(0, width - inner, step), width - inner}:
            y = model.enlarge(framed[..., top : top + patch, left : left + patch], scale)
            rows, columns = (slice(start * scale, (start + inner) * scale) for start in (top, left))
            total[..., rows, columns] += y[..., rim * scale : -rim * scale, rim * scale : -rim * scale]
            count[..., rows, columns] += 1
    return total / count
