"""Priors of phase retrieval: a shipped denoiser, those of the literature to compare with it, and the
network that is trained end to end.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deepgsr_cli.errors import MissingWeightsError, OptionError
from deepgsr_cli.phase.message_passing import Denoiser
from deepgsr_cli.phase.network import KINDS, UnrolledPhase
from deepgsr_cli.phase.projections import PEAK
from deepgsr_cli.pictures.restorer import Restorer
from deepgsr_cli.weights.load import Loaded, load

TASK = "phase"
# Weights of the denoiser: hundreds of its passes make a picture.
DENOISER = "deepgsr-gray-fast"
# Of total variation in units of sigma, where the denoiser is called within an iteration: the best of 0.3,
# 0.5, 0.85 and 1.2 on training pictures, four masks.
TV_WEIGHT = 0.5


def weighted_denoiser(prior: str, restorer: Restorer) -> tuple[str, Denoiser]:
    """Name and checksum of the weights, "" for none, and the denoiser, of a name of `phase.methods.PRIORS`.

    Args:
        prior: "deepgsr" for the restorer's weights; "tv" (total variation) and "bm3d" are to compare with.
        restorer: Has the weights, for gray pictures.

    Raises:
        OptionError: The prior's package is not installed.
    """
    if prior == "deepgsr":
        return restorer.load(1).weights.label, _of_restorer(restorer)
    try:
        if prior == "bm3d":
            import bm3d

            return "", lambda x, sigma: _restored(bm3d.bm3d(x[0, 0].cpu().numpy(), sigma), x)
        from skimage.restoration import denoise_tv_chambolle
    except ImportError as error:
        raise OptionError(
            "prior",
            prior,
            f"needs a package that is not installed ({error.name}); pip install 'deepgsr[bench]'",
        ) from error

    def by_tv(x: Tensor, sigma: float) -> Tensor:
        return _restored(denoise_tv_chambolle(x[0, 0].cpu().numpy(), weight=TV_WEIGHT * sigma, eps=1e-4), x)

    return "", by_tv


def _restored(pixels: object, x: Tensor) -> Tensor:
    """Pixels, (H, W), as a picture like x, (1, 1, H, W)."""
    return torch.as_tensor(pixels).to(x)[None, None]


def _of_restorer(restorer: Restorer) -> Denoiser:
    limit = restorer.sigma_limit(1)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        pixels = (x[0] / PEAK).float().cpu().numpy()
        return _restored(PEAK * restorer.restore_pixels(pixels, min(sigma, limit))[0], x)

    return denoise


def load_unrolled(weights: str | None, device: str, *, offline: bool) -> Loaded[UnrolledPhase]:
    """Load the network of the method "unrolled".

    Raises:
        WeightsError: As `load.load`.
        MissingWeightsError: There are no default weights.
        OptionError: The weights are for another task.
    """
    return load(
        TASK,
        weights,
        KINDS,
        device=device,
        offline=offline,
        missing=MissingWeightsError(
            "method",
            "unrolled",
            "no weights for it come with deepgsr; give --weights of deepgsr train phase, or --method red",
        ),
        otherwise=", and the method unrolled needs weights of deepgsr train phase; give such, or --method"
        " red",
    )
