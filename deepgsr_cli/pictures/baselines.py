"""Classical methods that pictures are denoised with beside ours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deepgsr_cli.errors import UsageError

# Method of a noisy picture, (C, H, W), and sigma on the 0-255 scale.
Method = Callable[[np.ndarray, float], np.ndarray]
# In units of sigma; the best of a grid on held-out training pictures (benchmarks/tune_classical.py).
NLM_STRENGTH = 0.6
TV_WEIGHT = 0.85


def _bm3d() -> Method:
    import bm3d

    def denoise(noisy: np.ndarray, sigma: float) -> np.ndarray:
        noisy = noisy.astype(np.float64)
        if len(noisy) == 1:
            return bm3d.bm3d(noisy[0], sigma / 255)[None]
        return bm3d.bm3d_rgb(noisy.transpose(1, 2, 0), sigma / 255).transpose(2, 0, 1)

    return denoise


def _nlm() -> Method:
    from skimage.restoration import denoise_nl_means

    def denoise(noisy: np.ndarray, sigma: float) -> np.ndarray:
        s = sigma / 255
        options = {"patch_size": 5, "patch_distance": 10, "h": NLM_STRENGTH * s, "sigma": s}
        # It drops a channel axis of length 1.
        if len(noisy) == 1:
            return denoise_nl_means(noisy[0], **options)[None]
        return denoise_nl_means(noisy, channel_axis=0, **options)

    return denoise


def _tv() -> Method:
    from skimage.restoration import denoise_tv_chambolle

    def denoise(noisy: np.ndarray, sigma: float) -> np.ndarray:
        return denoise_tv_chambolle(noisy, weight=TV_WEIGHT * sigma / 255, eps=1e-4, channel_axis=0)

    return denoise


BASELINES: dict[str, Callable[[], Method]] = {"bm3d": _bm3d, "nlm": _nlm, "tv": _tv}


def baseline(name: str) -> Method:
    """The method of a name in `BASELINES`, ready to run.

    Raises:
        UsageError: Its package is not installed.
    """
    try:
        return BASELINES[name]()
    except ImportError as error:
        raise UsageError(
            f"--method {name}: needs a package that is not installed ({error.name}); "
            "pip install 'deepgsr[bench]'"
        ) from error
