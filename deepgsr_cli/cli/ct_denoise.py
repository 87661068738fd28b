"""What `denoise` does where its inputs are CT: which they are, and the run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from deepgsr_cli.cli.command import Command, run
from deepgsr_cli.cli.options import (
    PictureOptions,
    SliceOptions,
    TileOptions,
    parse_level_hu,
    parse_window,
    run_options,
)
from deepgsr_cli.ct import NOTICE
from deepgsr_cli.errors import UsageError

if TYPE_CHECKING:
    from deepgsr_cli.ct.denoise_jobs import SliceDenoising
    from deepgsr_cli.ct.jobs import ScanPlan
    from deepgsr_cli.jobs.work import Facts

# Options of `denoise` that pictures alone have.
_OF_PICTURES = ("reference", "preview", "noise", "ensemble", "white", "max_pixels")


@dataclass(frozen=True, kw_only=True)
class DenoiseSlices(SliceOptions, TileOptions):
    """Options of `denoise` for CT slices; those it has for pictures too, by their names there."""

    sigma: str = "auto"
    strength: float = 1.0

    @property
    def level_hu(self) -> float | None:
        """Standard deviation of the noise, None to estimate it."""
        return parse_level_hu(self.sigma)


def of_slices(options: PictureOptions) -> DenoiseSlices:
    """Return the options of a run over CT slices.

    Raises:
        UsageError: There is no output, or an option is given that pictures alone have.
    """
    defaults = {field.name: field.default for field in fields(options)}
    for name in _OF_PICTURES:
        if getattr(options, name) != defaults[name]:
            raise UsageError(f"--{name.replace('_', '-')}: is for pictures; leave it out for CT slices")
    if options.output is None:
        raise UsageError("CT slices need -o: give a folder, or for one slice a file")
    shared = {field.name for field in fields(DenoiseSlices)} & {field.name for field in fields(options)}
    values = {name: getattr(options, name) for name in shared}
    return DenoiseSlices(**values)


def are_slices(inputs: Iterable[str]) -> bool:
    """Whether the inputs are DICOM: such files, or folders with such files and no pictures.

    Raises:
        UsageError: Some are, and some are not.
    """
    from deepgsr_cli.jobs.plan import expanded

    kinds = {path: _is_dicom(path) for path in expanded(inputs)}
    if len(set(kinds.values())) > 1:
        of_ct, other = (
            next(path for path, kind in kinds.items() if kind is wanted) for wanted in (True, False)
        )
        raise UsageError(f"{of_ct} is DICOM and {other} is not; denoise them in two runs")
    return True in kinds.values()


def _is_dicom(path: Path) -> bool:
    from deepgsr_cli.files import files_below
    from deepgsr_cli.formats.dicom.mark import is_marked
    from deepgsr_cli.formats.image import suffixes_in_folders

    pictures, _ = suffixes_in_folders()
    if not os.path.isdir(path):  # where Path.is_dir raises, who reads it says why
        return path.suffix.lower() not in pictures and is_marked(path)
    files = files_below(path, [])  # what cannot be listed is told where the files are read
    if any(file.suffix.lower() in pictures for file in files):
        return False
    return any(is_marked(file) for file in files)


class _DenoiseSlices(Command[DenoiseSlices, "ScanPlan"]):
    name = "denoise"
    done = "slices denoised"

    def plan(self, options: DenoiseSlices) -> ScanPlan:
        from deepgsr_cli.ct.jobs import plan_scans

        level_hu = options.level_hu
        plan = plan_scans(options.inputs, options.output, format=options.format, pixel_mm=options.pixel_mm)
        told = "estimated in each slice" if level_hu is None else f"{level_hu:g} HU"
        return replace(plan, notes=[NOTICE, *plan.notes], aims=[f"CT slices; noise level {told}"])

    def open(self, options: DenoiseSlices, plan: ScanPlan) -> Callable[[], SliceDenoising]:
        return partial(_open, options)

    def describe(self, options: DenoiseSlices, facts: Facts) -> str:
        if not facts["sigma_hu"]:
            return "unchanged"
        return f"noise {facts['sigma_hu']:.1f} HU, change {facts['change_hu']:.1f} HU (RMS in the body)"


def _open(options: DenoiseSlices) -> SliceDenoising:
    """Make the work of a run."""
    from deepgsr_cli.ct.denoise_jobs import SliceDenoising
    from deepgsr_cli.ct.denoising import load_network

    running = run_options(options, options, options.sharing)
    network = load_network(options.weights, options.device, offline=options.offline)
    return SliceDenoising(network, running, options.level_hu, options.strength, parse_window(options.window))


def run_slices(options: PictureOptions) -> None:
    """Run `denoise` over CT slices; errors as of `command.run`."""
    run(_DenoiseSlices(), of_slices(options))
