"""DeepGSR: group sparse representation with learned matching and learned low-rank shrinkage.

Source:
    Jiang, Ji, Shi, DeepGSR, IEEE Transactions on Image Processing, 2026.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepgsr_cli.compute.tiling import Preparation, TileNeeds
from deepgsr_cli.models.configuration import Configuration
from deepgsr_cli.models.mosaics import MALVAR_REACH, bayer_mask, malvar
from deepgsr_cli.models.patches import aggregate, extract, from_windows, reflect_to, to_windows
from deepgsr_cli.models.wavelets import dwt2, idwt2

T = TypeVar("T")


@dataclass(frozen=True)
class DeepGSRConfig(Configuration):
    """Shape of a DeepGSR network.

    The network is a U-Net whose down- and up-sampling are Haar transforms. With one level and no stem it is
    the flat chain of blocks of the paper.

    Attributes:
        channels: Channels of the images that go in.
        outputs: Channels that come out, 0 for those that go in.
        conditions: Length of the condition vector (noise level first), 0 for none.
        stem: Haar transforms before the first level: its resolution is 1 / 2**stem.
        widths: Feature channels of each level, each at half the resolution of the one before.
        encoder: Blocks of each level on the way down (the last level has only these).
        decoder: Blocks of each level on the way up, one entry less.
        encoder_groups: Number of a level's encoder blocks that start with low-rank group shrinkage: the last.
        decoder_groups: Number of a level's decoder blocks that do: the first.
        hidden: Channels within a feed-forward, 0 for those of its level.
        convolutions: 3 x 3 convolutions of a feed-forward, at least 2.
        group_channels: Channels that are grouped; a linear map leads there and back unless it is the width.
        patch: Side of a patch in the wavelet domain.
        stride: Distance of neighbouring patches.
        window: Side of a window, in patches; matches are sought within it.
        matches: Members of a group beside its reference.
        embedding: Dimension in which patches are compared.
        rank: Rank of the shrinkage.
        prompts: Entries of the low-rank prompt, more than one.
        search: Radius in pixels of the collaborative filter (`models.collaborative`) whose estimate the
            network is shown beside the image, 0 for none.
        mosaic: Whether a Bayer mosaic goes in, one channel whose first row is R G R G ...; of its three
            channels the others are interpolated first.
    """

    channels: int = 1
    conditions: int = 1
    stem: int = 1
    widths: tuple[int, ...] = (32, 64, 96)
    encoder: tuple[int, ...] = (2, 2, 3)
    decoder: tuple[int, ...] = (1, 2)
    encoder_groups: tuple[int, ...] = (0, 1, 0)
    decoder_groups: tuple[int, ...] = (0, 1)
    hidden: int = 0
    convolutions: int = 2
    group_channels: int = 16
    patch: int = 3
    stride: int = 2
    window: int = 8
    matches: int = 16
    embedding: int = 32
    rank: int = 8
    prompts: int = 16
    outputs: int = 0
    search: int = 0
    mosaic: bool = False

    def without_groups(self) -> DeepGSRConfig:
        """The same shape without group shrinkage, for ablations."""
        none = (0,) * len(self.widths)
        return dataclasses.replace(self, encoder_groups=none, decoder_groups=none[1:])

    def __post_init__(self) -> None:
        levels = len(self.widths)
        if len(self.encoder) != levels or len(self.decoder) != levels - 1:
            raise ValueError(f"{levels} widths need {levels} encoder and {levels - 1} decoder entries")
        if len(self.encoder_groups) != levels or len(self.decoder_groups) != levels - 1:
            raise ValueError(f"{levels} widths need {levels} encoder and {levels - 1} decoder group counts")
        if not 1 <= self.channels <= 4:
            raise ValueError(f"channels is {self.channels}; 1 to 4 are possible")
        if self.prompts < 2:
            raise ValueError(f"prompts is {self.prompts}; a softmax over fewer than 2 passes no gradient")
        if self.convolutions < 2 or not 1 <= self.stride <= self.patch:
            raise ValueError("a feed-forward has 2 convolutions or more, and 1 <= stride <= patch")
        if self.mosaic and (self.channels != 3 or self.outputs or self.search):
            raise ValueError("a mosaic has 3 channels that go in and come out, and no search")
        if self.search and (not 2 <= self.search <= 100 or not self.conditions or self.outputs):
            raise ValueError(
                "a search has a radius of 2 to 100 pixels, and needs the noise level as a condition"
            )


# `paper`: sized as the published network (its feed-forward has 5 convolutions, windows of 14 x 14 patches,
# 100 matches). `small`: for a laptop's CPU. `collaborative`: small, with a filter that finds groups to the
# pixel, where those in feature maps lie on a grid of 16 pixels and miss fine patterns. `base`: collaborative
# with five times the convolutions, for training on a GPU, or on a CPU with bfloat16 units. `wide`: between
# them and without a filter, for what is not white noise. `deep`: wide with two blocks more at each step, to
# start from its weights.
_WIDE = DeepGSRConfig(
    widths=(48, 96, 144),
    encoder=(3, 3, 2),
    decoder=(2, 3),
    encoder_groups=(0, 0, 0),
    decoder_groups=(0, 0),
)
PRESETS = {
    "small": DeepGSRConfig(),
    "base": dataclasses.replace(_WIDE, widths=(64, 128, 192), search=16),
    "wide": _WIDE,
    "deep": dataclasses.replace(_WIDE, encoder=(5, 5, 4), decoder=(4, 5)),
    "collaborative": DeepGSRConfig(
        encoder=(2, 3, 4), decoder=(2, 2), encoder_groups=(0, 0, 0), decoder_groups=(0, 0), search=16
    ),
    "paper": DeepGSRConfig(
        stem=0,
        widths=(12,),
        encoder=(6,),
        decoder=(),
        encoder_groups=(6,),
        decoder_groups=(),
        hidden=192,
        convolutions=5,
        group_channels=12,
        window=14,
        matches=100,
        embedding=108,
        rank=16,
        prompts=16,
    ),
}


class LowRankGroupShrinkage(nn.Module):
    """Low-rank group shrinkage (LGSR): every token replaced by an aggregate of its shrunk group.

    A group is a token and the `matches` tokens most similar to it under two learned maps. Instead of
    thresholding the group's singular values, each member is scaled by a learned gate, and the scaled members
    are averaged by attention from the scaled reference.

    The group is never formed. After matching, everything depends on the tokens only through scalars of
    pairs, so the work is N x N products and gathers of scalars; memory falls from N * k * d to N * N. The
    result equals the gathered form (the oracle in the tests) up to rounding.

    Args:
        dim: Features of a token.
        matches: Members beside the reference, k. Windows of fewer tokens take all they have.
        embedding: Dimension of the compared maps.
        rank: Length of a group's low-rank code.
        prompts: Entries of the prompt that the code attends to, M > 1: with one the attention would be
            constant and the code without effect.
    """

    def __init__(self, dim: int, matches: int, embedding: int, rank: int, prompts: int) -> None:
        super().__init__()
        self.matches = matches
        self.match_query = nn.Linear(dim, embedding, bias=False)
        self.match_key = nn.Linear(dim, embedding, bias=False)
        self.query = nn.Linear(dim, embedding)
        self.key = nn.Linear(dim, embedding)
        self.out = nn.Linear(dim, dim)
        self.reduce = nn.Linear(matches + 1, rank)
        self.prompt = nn.Parameter(torch.randn(prompts, rank))
        self.expand = nn.Linear(rank, matches + 1)

    def match(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and indices of each token's matches, (B, N, k) each, the most similar first."""
        scores = self.match_query(tokens) @ self.match_key(tokens).transpose(-2, -1)
        scores = _full(scores) / math.sqrt(self.query.out_features)  # (B, N, N)
        best = scores.topk(min(self.matches, tokens.shape[1]), dim=-1)
        return best.values, best.indices

    def gate(self, means: Tensor) -> Tensor:
        """Gates in (0, 1), (B, N, k + 1), reference first, of the members' means, (B, N, k + 1)."""
        members = means.shape[-1]
        code = self.reduce(F.pad(means, (0, self.matches + 1 - members)))  # (B, N, r)
        attention = F.softmax(
            code @ self.prompt.transpose(-2, -1) / math.sqrt(code.shape[-1]), dim=-1
        )  # (B, N, M)
        return torch.sigmoid(self.expand(attention @ self.prompt))[..., :members]

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, d) of B windows, each replaced by its group's aggregate."""
        scores, index = self.match(tokens)
        mean = tokens.mean(-1, keepdim=True)  # (B, N, 1)
        gates = self.gate(torch.cat((mean, _gather(mean.transpose(-2, -1), index)), dim=-1))
        reference, members = gates[..., :1], gates[..., 1:]

        # With q_i = g_i0 Wq x_i + bq and k_j = g_ij Wk x_j + bk, expanded so that gates stay scalars:
        query = F.linear(tokens, self.query.weight)  # (B, N, e)
        key = F.linear(tokens, self.key.weight)
        logits = reference * members * (query @ key.transpose(-2, -1)).gather(-1, index)
        logits = logits + members * _gather((key @ self.query.bias)[..., None, :], index)
        logits = logits + reference * (query @ self.key.bias)[..., None]
        logits = (logits + self.query.bias @ self.key.bias) / math.sqrt(query.shape[-1])
        # top-k passes no gradient to the matching maps; their scores, added here, do.
        weights = F.softmax(_full(logits) + scores, dim=-1) * members
        mixing = weights.new_zeros(*index.shape[:-1], tokens.shape[1])
        return self.out(mixing.scatter(-1, index, weights).to(tokens.dtype) @ tokens)


