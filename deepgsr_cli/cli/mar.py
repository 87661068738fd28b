"""Commands that reduce metal artifacts in CT."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepgsr_cli.cli.command import Command, add, run
from deepgsr_cli.cli.options import (
    QUALITY,
    GeometryFile,
    SliceOptions,
    Values,
    flag,
    option,
    parse_precision,
    parse_window,
)
from deepgsr_cli.ct import NOTICE
from deepgsr_cli.errors import OptionError
from deepgsr_cli.words import counted

if TYPE_CHECKING:
    from deepgsr_cli.jobs.work import Facts, Result
    from deepgsr_cli.mar.methods import MetalMethod
    from deepgsr_cli.mar.reduction import MetalCorrection, MetalPlan


MetalThreshold = Annotated[float, option(panel=QUALITY, help="CT number in HU above which is metal.")]


@dataclass(frozen=True, kw_only=True)
class Mar(SliceOptions):
    """Reduce metal artifacts in CT slices.

    A DICOM slice is corrected from the image alone, through a virtual scan of it: the result is a derived
    series that differs only where the metal's streaks were. A measured sinogram is corrected itself and
    reconstructed as its geometry file says. Slices without metal come back unchanged.
    """

    method: Annotated[
        str, option(panel=QUALITY, help="deepgsr, li (linear interpolation) or nmar (normalised).")
    ] = "deepgsr"
    metal_threshold: MetalThreshold = 2500.0
    mask: Annotated[
        Path | None,
        option(
            panel=QUALITY,
            help="Metal, instead of the threshold: .png, .npy of (H, W) or (slices, H, W), or DICOM SEG.",
            default="",
        ),
    ] = None
    segment: Annotated[
        list[str] | None,
        option(
            panel=QUALITY,
            help="Label or number of the segment of a DICOM SEG that is metal. Repeatable.",
            default="all together",
        ),
    ] = None
    keep_metal: Annotated[
        bool,
        flag("--keep-metal/--no-keep-metal", panel=QUALITY, help="Leave metal in place, or fill it in."),
    ] = True
    geometry: GeometryFile = None
    values: Values = None

    @property
    def metal(self) -> str:
        """Where metal is, in words."""
        if self.mask is not None:
            return f"in the mask {self.mask}"
        return f"above {self.metal_threshold:g} HU"

    def settings(self) -> MetalMethod:
        """Return the method and its settings."""
        from deepgsr_cli.mar.methods import MetalMethod

        precision = parse_precision(self.precision)
        return MetalMethod(self.method, self.metal_threshold, self.keep_metal, precision)


class _Mar(Command[Mar, "MetalPlan"]):
    name = "mar"
    done = "slices corrected"

    def plan(self, options: Mar) -> MetalPlan:
        from deepgsr_cli.ct.jobs import plan_scans
        from deepgsr_cli.mar.masks import read_masks
        from deepgsr_cli.mar.reduction import MetalPlan
        from deepgsr_cli.tomography.geometry_files import read_geometry

        method = options.settings()
        geometry = None if options.geometry is None else read_geometry(options.geometry)
        scans = plan_scans(
            options.inputs,
            options.output,
            format=options.format,
            geometry=geometry,
            pixel_mm=options.pixel_mm,
            values=options.values,
        )
        segments = options.segment or ()
        if segments and options.mask is None:
            raise OptionError("segment", segments[0], "is of a mask; give --mask with a DICOM segmentation")
        masks = None
        if options.mask is not None:
            masks = read_masks(options.mask, scans.jobs, segments)
        plan = MetalPlan(**vars(scans), masks=masks)
        aims = [f"{plan.scan}; method {method.describe()}; metal {options.metal}"]
        told = [masks.note] if masks is not None and masks.note else []
        return replace(plan, notes=[NOTICE, *plan.notes, *told], aims=aims)

    def open(self, options: Mar, plan: MetalPlan) -> Callable[[], MetalCorrection]:
        return partial(_open, options, replace(plan, jobs=[]))

    def describe(self, options: Mar, facts: Facts) -> str:
        if not facts["metal_px"]:
            return f"no metal {options.metal}, unchanged"
        return f"metal {facts['metal_px']} px, change {facts['change_hu']:.1f} HU (RMS in the body)"

    def conclude(self, options: Mar, results: list[Result]) -> list[str]:
        without = sum(not result.facts["metal_px"] for result in results)
        if not without:
            return []
        return [f"no metal {options.metal} in {without} of {counted(len(results), 'slice')}: unchanged"]


def _open(options: Mar, plan: MetalPlan) -> MetalCorrection:
    """Make the work of a run."""
    from deepgsr_cli.compute.device import select_device
    from deepgsr_cli.compute.precision import settled
    from deepgsr_cli.ct.batches import AtOnce
    from deepgsr_cli.mar.methods import load_network
    from deepgsr_cli.mar.reduction import MetalCorrection

    network = None
    if options.method == "deepgsr":
        network = load_network(options.weights, options.device, offline=options.offline)
    device, window_hu = select_device(options.device), parse_window(options.window)
    at_once, method = AtOnce(options.batch, options.sharing), options.settings()
    method = replace(method, precision=settled(method.precision, device))
    return MetalCorrection(method, plan, options.metal, device, network, window_hu, at_once)


def register(app: typer.Typer) -> None:
    """Add the command to an app."""
    examples = (
        "deepgsr mar examples/implant.npy --geometry examples/implant.toml -o corrected.npy",
        "deepgsr mar series --method nmar -o corrected --skip-existing --report metal.html",
    )
    add(app, "mar", Mar, partial(run, _Mar()), examples=examples, note=f"For {NOTICE}.")
