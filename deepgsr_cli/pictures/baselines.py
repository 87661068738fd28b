"""Classical methods that pictures are restored with beside ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from deepgsr_cli.errors import UsageError
from deepgsr_cli.pictures.restorer import Restorer

# Method of a degraded picture, (C, H, W), and sigma on the 0-255 scale.
Method = Callable[[np.ndarray, float], np.ndarray]


def do_nothing(noisy: np.ndarray, sigma: float) -> np.ndarray:
    return noisy


def baseline(name: str, restorers: Mapping[str, Restorer], *, clipped: bool) -> Method:
    if name in restorers:
        restorer = restorers[name]
        if restorer.takes_sigma:
            return lambda noisy, sigma: restorer.restore_pixels(noisy, sigma, clipped=clipped)
        return lambda degraded, sigma: restorer.restore_pixels(degraded)
    try:
        if name == "bm3d":
            import bm3d

            def by_bm3d(noisy: np.ndarray, sigma: float) -> np.ndarray:
                noisy = noisy.astype(np.float64)
                if len(noisy) == 1:
                    return bm3d.bm3d(noisy[0], sigma / 255)[None]
                return bm3d.bm3d_rgb(noisy.transpose(1, 2, 0), sigma / 255).transpose(2, 0, 1)

            return by_bm3d
        from skimage.restoration import denoise_nl_means, denoise_tv_chambolle
    except ImportError as error:
        raise UsageError(
            f"--method {name}: needs a package that is not installed ({error.name}); "
            "pip install 'deepgsr[bench]'"
        ) from error

    if name == "nlm":

        def by_nlm(noisy: np.ndarray, sigma: float) -> np.ndarray:
            s = sigma / 255
            options = {"patch_size": 5, "patch_distance": 10, "h": NLM_STRENGTH * s, "sigma": s}
            # It drops a channel axis of length 1.
            if len(noisy) == 1:
                return denoise_nl_means(noisy[0], **options)[None]
            return denoise_nl_means(noisy, channel_axis=0, **options)

        return by_nlm

    def by_tv(noisy: np.ndarray, sigma: float) -> np.ndarray:
        return denoise_tv_chambolle(noisy, weight=TV_WEIGHT * sigma / 255, eps=1e-4, channel_axis=0)

    return by_tv


# In units of sigma; the best of a grid on held-out training pictures (benchmarks/tune_classical.py).
NLM_STRENGTH = 0.6
TV_WEIGHT = 0.85