def _full(x: Tensor) -> Tensor:
    """x in float32 where autocast made it narrower."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _gather(row: Tensor, index: Tensor) -> Tensor:
    """Scalars row[b, 0, index[b, i, j]], (B, N, k), of one scalar a token, (B, 1, N)."""
    return row.expand(-1, index.shape[1], -1).gather(-1, index)


class GroupBlock(nn.Module):
    """Group shrinkage of feature maps in the wavelet domain, as a residual.

    Shift, Haar transform, overlapping patches of each band as tokens, windows of tokens, `LowRankGroup-
    Shrinkage`, and the way back. The maps count as periodic, and windows hold whole patches that may reach
    into the next window, so every coefficient is covered and averaged.

    Args:
        width: Channels of the maps.
        config: Shape of the group.
        shifted: Whether the windows lie half a window further.
    """

    def __init__(self, width: int, config: DeepGSRConfig, *, shifted: bool) -> None:
        super().__init__()
        self.patch, self.stride, self.window, self.shifted = (
            config.patch,
            config.stride,
            config.window,
            shifted,
        )
        channels = config.group_channels
        linear = channels != width
        self.enter = nn.Conv2d(width, channels, 1) if linear else nn.Identity()
        self.shrink = LowRankGroupShrinkage(
            channels * config.patch**2, config.matches, config.embedding, config.rank, config.prompts
        )
        self.leave = nn.Conv2d(channels, width, 1) if linear else nn.Identity()

    def _sides(self, size: int) -> tuple[int, int]:
        """Window side in tokens and padded length in pixels for maps of `size` pixels along one axis."""
        cell = 2 * self.stride
        window = min(self.window, (size + cell - 1) // cell)
        side = cell * window
        return window, (size + side - 1) // side * side

    def forward(self, x: Tensor) -> Tensor:
        """Maps of the shape of x, (B, C, H, W), any H and W."""
        (rows, height), (columns, width) = self._sides(x.shape[-2]), self._sides(x.shape[-1])
        y = reflect_to(self.enter(x), height, width)
        shift = (rows * self.stride, columns * self.stride) if self.shifted else (0, 0)
        if self.shifted:
            y = y.roll((-shift[0], -shift[1]), (-2, -1))
        bands = dwt2(y).transpose(1, 2)  # (B, 4, c, H/2, W/2)
        tokens = extract(bands.flatten(0, 1), self.patch, self.stride)  # (4B, R, S, d)
        windows = self.shrink(to_windows(tokens, rows, columns))
        tokens = from_windows(windows, rows, columns, *tokens.shape[1:3])
        bands = aggregate(tokens, self.patch, self.stride).unflatten(0, (-1, 4))
        y = idwt2(bands.transpose(1, 2))
        if self.shifted:
            y = y.roll(shift, (-2, -1))
        return x + self.leave(y[..., : x.shape[-2], : x.shape[-1]])


class FeedForward(nn.Module):
    """Convolutional feed-forward, as a residual; a condition moves the first activation's threshold."""

    def __init__(self, width: int, config: DeepGSRConfig) -> None:
        super().__init__()
        hidden = config.hidden or width
        channels = [width, *[hidden] * (config.convolutions - 1), width]
        layers = [nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(channels)]
        self.layers = nn.ModuleList(layers)
        self.bias = nn.Linear(EMBEDDING, hidden) if config.conditions else None
        # A small last layer starts the block near the identity, which a high learning rate needs.
        nn.init.normal_(layers[-1].weight, std=0.1 / math.sqrt(9 * hidden))

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        y = _conditioned(self.layers[0], x, self.bias, condition)
        for layer in list(self.layers)[1:]:
            y = layer(F.relu_(y))
        return y.add_(x)


