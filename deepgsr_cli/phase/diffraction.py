"""Diffraction patterns: what a lens-free camera sees of an object, and the exact adjoint."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from deepgsr_cli.errors import OptionError, ShapeError

MASK_KINDS = ("uniform", "quaternary", "binary")
SCALINGS = ("prdeep", "unitary")


class Diffraction:
    """Diffraction patterns of pictures, `A(x)`, (B, J, M, N) complex, of x, (B, 1, H, W).

    Plain tensor operations: differentiable, on any device, in the precision of the masks.

    Args:
        masks: Masks, (J, H, W), complex; a pixel where all are 0 is not seen.
        size: Samples of a pattern, (M, N), None for the masks' size.
        scale: s.

    Raises:
        ShapeError: The masks are not such an array, not finite, or all 0, or the patterns are smaller.

    Source:
        Fienup, Phase retrieval algorithms: a comparison, Applied Optics 21(15), 1982; Candès, Li,
        Soltanolkotabi, Phase retrieval from coded diffraction patterns, 2015.
    """

    def __init__(self, masks: Tensor, *, size: tuple[int, int] | None = None, scale: float = 1.0) -> None:
        if masks.ndim != 3 or not masks.is_complex():
            raise ShapeError(f"masks are {masks.dtype} of shape {tuple(masks.shape)}; give complex (J, H, W)")
        height, width = masks.shape[1:]
        size = (height, width) if size is None else size
        if size[0] < height or size[1] < width:
            raise ShapeError(
                f"patterns of {size[1]} x {size[0]} samples are smaller than the picture of "
                f"{width} x {height} pixels; give patterns of at least its size"
            )
        if not bool(torch.isfinite(torch.view_as_real(masks)).all()) or not bool(masks.any()):
            raise ShapeError("the masks have NaN or infinite entries, or are all 0; give finite masks")
        self.masks, self.scale = masks, scale
        self.domain_shape: tuple[int, int] = (height, width)
        self.range_shape: tuple[int, int, int] = (len(masks), *size)
        # AᴴA is diagonal: what each pixel gives to the energy of the patterns.
        self.gram = scale**2 * masks.abs().square().sum(0)  # (H, W)
        self._inverse = torch.where(self.gram > 0, 1 / self.gram, 0.0)

    def __call__(self, x: Tensor) -> Tensor:
        """Patterns, (B, J, M, N), complex, of pictures, (B, 1, H, W), real or complex.

        Raises:
            ShapeError: Another shape.
        """
        if x.ndim != 4 or x.shape[1] != 1 or x.shape[2:] != self.domain_shape:
            raise ShapeError(f"a picture of shape {tuple(x.shape)}; give (B, 1, *{self.domain_shape})")
        rows, columns = (a - b for a, b in zip(self.range_shape[1:], self.domain_shape))
        padded = F.pad(self.masks * x, (0, columns, 0, rows))  # (B, J, M, N)
        return self.scale * torch.fft.fft2(padded, norm="ortho")

    def adjoint(self, z: Tensor) -> Tensor:
        """Aᴴ z, (B, 1, H, W), complex, of z, (B, J, M, N), complex.

        Raises:
            ShapeError: Another shape.
        """
        if z.ndim != 4 or z.shape[1:] != self.range_shape:
            raise ShapeError(f"patterns of shape {tuple(z.shape)}; give (B, *{self.range_shape})")
        height, width = self.domain_shape
        fields = torch.fft.ifft2(z, norm="ortho")[..., :height, :width]
        return self.scale * (self.masks.conj() * fields).sum(1, keepdim=True)

    def to(self, device: torch.device) -> Diffraction:
        """The operator on a device."""
        _, rows, columns = self.range_shape
        return Diffraction(self.masks.to(device), size=(rows, columns), scale=self.scale)

    @property
    def mixes(self) -> bool:
        """Whether it mixes the pixels as a random matrix does: masks of modulus 1 with several phases."""
        uniform = bool(torch.isclose(self.masks.abs(), torch.ones_like(self.gram)).all())
        coded = bool((self.masks != self.masks[0, 0, 0]).any())
        return uniform and coded and self.range_shape[1:] == self.domain_shape

    def pseudo_inverse(self, z: Tensor) -> Tensor:
        """Least-squares picture, (B, 1, H, W), complex, of patterns with their phases; 0 where not seen."""
        return self.adjoint(z) * self._inverse


def check_oversampling(oversampling: float) -> None:
    """Refuse a number of samples a pixel that no Fourier pattern has."""
    if not 1 <= oversampling <= 16:
        raise OptionError("oversampling", oversampling, "give 1 to 16, usually 2")


def oversampled_fourier(
    shape: tuple[int, int],
    oversampling: float = 2.0,
    *,
    support: Tensor | None = None,
    scaling: str = "prdeep",
    dtype: torch.dtype = torch.complex64,
) -> Diffraction:
    """One Fourier pattern of a zero-padded picture.

    Args:
        shape: Shape of the picture, (H, W).
        oversampling: Samples a pixel in each direction, at least 1; from 2 on the autocorrelation fits.
        support: Mask of where the object may be, (H, W), bool; None for everywhere.
        scaling: "prdeep" for s = sqrt(pixels / samples), "unitary" for s = 1.
        dtype: complex64 or complex128.

    Raises:
        OptionError: The oversampling or the scaling is out of range.
        ShapeError: The support has another shape, or is 0 throughout.
    """
    check_oversampling(oversampling)
    if support is not None and support.shape != shape:
        raise ShapeError(
            f"a support of shape {tuple(support.shape)} for a picture of {shape}; give its shape"
        )
    if support is not None and not bool(support.any()):
        raise ShapeError("the support is 0 throughout; give one that is not 0 where the object may be")
    size = (round(shape[0] * oversampling), round(shape[1] * oversampling))
    mask = torch.ones(1, *shape, dtype=dtype) if support is None else support[None].to(dtype)
    return Diffraction(mask, size=size, scale=_scale(scaling, shape, size))


def coded_masks(
    kind: str,
    count: int,
    shape: tuple[int, int],
    generator: torch.Generator,
    dtype: torch.dtype = torch.complex64,
) -> Tensor:
    """Random masks of modulus 1, (count, H, W), complex.

    Args:
        kind: "uniform" (any phase), "quaternary" (1, -1, i, -i) or "binary" (1, -1), equally likely.
        count: Number of masks, at least 1.
        shape: (H, W).
        generator: Random generator, on the CPU.
        dtype: complex64 or complex128.

    Raises:
        OptionError: An unknown kind, or no mask.
    """
    if kind not in MASK_KINDS:
        raise OptionError("mask_kind", kind, f"known are {', '.join(MASK_KINDS)}")
    if count < 1:
        raise OptionError("num_masks", count, "give 1 or more")
    turns = torch.rand(count, *shape, generator=generator, dtype=torch.float64)
    steps = {"quaternary": 4, "binary": 2}.get(kind)
    if steps is None:
        return torch.polar(torch.ones_like(turns), 2 * math.pi * turns).to(dtype)
    # Not by an angle: 1, -1, i and -i are exact.
    values = torch.tensor([1, -1, 1j, -1j][:steps], dtype=dtype)
    return values[(turns * steps).long()]


def _scale(scaling: str, shape: tuple[int, int], size: tuple[int, int]) -> float:
    if scaling not in SCALINGS:
        raise OptionError("scaling", scaling, f"known are {', '.join(SCALINGS)}")
    return 1.0 if scaling == "unitary" else math.sqrt(math.prod(shape) / math.prod(size))
