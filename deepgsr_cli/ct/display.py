"""CT slices as pictures for a report, in a window."""

from __future__ import annotations

import numpy as np

from deepgsr_cli.reports.report import ReportImage

ERROR_WINDOW_HU = 200.0


def windowed(hu: np.ndarray, window_hu: tuple[float, float]) -> np.ndarray:
    """Gray values, uint8, (H, W), of HU in a window of a centre and a width."""
    centre, width = window_hu
    return np.rint(((hu - centre) / width + 0.5).clip(0, 1) * 255).astype(np.uint8)


def slice_images(
    reference: np.ndarray, methods: dict[str, np.ndarray], window_hu: tuple[float, float]
) -> list[ReportImage]:
    """Pictures of a slice, (H, W) in HU, for the report: reconstructions, the reference, errors."""
    images = [ReportImage(name, windowed(hu, window_hu)) for name, hu in methods.items()]
    images.append(ReportImage("Reference", windowed(reference, window_hu)))
    for name, hu in methods.items():
        label = f"Error of {name}, ±{ERROR_WINDOW_HU:g} HU"
        images.append(ReportImage(label, windowed(hu - reference, (0.0, 2 * ERROR_WINDOW_HU))))
    return images


def window_text(window_hu: tuple[float, float]) -> str:
    """Return a window in the words of a protocol."""
    centre, width = window_hu
    return f"centre,width {centre:g},{width:g} HU"