def _conditioned(
    conv: nn.Module,
    x: Tensor,
    linear: nn.Module | None,
    condition: Tensor | None,
    weight: Tensor | None = None,
) -> Tensor:
    """Convolution of x with a bias that depends on the condition, (1 or B, EMBEDDING), and with a weight in
    the place of its own if one is given."""
    assert isinstance(conv, nn.Conv2d)
    weight = conv.weight if weight is None else weight
    if linear is None or condition is None:
        return F.conv2d(x, weight, conv.bias, padding=1)
    bias = linear(condition)
    if len(bias) == 1:  # one condition for the batch: part of the convolution's own bias, at no cost
        return F.conv2d(x, weight, _bias(conv) + bias[0], padding=1)
    return F.conv2d(x, weight, conv.bias, padding=1) + bias[..., None, None]


def _analyse(conv: nn.Module, x: Tensor) -> Tensor:
    """The 1 x 1 convolution of the Haar bands of x, computed as one convolution with stride 2."""
    assert isinstance(conv, nn.Conv2d)
    weight = conv.weight.unflatten(1, (-1, 4))[..., 0, 0] @ _haar(conv.weight)  # (out, in, 4)
    return F.conv2d(x, weight.unflatten(-1, (2, 2)), conv.bias, stride=2)


def _synthesise(conv: nn.Module, x: Tensor) -> Tensor:
    """Maps whose Haar bands are the 1 x 1 convolution of x, computed as one convolution and a shuffle."""
    assert isinstance(conv, nn.Conv2d)
    haar = _haar(conv.weight)
    weight = (haar.transpose(-2, -1) @ conv.weight.flatten(1).unflatten(0, (-1, 4))).flatten(0, 1)
    bias = (_bias(conv).unflatten(0, (-1, 4)) @ haar).flatten()
    return F.pixel_shuffle(F.conv2d(x, weight[..., None, None], bias), 2)


