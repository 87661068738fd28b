"""Commands for phase retrieval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepgsr_cli.cli.command import Command, add, run
from deepgsr_cli.cli.options import (
    FILES,
    MEASUREMENT,
    QUALITY,
    Arithmetic,
    BatchOptions,
    ModelOptions,
    Seed,
    Strict,
    check_pictures,
    check_place,
    check_reference,
    option,
    parse_precision,
)
from deepgsr_cli.cli.output import say, silent
from deepgsr_cli.errors import OutputError, UsageError, check_seed
from deepgsr_cli.phase import MOST_SIDE_PX

if TYPE_CHECKING:
    from deepgsr_cli.jobs.plan import Plan
    from deepgsr_cli.jobs.work import Facts
    from deepgsr_cli.phase.jobs import Measured, PhaseRetrieval, Simulated
    from deepgsr_cli.phase.methods import Settings


Restarts = Annotated[
    int | None,
    option(
        panel=QUALITY,
        help="Random starts of er, hio and raar, and of red for fourier: the best goes on.",
        default="50 for fourier (20 with red), 3 for cdp",
    ),
]
Iterations = Annotated[
    int | None,
    option(
        panel=QUALITY,
        help="Iterations from the best start, of the same methods.",
        default="1000 for fourier (100 with red), 300 for cdp",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Phase(ModelOptions, BatchOptions):
    """Make a picture of the intensities of its diffraction patterns.

    The phase of the patterns is lost in the measurement. A Fourier pattern does not tell a picture from the
    shifted or turned one: these ambiguities are resolved before a comparison with a true picture.
    """

    precision: Arithmetic = "fp32"
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Intensities: .npz, .npy, .h5, .cxi, .mat or .tif; folders of them, or globs.",
            show_default=False,
        ),
    ] = None
    output: Annotated[
        str | None,
        option(
            "--output",
            "-o",
            panel=FILES,
            help="Picture to write, or folder; .tif gets floating point, others 8 bits.",
            default="<name>_phase.png beside the input",
        ),
    ] = None
    reference: Annotated[
        Path | None,
        option(panel=FILES, help="True picture, or folder of them: print PSNR and SSIM.", default=""),
    ] = None
    keep_measurement: Annotated[
        Path | None, option(panel=FILES, help="Write the simulated measurement to this .npz.", default="")
    ] = None
    simulate: Annotated[
        str | None,
        option(
            panel=MEASUREMENT,
            help="Make the measurement from this picture, or from each of a folder or glob.",
            default="",
        ),
    ] = None
    size: Annotated[
        int | None,
        option(panel=MEASUREMENT, help="Side a simulation's picture is resized to.", default="its own"),
    ] = None
    model: Annotated[
        str | None,
        option(
            panel=MEASUREMENT,
            help="fourier (oversampled) or cdp (coded diffraction patterns).",
            default="what the file says",
        ),
    ] = None
    masks: Annotated[
        Path | None,
        option(panel=MEASUREMENT, help="Masks of cdp, (J, H, W), as .npy.", default="what the file says"),
    ] = None
    num_masks: Annotated[int, option(panel=MEASUREMENT, help="Random masks of a simulation.")] = 4
    mask_kind: Annotated[
        str, option(panel=MEASUREMENT, help="Masks of a simulation: uniform, quaternary or binary.")
    ] = "uniform"
    noise: Annotated[
        str, option(panel=MEASUREMENT, help="Noise of a simulation by --alpha: gaussian or poisson.")
    ] = "gaussian"
    oversampling: Annotated[
        float | None,
        option(
            panel=MEASUREMENT,
            help="Samples a pixel in each direction, for fourier.",
            default="the file's, or 2",
        ),
    ] = None
    support: Annotated[
        Path | None,
        option(
            panel=MEASUREMENT,
            help="Where the object may be, (H, W), as .npy, for fourier.",
            default="everywhere",
        ),
    ] = None
    alpha: Annotated[
        float | None,
        option(
            panel=MEASUREMENT,
            help="Noise level of pictures in 0-255: the intensities' deviation is alpha times the magnitude.",
            default="the file's; 27 for a simulation",
        ),
    ] = None
    snr: Annotated[
        float | None,
        option(
            panel=MEASUREMENT,
            help="Signal-to-noise ratio of the intensities in dB, for white noise.",
            default="the file's",
        ),
    ] = None
    peak: Annotated[
        float | None,
        option(
            panel=MEASUREMENT,
            help="Largest value of the picture, as magnitude.",
            default="the file's, or 255",
        ),
    ] = None
    scaling: Annotated[
        str | None,
        option(
            panel=MEASUREMENT,
            help="Of the Fourier transform: prdeep or unitary.",
            default="the file's, or prdeep",
        ),
    ] = None
    method: Annotated[
        str,
        option(
            panel=QUALITY,
            help="red (iterations with a denoiser), unrolled (trained weights, for cdp), er, hio or raar.",
        ),
    ] = "red"
    prior: Annotated[
        str,
        option(panel=QUALITY, help="Denoiser of red: deepgsr, or, to compare with it, tv or bm3d."),
    ] = "deepgsr"
    restarts: Restarts = None
    iterations: Iterations = None
    seed: Seed = 0
    strict: Strict = False

    def check(self) -> None:
        if bool(self.inputs) == (self.simulate is not None):
            raise UsageError("give either a measurement or --simulate with a picture")
        only_files: dict[str, object] = {"--masks": self.masks, "--support": self.support}
        only_files |= {"--reference": self.reference, "--peak": self.peak, "--scaling": self.scaling}
        only_simulations = {"--size": self.size, "--keep-measurement": self.keep_measurement}
        for name, value in (only_files if self.simulate is not None else only_simulations).items():
            if value is not None:
                does = "does not go with" if self.simulate is not None else "needs"
                raise UsageError(f"{name} {does} --simulate; leave it out")
        if self.size is not None and not 1 <= self.size <= MOST_SIDE_PX:
            raise UsageError(f"--size {self.size}: give 1 to {MOST_SIDE_PX} pixels")
        if self.alpha is not None and self.snr is not None:
            raise UsageError("--alpha and --snr exclude each other; give one")
        if "-" in (*(self.inputs or ()), self.simulate, self.output):
            raise UsageError("-: phase reads and writes files; name them")
        check_reference(self.reference)
        check_seed(self.seed)
        parse_precision(self.precision)
        super().check()

    def settings(self) -> Settings:
        """Return the method and its settings."""
        from deepgsr_cli.phase.methods import Settings

        return Settings(self.method, self.prior, self.restarts, self.iterations)

    def source(self) -> Measured | Simulated:
        """Return where the measurements come from, with the arrays that are given for all."""
        from deepgsr_cli.formats.patterns import read_masks
        from deepgsr_cli.phase.jobs import Measured, Simulated
        from deepgsr_cli.phase.simulation import Simulation

        if self.simulate is None:
            return Measured(
                self.model,
                None if self.masks is None else read_masks(self.masks),
                None if self.support is None else read_masks(self.support)[0],
                self.oversampling,
                self.scaling,
                self.peak,
                (self.alpha, self.snr),
                self.reference,
            )
        simulation = Simulation(
            self.model or "cdp",
            self.num_masks,
            self.mask_kind,
            2.0 if self.oversampling is None else self.oversampling,
            27.0 if self.alpha is None else self.alpha,
            self.snr,
            self.noise,
            self.seed,
        )
        return Simulated(simulation, self.size, self.keep_measurement)


class _Phase(Command[Phase, "Plan"]):
    name = "phase"
    done = "retrieved"

    def plan(self, options: Phase) -> Plan:
        from deepgsr_cli.formats import image, patterns
        from deepgsr_cli.jobs.plan import plan

        options.settings()
        inputs, suffixes, kind = options.inputs or [], tuple(patterns.SUFFIXES), "measurements"
        if options.simulate is not None:
            inputs, suffixes, kind = [options.simulate], tuple(image.SUFFIXES), "pictures"
        jobs = plan(inputs, options.output, self.name, suffixes, kind=kind, target_suffix=".png")
        _check_kept(options.keep_measurement, len(jobs.jobs), options.overwrite)
        check_pictures(job.target for job in jobs.jobs)
        return jobs

    def open(self, options: Phase, plan: Plan) -> Callable[[], PhaseRetrieval]:
        return partial(_open, options)

    def describe(self, options: Phase, facts: Facts) -> str:
        text = f"residual {facts['residual']:.4f}"
        if "psnr" in facts:
            text += f", PSNR {facts['psnr']:.2f} dB, SSIM {facts['ssim']:.4f}"
        return text


def _check_kept(path: Path | None, count: int, overwrite: bool) -> None:
    """Refuse a file for a measurement that could not be written before the work is done rather than after."""
    if path is None:
        return
    if count > 1:
        raise UsageError(f"--keep-measurement {path}: {count} measurements do not fit one file; leave it out")
    check_place("--keep-measurement", path)
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: exists; give --overwrite or another name")


def _open(options: Phase) -> PhaseRetrieval:
    """Make the work of a run."""
    from deepgsr_cli.phase.jobs import PhaseRetrieval
    from deepgsr_cli.phase.priors import DENOISER
    from deepgsr_cli.pictures.restorer import Restorer, RunOptions

    weights = options.weights if options.method == "unrolled" else options.weights or DENOISER
    running = RunOptions(
        options.device,
        parse_precision(options.precision),
        offline=options.offline,
        sharing=options.sharing,
    )
    restorer = Restorer(weights, running, silent if options.quiet else say)
    return PhaseRetrieval(options.source(), options.settings(), restorer, options.seed)


def register(app: typer.Typer) -> None:
    """Add the command to an app."""
    examples = (
        "deepgsr phase --simulate examples/cat.png --size 64 --alpha 9 -o retrieved.png",
        "deepgsr phase patterns.npz --reference photo.png -o retrieved.png",
        "deepgsr phase patterns -o retrieved --skip-existing --report retrieved.html",
    )
    add(app, "phase", Phase, partial(run, _Phase()), examples=examples)
