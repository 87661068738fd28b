"""The command that reconstructs CT."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepgsr_cli.cli.command import Command, add, run
from deepgsr_cli.cli.options import (
    MEASUREMENT,
    QUALITY,
    Seed,
    SliceOptions,
    Values,
    flag,
    option,
    parse_precision,
    parse_window,
)
from deepgsr_cli.ct import NOTICE
from deepgsr_cli.errors import UsageError, check_seed
from deepgsr_cli.files import sha256

if TYPE_CHECKING:
    from deepgsr_cli.ct.jobs import ScanPlan
    from deepgsr_cli.ct.methods import Method
    from deepgsr_cli.ct.reconstruction import Reconstruction, Scan
    from deepgsr_cli.jobs.work import Facts
    from deepgsr_cli.tomography.geometry import Geometry


DEFAULT_VIEWS = 60
# What --geometry has in place of a file.
SCANNER = Path("scanner")

Photons = Annotated[
    float | None,
    option(
        panel=MEASUREMENT,
        help="Photons a ray that leave the source, as 1e5, or inf.",
        default="inf, no noise; estimated from measured scans",
    ),
]
Filter = Annotated[
    str,
    option(panel=QUALITY, help="Window on the ramp for fbp: ram-lak, shepp-logan, cosine or hann."),
]
Iterations = Annotated[
    int | None,
    option(panel=QUALITY, help="Most iterations for sirt, cgls and tv.", default="200, 20 and 300"),
]
Strength = Annotated[
    float,
    option(panel=QUALITY, help="Weight of total variation for tv, times the one tuned for the scan."),
]
Uncertainty = Annotated[
    bool,
    flag(
        "--uncertainty",
        panel=QUALITY,
        help="Write the error expected of deepgsr, too: <name>_uncertainty, standard deviations in HU.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class CtRecon(SliceOptions):
    """Reconstruct CT slices from few views.

    From DICOM slices, a sparse fan-beam scan is simulated first, and the result is compared with the slice.
    A measured sinogram is reconstructed as its geometry file says, and projections in DICOM-CT-PD, axial or
    helical, as they say themselves. Results are in HU; those of DICOM slices and projections are a derived
    series. A report shows FBP and TV, which are computed for it, beside the method.
    """

    inputs: Annotated[
        list[str],
        typer.Argument(
            help="CT slices, DICOM files or folders; sinograms: .npy, .npz, .h5, .mat or .tif; or folders of"
            " DICOM-CT-PD projections; globs too."
        ),
    ]
    views: Annotated[
        int | None,
        option(
            panel=MEASUREMENT,
            help="Views over a full turn: of the scan simulated from slices, or chosen from projections.",
            default="60, or all projections",
        ),
    ] = None
    photons: Photons = None
    geometry: Annotated[
        Path | None,
        option(
            panel=MEASUREMENT,
            metavar="FILE|scanner",
            help="Geometry of measured sinograms, .toml or .json. For DICOM slices, of the simulated scan,"
            " but for the file's shape and pixel_mm; or scanner, for the distances each slice states.",
            default="",
        ),
    ] = None
    values: Values = None
    method: Annotated[str, option(panel=QUALITY, help="deepgsr, fbp, sirt, cgls or tv.")] = "deepgsr"
    filter: Filter = "hann"
    iterations: Iterations = None
    strength: Strength = 1.0
    uncertainty: Uncertainty = False
    seed: Seed = 0

    @property
    def scanner(self) -> bool:
        """Whether simulated scans have the distances that each slice states."""
        return self.geometry == SCANNER

    def check(self) -> None:
        super().check()
        check_seed(self.seed)
        if self.geometry is not None and self.views is not None and not self.scanner:
            raise UsageError(f"--views {self.views}: {self.geometry} has the views; leave one of them out")
        for name, given, methods in (
            ("--uncertainty", self.uncertainty, ("deepgsr",)),
            ("--iterations", self.iterations is not None, ("sirt", "cgls", "tv")),
            ("--strength", self.strength != 1, ("tv",)),
        ):
            if given and self.method not in methods:
                named = " or ".join(methods)
                raise UsageError(f"{name} is of --method {named}, not of {self.method}; leave it out")

    def settings(self) -> Method:
        """Return the method and its settings."""
        from deepgsr_cli.ct.methods import Method

        photons = None if self.photons == math.inf else self.photons
        precision = parse_precision(self.precision)
        return Method(self.method, photons, self.filter, self.iterations, self.strength, precision)

    def scan(self, plan: ScanPlan) -> Scan:
        """Return how the slices of a plan are measured."""
        from deepgsr_cli.ct.reconstruction import Scan

        num_views = DEFAULT_VIEWS if self.views is None else self.views
        if plan.geometry is not None:
            num_views = plan.geometry.num_views
        if plan.projections:
            num_views = plan.projections[0].views_per_turn
        estimating = plan.measured and self.photons is None
        projections = plan.projections
        return Scan(num_views, plan.geometry, self.scanner, plan.measured, projections, estimating, self.seed)


class _CtRecon(Command[CtRecon, "ScanPlan"]):
    name = "ct-recon"
    done = "slices reconstructed"

    def plan(self, options: CtRecon) -> ScanPlan:
        from deepgsr_cli.ct.simulation import check_views
        from deepgsr_cli.ct.training import TRAINED_VIEWS
        from deepgsr_cli.ct.uncertainty import uncertainty_of
        from deepgsr_cli.jobs.plan import refuse_collisions

        check_views(DEFAULT_VIEWS if options.views is None else options.views)
        method = options.settings()
        plan = self._jobs(options)
        if options.uncertainty:
            plan = replace(plan, jobs=[replace(job, beside=uncertainty_of(job)) for job in plan.jobs])
            refuse_collisions(plan.jobs)
        scan = options.scan(plan)
        aims = [f"{scan.describe(method.photons)}; method {method.describe()}"]
        if method.name == "deepgsr" and scan.num_views > TRAINED_VIEWS[1]:
            aims.append(
                f"{scan.num_views} views are more than the {TRAINED_VIEWS[1]} the network was trained on;"
                " compare with --method fbp or tv"
            )
        if options.uncertainty and options.weights not in (None, "deepgsr-ct"):
            aims.append(
                f"the expected error was calibrated for deepgsr-ct and may not be that of {options.weights};"
                " benchmarks/calibrate_uncertainty.py calibrates it"
            )
        return replace(plan, notes=[NOTICE, *plan.notes], aims=aims)

    def _jobs(self, options: CtRecon) -> ScanPlan:
        from deepgsr_cli.ct.jobs import plan_projections, plan_scans

        inputs, output = options.inputs, options.output
        projections = plan_projections(inputs, output, format=options.format, num_views=options.views)
        if projections is not None and options.geometry is not None:
            raise UsageError("--geometry: DICOM-CT-PD projections have their geometry; leave it out")
        if projections is not None and options.values is not None:
            raise UsageError("--values: DICOM-CT-PD projections say what they hold; leave it out")
        if projections is not None:
            return projections
        geometry = None if options.scanner else _geometry(options.geometry)
        return plan_scans(
            inputs,
            output,
            format=options.format,
            geometry=geometry,
            pixel_mm=options.pixel_mm,
            simulation=True,
            values=options.values,
        )

    def open(self, options: CtRecon, plan: ScanPlan) -> Callable[[], Reconstruction]:
        return partial(_open, options, replace(plan, jobs=[]))

    def describe(self, options: CtRecon, facts: Facts) -> str:
        expected = f", expected error {facts['uncertainty_hu']:.1f} HU" if "uncertainty_hu" in facts else ""
        if "psnr" not in facts:
            photons = "" if facts["photons"] is None else f", {facts['photons']:.2g} photons a ray"
            return f"residual {facts['residual']:.4f}{photons}{expected}"
        quality = f"PSNR {facts['psnr']:.2f} dB, SSIM {facts['ssim']:.4f}"
        if math.isnan(facts["rmse_hu"]):
            return f"{quality}, no body in the slice{expected}"
        return f"{quality}, body: RMSE {facts['rmse_hu']:.1f} HU, bias {facts['bias_hu']:+.1f} HU{expected}"


def _geometry(path: Path | None) -> Geometry | None:
    from deepgsr_cli.tomography.geometry_files import read_geometry

    return None if path is None else read_geometry(path)


def _open(options: CtRecon, plan: ScanPlan) -> Reconstruction:
    """Make the work of a run."""
    from deepgsr_cli.compute.device import select_device
    from deepgsr_cli.compute.precision import settled
    from deepgsr_cli.ct.batches import AtOnce
    from deepgsr_cli.ct.methods import load_network
    from deepgsr_cli.ct.reconstruction import Reconstruction

    network = geometry_sha256 = None
    if plan.geometry is not None and options.geometry is not None:
        geometry_sha256 = sha256(options.geometry)
    if options.method == "deepgsr":
        network = load_network(options.weights, options.device, offline=options.offline)
    method, device = options.settings(), select_device(options.device)
    return Reconstruction(
        replace(method, precision=settled(method.precision, device)),
        options.scan(plan),
        device,
        network,
        geometry_sha256,
        parse_window(options.window),
        AtOnce(options.batch, options.sharing),
        options.uncertainty,
    )


def register(app: typer.Typer) -> None:
    """Add the command to an app."""
    examples = (
        "deepgsr ct-recon examples/ct --views 60 -o sparse",
        "deepgsr ct-recon examples/sinogram.npy --geometry examples/scan.toml --method tv -o slice.npy",
        "deepgsr ct-recon series -o sparse --skip-existing --report ct.html",
    )
    add(app, "ct-recon", CtRecon, partial(run, _CtRecon()), examples=examples, note=f"For {NOTICE}.")