def _haar(like: Tensor) -> Tensor:
    """The Haar transform of 2 x 2 pixels, (bands, pixels), in the type of a tensor."""
    return dwt2(torch.eye(4, dtype=like.dtype, device=like.device).view(4, 2, 2)).view(4, 4).transpose(-2, -1)


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


class Block(nn.Module):
    """Optional group shrinkage, then a convolutional feed-forward."""

    def __init__(self, width: int, config: DeepGSRConfig, *, grouped: bool, shifted: bool) -> None:
        super().__init__()
        self.group = GroupBlock(width, config, shifted=shifted) if grouped else None
        self.feed_forward = FeedForward(width, config)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        return self.feed_forward(x if self.group is None else self.group(x), condition)


def _chain(blocks: nn.Module, x: Tensor, condition: Tensor | None) -> Tensor:
    for block in blocks.children():
        x = block(x, condition)
    return x


# Of the share of the filter's estimate, which is thereby 0.018 to 0.982. Without a bound, training at a rate
# of 3e-3 gives all of the picture to the filter within 50 steps, and no gradient leads back.
_MOST_LOGIT = 4.0

# Features of the condition vector's embedding.
EMBEDDING = 32


def config_with_prior(kind: type[T], fields: dict[str, Any]) -> T:
    """Configuration of a network that has DeepGSR networks in it, whose shape is its field "prior".

    Args:
        kind: The dataclass.
        fields: All its fields as JSON types.

    Raises:
        ValueError: A field is missing, unknown or out of its range.
    """
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if set(fields) != known:
        raise ValueError(f"its fields are {', '.join(sorted(fields))}, not {', '.join(sorted(known))}")
    return kind(**{**fields, "prior": DeepGSRConfig.from_dict(fields["prior"])})


