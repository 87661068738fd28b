"""Image restoration with the DeepGSR group sparsity prior.

import deepgsr_cli

clean = deepgsr_cli.denoise("noisy.png", sigma=25)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepgsr_cli.version import __version__

if TYPE_CHECKING:
    from deepgsr_cli.ct.api import denoise_ct as denoise_ct
    from deepgsr_cli.ct.api import reconstruct_ct as reconstruct_ct
    from deepgsr_cli.formats.image import read_image as read_image
    from deepgsr_cli.formats.image import write_image as write_image
    from deepgsr_cli.mar.api import reduce_metal as reduce_metal
    from deepgsr_cli.phase.api import retrieve_phase as retrieve_phase
    from deepgsr_cli.pictures.api import dejpeg as dejpeg
    from deepgsr_cli.pictures.api import denoise as denoise
    from deepgsr_cli.pictures.api import derain as derain
    from deepgsr_cli.pictures.api import estimate_noise as estimate_noise
    from deepgsr_cli.pictures.api import find_noise as find_noise
    from deepgsr_cli.pictures.api import restore as restore
    from deepgsr_cli.pictures.api import upscale as upscale
    from deepgsr_cli.pictures.demosaicking import demosaick as demosaick
    from deepgsr_cli.pictures.restorer import Restorer as Restorer
    from deepgsr_cli.pictures.restorer import RunOptions as RunOptions
    from deepgsr_cli.tomography.geometry import Geometry as Geometry

# Imported when first used: `import deepgsr_cli` costs nothing, and only what computes imports torch.
_HOMES = {
    "Geometry": "tomography.geometry",
    "Restorer": "pictures.restorer",
    "RunOptions": "pictures.restorer",
    "dejpeg": "pictures.api",
    "demosaick": "pictures.demosaicking",
    "denoise": "pictures.api",
    "denoise_ct": "ct.api",
    "derain": "pictures.api",
    "estimate_noise": "pictures.api",
    "find_noise": "pictures.api",
    "read_image": "formats.image",
    "reconstruct_ct": "ct.api",
    "reduce_metal": "mar.api",
    "restore": "pictures.api",
    "retrieve_phase": "phase.api",
    "upscale": "pictures.api",
    "write_image": "formats.image",
}

__all__ = [
    "Geometry",
    "Restorer",
    "RunOptions",
    "__version__",
    "dejpeg",
    "demosaick",
    "denoise",
    "denoise_ct",
    "derain",
    "estimate_noise",
    "find_noise",
    "read_image",
    "reconstruct_ct",
    "reduce_metal",
    "restore",
    "retrieve_phase",
    "upscale",
    "write_image",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
