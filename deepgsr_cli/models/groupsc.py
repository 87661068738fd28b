"""SC and GroupSC: unrolled sparse coding of patches, alone or in groups of similar ones.

Source:
    Lecouat, Ponce, Mairal, Fully trainable and interpretable non-local sparse models for image restoration,
    ECCV 2020; its equations are meant below. Departs from it in five points: thresholds are interpolated
    between noise levels; the window of similar patches is symmetric; there is one pass over the picture
    where the authors average overlapping blocks of it; a mosaic's patches are centred by, and first compared
    in, its interpolation; the dictionary starts from cosines.
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
from deepgsr_cli.models.mosaics import bayer_mask, bilinear
from deepgsr_cli.models.patches import reflect_to

# Thresholds before training, of a noise level on the 0-255 scale: 0.06 at 25, near what training ends with.
INITIAL_THRESHOLD, INITIAL_THRESHOLD_PER_LEVEL = 0.01, 0.002
# Within the root that a threshold is divided by, so that its gradient is finite at zero.
_LEAST_ENERGY = 1e-10


@dataclass(frozen=True)
class GroupSCConfig(Configuration):
    """Shape of a GroupSC network.

    Attributes:
        channels: Channels of the restored images, 1 or 3.
        conditions: Length of the condition vector (noise level first), 0 for none.
        mosaic: Whether a Bayer mosaic goes in, one channel whose first row is R G R G ...
        patch: Side of a patch, 0 for 9 in gray and 7 in colour.
        stride: Distance of neighbouring patches. An even one shows all patches of a mosaic the same colours.
        atoms: Atoms of a dictionary, 0 for 128 in gray and 192 in colour.
        steps: Thresholdings.
        radius: Farthest similar patch along an axis, in patches; 0 for SC, without groups.
        interval: Steps from one update of the similarities to the next.
        levels: Rising noise levels, on the 0-255 scale, that have thresholds of their own; without a
            condition only one.
    """

    channels: int = 1
    conditions: int = 1
    mosaic: bool = False
    patch: int = 0
    stride: int = 2
    atoms: int = 0
    steps: int = 8
    radius: int = 7
    interval: int = 2
    levels: tuple[float, ...] = (0.0, 5.0, 10.0, 15.0, 25.0, 50.0, 75.0)

    def without_groups(self) -> GroupSCConfig:
        """The same shape without groups, which is SC, for ablations."""
        return dataclasses.replace(self, radius=0)

    def __post_init__(self) -> None:
        if self.channels not in (1, 3) or (self.mosaic and self.channels == 1):
            raise ValueError(f"channels is {self.channels}; 1 or 3 are possible, 3 alone for a mosaic")
        if not 1 <= self.stride <= (self.patch or 7):
            raise ValueError(f"stride is {self.stride}; give 1 to the side of a patch")
        if min(self.steps, self.interval) < 1 or min(self.conditions, self.radius) < 0 or 0 != self.atoms < 8:
            raise ValueError(
                "steps and interval are 1 or more, conditions and radius 0, atoms 0 or from 8 on"
            )
        if list(self.levels) != sorted(set(self.levels)) or (len(self.levels) > 1) != (self.conditions > 0):
            raise ValueError("levels rise; there are 2 or more with a condition, and 1 without")


# `paper`: the published sizes. `small`: for a laptop's CPU.
GROUPSC_PRESETS = {
    "small": GroupSCConfig(),
    "paper": GroupSCConfig(stride=1, atoms=256, steps=24, radius=24, interval=6),
}


class GroupSC(nn.Module):
    """Restoration by sparse codes of overlapping patches: `steps` proximal gradient steps, all parts learned.

    With y_i the centred patches and b_i = a_i + C^T (y_i - D a_i) (eq. 3), a step shrinks each code b_i by
    soft thresholds. With groups (eq. 11), a coefficient's magnitude is replaced there by the root mean square
    of the same coefficient over patches, weighted by their similarity exp(-|kappa (x_i - x_j)|^2) (eq. 12).

    The similarities of all pairs are never formed: patches are taken in square blocks, each with those within
    reach of it as a margin, and both similarities and weighted means are products of small matrices. The
    result does not depend on the blocks.
    """

    def __init__(self, config: GroupSCConfig) -> None:
        super().__init__()
        self.config = config
        gray = config.channels == 1
        self.patch = config.patch or (9 if gray else 7)
        dictionary = overcomplete_dct(self.patch, config.channels, config.atoms or (128 if gray else 192))
        dictionary = dictionary / torch.linalg.matrix_norm(dictionary, 2)
        self.D = nn.Parameter(dictionary.clone())  # (m, p)
        self.C = nn.Parameter(dictionary.clone())
        self.W = nn.Parameter(dictionary.clone())
        self.levels: Tensor
        self.register_buffer("levels", torch.tensor(config.levels), persistent=False)
        start = INITIAL_THRESHOLD + INITIAL_THRESHOLD_PER_LEVEL * self.levels
        self.thresholds = nn.Parameter(start[:, None, None].repeat(1, config.steps, dictionary.shape[1]))
        if config.radius:
            self.kappa = nn.Parameter(torch.ones(len(dictionary)))
            # What an update keeps of the old similarities is 1 - sigmoid(nu).
            self.nu = nn.Parameter(torch.ones(max(config.steps - 2, 0) // config.interval))
        # Side of a block. Margins make small blocks wasteful, pairs out of reach large ones; of 6, 8, 12 and
        # 16 with a radius of 7, 8 and 12 take the least time on a CPU, 8 the least memory.
        self.block = max(8, config.radius)

    @classmethod
    def from_config(cls, fields: dict[str, Any]) -> GroupSC:
        """Network before training; fields as `config_dict` returns them, without "model"."""
        return cls(GroupSCConfig.from_dict(fields))

    def config_dict(self) -> dict[str, Any]:
        """Configuration as JSON types, with the model's name under "model"."""
        return {"model": "groupsc", **dataclasses.asdict(self.config)}

    @property
    def tile_needs(self) -> TileNeeds:
        """What tiles must respect: the grid on which patches lie, and the halo, both in pixels.

        The halo of SC is exact: patches share pixels over patch - 1. With groups it is the reach of one
        comparison, though each step reaches as far again: `small`, trained for minutes, then differs between
        tiles of 128 and a whole picture of 256 px (Urban100, noise of 25) by 0.05 levels of 255 at most, and
        by 0.0000 dB.
        """
        config = self.config
        grid = math.lcm(config.stride, 2) if config.mosaic else config.stride
        return TileNeeds(grid=grid, halo=self.patch - 1 + config.radius * config.stride + config.mosaic)

    @property
    def bytes_per_pixel(self) -> float:
        """Memory that `forward` takes at its peak for a pixel, roughly: three matrices of similarities, and
        copies of the codes and the patches, one of them in blocks with margins."""
        side = self.block + 2 * self.config.radius
        pairs, copies = (side**2, side**2 / self.block**2) if self.config.radius else (0, 0)
        codes = (5 + copies) * self.D.shape[1] + 4 * len(self.D)
        return 4 * (3 * pairs + codes) / self.config.stride**2

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Restored images, (B, channels, H, W).

        Args:
            x: Images, (B, channels, H, W), or mosaics, (B, 1, H, W), in [0, 1] where clean; any H and W.
            condition: (B, n) or (1, n) for all, n >= 1; None for a model without. The first entry is the
                noise standard deviation on the scale of x; others are not looked at.
        """
        height, width = x.shape[-2:]
        stride = self.config.stride
        edge = self.patch // 2 // stride * stride
        size = (self._covered(height + 2 * edge), self._covered(width + 2 * edge))
        observed = None
        if self.config.mosaic:
            observed = self._patches(_framed(bayer_mask(x), edge, size))  # (1, h, w, m)
            x = bilinear(x)
        patches = self._patches(_framed(x, edge, size))
        mean = patches.mean(-1, keepdim=True)
        code = self._code(patches - mean, mean, self._thresholds(condition), observed, size)
        restored = self._average(F.linear(code, self.W) + mean, size)
        return restored[..., edge : edge + height, edge : edge + width].to(x.dtype)

    def _code(
        self, y: Tensor, mean: Tensor, thresholds: Tensor, observed: Tensor | None, size: tuple[int, int]
    ) -> Tensor:
        """Codes (B, h, w, p) of centred patches y, (B, h, w, m), of images of that size.

        Args:
            y: The patches.
            mean: What was subtracted, (B, h, w, 1).
            thresholds: (B, K, p) or (1, K, p).
            observed: 1 where an entry of a patch was measured, else 0, (1, h, w, m); None for everywhere.
            size: Rows and columns of the images.
        """
        interval = self.config.interval
        code, residual = y.new_zeros(*y.shape[:-1], self.D.shape[1]), y
        similarity = self._similarity(y) if self.config.radius else None
        for k in range(self.config.steps):
            if k > 0:
                residual = y - F.linear(code, self.D)
            if similarity is not None and k > 1 and (k - 1) % interval == 0:
                # Centred by the means of the noisy patches, as in the authors' code.
                estimate = self._patches(self._average(F.linear(code, self.W) + mean, size)) - mean
                share = self.nu[(k - 1) // interval - 1].sigmoid()
                similarity = similarity.lerp(self._similarity(estimate), share)
            residual = residual if observed is None else residual * observed
            code = code + F.linear(residual, self.C.mT)
            code = self._shrink(code, thresholds[:, k, None, None], similarity)
        return code

    def _thresholds(self, condition: Tensor | None) -> Tensor:
        """Thresholds of all steps, (B or 1, K, p): linear in the noise level between the configuration's,
        constant beyond.

        Of their parameters the magnitude counts: one that training has taken below zero would otherwise get
        no gradient that leads back.
        """
        if not self.config.conditions:
            return self.thresholds.abs()
        assert condition is not None
        level = (255 * condition[:, 0]).to(self.levels).clamp(self.levels[0], self.levels[-1])
        upper = torch.searchsorted(self.levels, level).clamp(min=1)
        low, high = self.levels[upper - 1], self.levels[upper]
        part = ((level - low) / (high - low))[:, None, None]
        return torch.lerp(self.thresholds[upper - 1], self.thresholds[upper], part).abs()

    def _shrink(self, code: Tensor, thresholds: Tensor, similarity: Tensor | None) -> Tensor:
        """Codes, (B, h, w, p), nearer to zero by thresholds (B, 1, 1, p): softly, or in groups."""
        if similarity is None:
            return code - code.clamp(-thresholds, thresholds)
        height, width = code.shape[1:3]
        rows, columns = self._cut(height), self._cut(width)
        # A last channel of ones, zero beyond the picture, comes back as the sum of the weights.
        energies = similarity @ _to_blocks(F.pad(code.square(), (0, 1), value=1.0), rows, columns)
        energies = _from_blocks(energies, rows[0], columns[0], height, width)  # (B, h, w, p + 1)
        mean_square = energies[..., :-1] / energies[..., -1:] + _LEAST_ENERGY
        return code * F.relu(1 - thresholds * mean_square.rsqrt())

    def _similarity(self, patches: Tensor) -> Tensor:
        """Similarities, (blocks, i, j), of each patch i of a block to each j of block and margin, zero out of
        reach; patches are (B, h, w, m)."""
        rows, columns = (self._cut(length) for length in patches.shape[1:3])
        with torch.autocast(patches.device.type, enabled=False):  # the difference of squares is delicate
            x = patches * self.kappa
            here = _to_blocks(x, (rows[0], 0), (columns[0], 0))
            there = _to_blocks(x, rows, columns)
            distance = here.square().sum(-1)[..., None] + there.square().sum(-1)[:, None]
            distance.baddbmm_(here, there.mT, alpha=-2).clamp_(min=0)
            distance.masked_fill_(~self._reach(rows, columns, x.device), math.inf)
            return distance.neg_().exp_()  # in place, as it is the largest of all

    def _reach(self, rows: tuple[int, int], columns: tuple[int, int], device: torch.device) -> Tensor:
        """Whether a patch of a block, i, reaches one of block and margin, j, (i, j)."""
        near = []
        for block, margin in (rows, columns):
            i, j = (torch.arange(side, device=device) for side in (block, block + 2 * margin))
            near.append((i[:, None] + margin - j).abs() <= self.config.radius)
        return (near[0][:, None, :, None] & near[1][None, :, None]).flatten(2).flatten(0, 1)

    def _cut(self, length: int) -> tuple[int, int]:
        """Side of a block and its margin along an axis of so many patches; one block needs no margin."""
        radius = self.config.radius
        if length <= self.block + 2 * radius:
            return length, 0
        return math.ceil(length / round(length / self.block)), radius

    def _covered(self, length: int) -> int:
        """Shortest axis, at least as long, that patches cover without a rest."""
        return self.patch + max(0, -(-(length - self.patch) // self.config.stride)) * self.config.stride

    def _patches(self, x: Tensor) -> Tensor:
        """All patches, (B, h, w, m), of images (B, C, H, W)."""
        rows = (x.shape[-2] - self.patch) // self.config.stride + 1
        return F.unfold(x, self.patch, stride=self.config.stride).mT.unflatten(1, (rows, -1))

    def _average(self, patches: Tensor, size: tuple[int, int]) -> Tensor:
        """Images of that size, at each pixel the mean of the patches, (B, h, w, m), that cover it (eq. 2)."""
        columns = patches.flatten(1, 2).mT
        ones = columns.new_ones(1, self.patch**2, columns.shape[-1])
        total, count = (F.fold(z, size, self.patch, stride=self.config.stride) for z in (columns, ones))
        return total / count


def overcomplete_dct(patch: int, channels: int, atoms: int) -> Tensor:
    """Products of cosines of unit norm and zero mean as columns, (channels * patch**2, atoms).

    In colour about half of them are gray; a quarter each lies on two axes of chroma, constants included.
    """
    if channels == 1:
        return _cosines(patch, atoms + 1)[:, 1:]
    axes = F.normalize(torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]]), dim=1)
    quarter = atoms // 4 + 1
    gray, chroma = _cosines(patch, atoms - 2 * quarter + 1)[:, 1:], _cosines(patch, quarter)
    planes = (gray, chroma, chroma)
    return torch.cat([torch.kron(axis[:, None], plane) for axis, plane in zip(axes, planes)], dim=1)


def _cosines(patch: int, count: int) -> Tensor:
    """The `count` products of two cosines of lowest frequency, (patch**2, count), the constant one first."""
    side = math.ceil(math.sqrt(count))
    position, frequency = torch.arange(patch)[:, None] + 0.5, torch.arange(side)
    wave = torch.cos(torch.pi * position * frequency / max(side, patch))
    wave[:, 1:] -= wave[:, 1:].mean(0)
    products = torch.kron(wave, wave)  # (patch**2, side**2)
    order = (frequency[:, None] ** 2 + frequency**2).flatten().argsort(stable=True)
    return F.normalize(products[:, order[:count]], dim=0)


def _framed(x: Tensor, edge: int, size: tuple[int, int]) -> Tensor:
    """Maps of that size: x continued by reflection, by `edge` above and to the left, and as needed below."""
    turned = reflect_to(x.flip(-2, -1), x.shape[-2] + edge, x.shape[-1] + edge)
    return reflect_to(turned.flip(-2, -1), *size)


def _to_blocks(x: Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    """Maps (B, h, w, c) in blocks with a margin, (B * blocks, entries, c), zero beyond the maps; an axis has
    the side of a block and the margin."""
    (high, above), (wide, beside) = rows, columns
    rest = (-x.shape[1] % high, -x.shape[2] % wide)
    x = F.pad(x, (0, 0, beside, beside + rest[1], above, above + rest[0]))
    x = x.unfold(1, high + 2 * above, high).unfold(2, wide + 2 * beside, wide)
    return x.permute(0, 1, 2, 4, 5, 3).flatten(3, 4).flatten(0, 2)


def _from_blocks(x: Tensor, high: int, wide: int, height: int, width: int) -> Tensor:
    """Maps (B, height, width, c) of blocks without a margin, (B * blocks, high * wide, c)."""
    down, across = -(-height // high), -(-width // wide)
    x = x.view(-1, down, across, high, wide, x.shape[-1]).transpose(2, 3)
    return x.reshape(-1, down * high, across * wide, x.shape[-1])[:, :height, :width]