def told_more(weight: Tensor, conditions: int) -> Tensor:
    """The first layer of the condition's embedding, (F, 2n), for longer conditions, (F, 2 * conditions): what
    is told beyond the first n makes no difference."""
    linear, logarithmic = weight.chunk(2, dim=1)
    more = conditions - linear.shape[1]
    return torch.cat((F.pad(linear, (0, more)), F.pad(logarithmic, (0, more))), dim=1)


def skip_new_blocks(model: nn.Module, known: Collection[str]) -> None:
    """Have the blocks of a network whose weights are not known return what they are given.

    So a network with more blocks starts where a smaller one has ended.

    Args:
        model: Network with feed-forwards in it.
        known: Names of the weights that are known.

    Source:
        Chen, Goodfellow and Shlens, Net2Net: accelerating learning via knowledge transfer, ICLR 2016.
    """
    for name, module in model.named_modules():
        if isinstance(module, FeedForward) and f"{name}.layers.0.weight" not in known:
            last = module.layers[-1]
            assert isinstance(last, nn.Conv2d)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(_bias(last))


def filter_of(x: Tensor, sigma: Tensor, search: int) -> Tensor:
    """The collaborative filter's estimate, centred, and the share of noise in it, (B, 2C, H, W).

    Args:
        x: Images, (B, C, H, W).
        sigma: Standard deviation of their noise, (B,) or (1,).
        search: Radius in pixels.
    """
    # Loops are compiled, which a network without the filter need not wait for.
    from deepgsr_cli.models.collaborative import filtered_and_share

    return filtered_and_share(x, sigma, search).sub_(0.5)


def filter_ahead(sigma: Tensor, search: int, channels: int) -> Preparation:
    """Filtering of rows of tiles before they are cut, for a network of so many channels, all of which one of
    a gray image stands for; else as `filter_of`."""
    from deepgsr_cli.models.collaborative import filter_margin

    return Preparation(
        lambda rows: filter_of(rows.expand(-1, channels, -1, -1), sigma, search),
        filter_margin(search),
        2 * channels,
    )


