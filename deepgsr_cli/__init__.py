"""Image restoration with the DeepGSR group sparsity prior.

import deepgsr_cli

clean = deepgsr_cli.denoise(noisy, sigma=25)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepgsr_cli.version import __version__

if TYPE_CHECKING:
    from deepgsr_cli.formats.image import read_image as read_image
    from deepgsr_cli.formats.image import write_image as write_image
    from deepgsr_cli.pictures.restorer import denoise as denoise
    from deepgsr_cli.pictures.restorer import derain as derain
    from deepgsr_cli.pictures.restorer import restore as restore

__all__ = ["__version__", "denoise", "derain", "read_image", "restore", "write_image"]

# Imported when first used: `import deepgsr_cli` costs nothing, and only restoring imports torch.
_HOMES = {
    "denoise": "pictures.restorer",
    "derain": "pictures.restorer",
    "restore": "pictures.restorer",
    "read_image": "formats.image",
    "write_image": "formats.image",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