class DeepGSR(nn.Module):
    """Restoration network of group blocks.

    With a condition, the first entry is the noise standard deviation on the scale of the image, and the
    output is x - s / (s + 1/255) * network(x): a picture said to be free of noise comes back exactly. Of a
    mosaic, that holds for what was measured; what is interpolated is corrected at any s.
    """

    def __init__(self, config: DeepGSRConfig) -> None:
        super().__init__()
        self.config = config
        groups = 0

        def stage(width: int, grouped: list[bool]) -> nn.ModuleList:
            nonlocal groups
            blocks = nn.ModuleList()
            for group in grouped:
                # Successive group blocks alternate between no shift and half a window.
                blocks.append(Block(width, config, grouped=group, shifted=group and groups % 2 == 1))
                groups += group
            return blocks

        stem_channels = config.channels * 4**config.stem
        widths = config.widths
        self.embed = (
            nn.Sequential(
                nn.Linear(2 * config.conditions, EMBEDDING), nn.ReLU(), nn.Linear(EMBEDDING, EMBEDDING)
            )
            if config.conditions
            else None
        )
        self.head = nn.Conv2d(stem_channels, widths[0], 3, padding=1)
        self.head_bias = nn.Linear(EMBEDDING, widths[0]) if config.conditions else None
        self.filtered_head = self.blend = None
        if config.search:
            self.filtered_head = nn.Conv2d(2 * stem_channels, widths[0], 3, padding=1, bias=False)
            self.blend = nn.Conv2d(widths[0], stem_channels, 3, padding=1)
            nn.init.zeros_(self.filtered_head.weight)
            nn.init.zeros_(self.blend.weight)
            nn.init.constant_(_bias(self.blend), -3.0)
        self.encoder = nn.ModuleList(
            stage(width, [i >= blocks - group for i in range(blocks)])
            for width, blocks, group in zip(widths, config.encoder, config.encoder_groups)
        )
        self.down = nn.ModuleList(nn.Conv2d(4 * a, b, 1) for a, b in itertools.pairwise(widths))
        self.up = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in itertools.pairwise(widths))
        # Built from the deepest level up, the order in which they run.
        upward = [
            stage(width, [i < group for i in range(blocks)])
            for width, blocks, group in list(zip(widths, config.decoder, config.decoder_groups))[::-1]
        ]
        self.decoder = nn.ModuleList(upward[::-1])
        self._outputs = config.outputs or config.channels
        self.tail = nn.Conv2d(widths[0], self._outputs * 4**config.stem, 3, padding=1)
        nn.init.zeros_(self.tail.weight)
        nn.init.zeros_(_bias(self.tail))

    @classmethod
    def from_config(cls, fields: dict[str, Any]) -> DeepGSR:
        """Network with random weights; fields as `config_dict` returns them, without "model"."""
        return cls(DeepGSRConfig.from_dict(fields))

    def config_dict(self) -> dict[str, Any]:
        """Configuration as JSON types, with the model's name under "model"."""
        return {"model": "deepgsr", **dataclasses.asdict(self.config)}

    @property
    def multiple(self) -> int:
        """Pixels that heights and widths are padded to a multiple of, within `forward`."""
        return 2 ** (self.config.stem + len(self.config.widths) - 1)

    @property
    def tile_needs(self) -> TileNeeds:
        """What tiles must respect: the grid on which windows lie, and the halo, both in pixels.

        The halo is not exact, as a group may reach anywhere in its window. It is half a group window of the
        small preset: there, benchmarks/tiling.py finds 0.001 dB between tiled and whole.
        """
        config = self.config
        levels = range(len(config.widths))
        grouped = [
            level
            for level in levels
            if config.encoder_groups[level] or (level < levels[-1] and config.decoder_groups[level])
        ]
        window = 2 * config.stride * config.window * 2**config.stem
        # A tile that starts half a window further would swap the roles of shifted and plain blocks.
        grid = window * 2 ** max(grouped) if grouped else self.multiple
        grid = max(grid, self.multiple)
        if config.mosaic:  # whose pattern has a period of 2
            return TileNeeds(grid=math.lcm(grid, 2), halo=32 + MALVAR_REACH)
        return TileNeeds(grid=grid, halo=32)

    @property
    def bytes_per_pixel(self) -> float:
        """Memory that `forward` takes at its peak for a pixel, roughly: six maps of the first level, and what
        the filter makes of the pixels, with its parts."""
        first = max(self.config.widths[0], self.config.hidden) / 4**self.config.stem
        filtered = 16 * self.config.channels if self.config.search else 0
        return 6 * 4 * (first + self.config.channels) + filtered

    def forward(self, x: Tensor, condition: Tensor | None = None, filtered: Tensor | None = None) -> Tensor:
        """Restored images of the shape of x; of mosaics, (B, 3, H, W).

        Args:
            x: Images, (B, C, H, W), or mosaics, (B, 1, H, W), in [0, 1] where clean; any H and W.
            condition: (B, conditions) or (1, conditions) for all; None for a model without. The first entry
                is the noise standard deviation on the scale of x.
            filtered: What `filter_of` makes of x, if that is known; a model with a search calls
                it otherwise.
        """
        measured = None
        if self.config.mosaic:
            measured = bayer_mask(x)
            x = malvar(x)
        # Centred, as the Haar transform doubles a constant at each level.
        if condition is None:
            return x - self.residual(x - 0.5)
        sigma = condition[:, :1, None, None]
        if self.config.search and filtered is None:
            filtered = filter_of(x, condition[:, 0], self.config.search)
        y = self.residual(x - 0.5, condition, filtered)
        share = sigma / (sigma + 1 / 255)
        if measured is not None:
            share = torch.where(measured > 0, share, 1.0)
        return x - share * y

    def residual(self, x: Tensor, condition: Tensor | None = None, filtered: Tensor | None = None) -> Tensor:
        """What the network alone makes of x, (B, outputs, H, W): zero while its last layer is.

        Args:
            x: (B, C, H, W), any H and W.
            condition: (B, conditions) or (1, conditions) for all, 0 or more; None for a model without.
            filtered: For a model with a search, another estimate of x, and the share of noise in it,
                (B, 2C, H, W). The result is then, pixel by pixel, a learned mean of the network's own and of
                x less the estimate.
        """
        height, width = x.shape[-2:]
        code = None
        if self.embed is not None:
            assert condition is not None
            features = torch.cat((4 * condition, torch.log1p(255 * condition) / 4), dim=-1)
            code = self.embed(features)

        y = self._enter(x, filtered, code)
        skips = []
        for level in range(len(self.encoder)):
            if level:
                skips.append(y)
                y = _analyse(self.down[level - 1], y)
            y = _chain(self.encoder[level], y, code)
        for level in reversed(range(len(skips))):
            y = _synthesise(self.up[level], y).add_(skips.pop())
            y = _chain(self.decoder[level], y, code)
        weight, bias = self._to_planes(self.tail.weight), self._to_planes(_bias(self.tail))
        if filtered is not None:
            assert self.blend is not None
            weight, bias = torch.cat((weight, self.blend.weight)), torch.cat((bias, _bias(self.blend)))
        maps = F.pixel_shuffle(F.conv2d(y, weight, bias, padding=1), 2**self.config.stem)
        residual, logit = maps[..., :height, :width].tensor_split((self._outputs,), dim=1)
        if filtered is not None:
            share = (_MOST_LOGIT * (logit / _MOST_LOGIT).tanh()).sigmoid()
            residual = residual + share * (x - filtered[:, : x.shape[1]] - residual)
        return residual.to(x.dtype)

    def _enter(self, x: Tensor, filtered: Tensor | None, code: Tensor | None) -> Tensor:
        """Maps of the first level, of images and what the filter makes of them."""
        weight, planes = self.head.weight, self._planes(x)
        if filtered is not None:
            assert self.filtered_head is not None
            # One convolution of both: thin ones take as long as the memory they read.
            weight = torch.cat((weight, self.filtered_head.weight), dim=1)
            planes = torch.cat((planes, self._planes(filtered.to(x.dtype))), dim=1)
        device = x.device.type
        if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
            return _conditioned(self.head, planes, self.head_bias, code, self._of_planes(weight))
        # Rounded after, as images may have more digits than half precision: those of CT do.
        narrow = torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            code = None if code is None else code.float()
            maps = _conditioned(self.head, planes.float(), self.head_bias, code, self._of_planes(weight))
        return maps.to(narrow)

    def _planes(self, x: Tensor) -> Tensor:
        """Maps of the first level's size, (B, C * 4**stem, h, w), of images that are padded for all levels:
        one of each place in blocks of pixels."""
        height, width = ((size + self.multiple - 1) // self.multiple * self.multiple for size in x.shape[-2:])
        y = F.pixel_unshuffle(reflect_to(x, height, width), 2**self.config.stem)
        return y.contiguous(memory_format=torch.channels_last)

    def _of_planes(self, weight: Tensor) -> Tensor:
        """Weight for planes, (O, C * 4**stem, 3, 3), that does what a weight does for the Haar bands that the
        stem stands for, which thus need not be computed."""
        bands = weight.unflatten(1, (-1, 4**self.config.stem))
        return torch.einsum("ocbyx,pb->ocpyx", bands, self._stem(weight)).flatten(1, 2)

    def _to_planes(self, weight: Tensor) -> Tensor:
        """Weight or bias, (O * 4**stem, ...), that gives planes instead of Haar bands."""
        bands = weight.unflatten(0, (-1, 4**self.config.stem))
        return torch.einsum("ob...,pb->op...", bands, self._stem(weight)).flatten(0, 1)

    def _stem(self, like: Tensor) -> Tensor:
        """Haar transform of blocks of pixels, (pixels, bands), in the type of a tensor."""
        stem = self.config.stem
        y = torch.eye(4**stem, dtype=like.dtype, device=like.device).view(-1, 1, 2**stem, 2**stem)
        for _ in range(stem):
            y = dwt2(y).flatten(1, 2)
        return y.flatten(1)
