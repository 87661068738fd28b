"""How every command that makes files of files is run, and how a class of options becomes a command."""

from __future__ import annotations

import inspect
import json
import math
import os
import shlex
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import MISSING, Field, fields, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, get_args, get_type_hints

import typer
import typer.core

from deepgsr_cli.cli.options import PANELS, BatchOptions, parse_cluster, parse_jobs
from deepgsr_cli.cli.output import emit, finite, progress_bar, say, say_lines, silent, told_of_compiling
from deepgsr_cli.errors import UsageError
from deepgsr_cli.files import clean_up
from deepgsr_cli.version import __version__
from deepgsr_cli.words import counted

if TYPE_CHECKING:
    from deepgsr_cli.jobs.plan import Job, Plan
    from deepgsr_cli.jobs.run import Outcome, Place, Run
    from deepgsr_cli.jobs.work import Facts, Heading, Result, Work
    from deepgsr_cli.reports.report import ReportItem

O = TypeVar("O")
B = TypeVar("B", bound=BatchOptions)
P = TypeVar("P", bound="Plan")

# Options that name files to write; other paths are read.
_WRITTEN = ("report", "keep_measurement")
# More pictures than this would make a report that no browser opens.
PICTURES_IN_REPORT = 100


def add(
    app: typer.Typer,
    name: str,
    options: type[O],
    do: Callable[[O], None],
    *,
    examples: Sequence[str] = (),
    about: str = "",
    note: str = "",
) -> None:
    """Add a command whose options are the fields of a dataclass, in the panels of `options.PANELS`.

    Args:
        app: Gets the command.
        name: What it is called by.
        options: Dataclass of keyword-only fields, annotated for Typer. Its docstring is the help.
        do: Called with the options given.
        examples: Whole commands, for the end of the help.
        about: Last paragraph of the help, that several commands share.
        note: Sentence before the examples.
    """
    hints = get_type_hints(options, include_extras=True)
    depths = {
        name: depth
        for depth, group in reversed([*enumerate(options.__mro__)])
        for name in inspect.get_annotations(group)
    }

    def place(field: Field[Any]) -> tuple[int, int]:
        """By panel, and there the command's own options before those it shares."""
        panel = getattr(get_args(hints[field.name])[1], "rich_help_panel", None)
        return PANELS.index(panel) if panel in PANELS else -1, depths[field.name]

    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in sorted(fields(options), key=place)  # type: ignore[arg-type]
    ]

    def callback(**values: Any) -> None:
        do(options(**{name: _positive_zero(value) for name, value in values.items()}))

    callback.__doc__ = "\n\n".join(filter(None, (inspect.getdoc(options), about)))
    callback.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    callback.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    heading = ["Examples:" if len(examples) > 1 else "Example:"] if examples else []
    epilog = "\n\n".join([*([note] if note else []), *heading, *examples])
    app.command(name, epilog=epilog, cls=_Command)(callback)


def _positive_zero(value: Any) -> Any:
    """Value of an option, 0 for -0, which compares as 0, but has the sign of a negative number."""
    if isinstance(value, list):
        return [_positive_zero(each) for each in value]
    return value + 0.0 if isinstance(value, float) else value


class _Command(typer.core.TyperCommand):
    """A command whose --help shows no type either, and that refuses empty values."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # As text: an empty name of a file or folder would be the folder one is in when it is a path.
        given, _, _ = self.make_parser(ctx).parse_args(args=[*args])
        for parameter in [] if ctx.resilient_parsing else self.get_params(ctx):
            value = given.get(parameter.name)
            if value == "" or (isinstance(value, list | tuple) and "" in value):
                raise UsageError(
                    f"{_typed(parameter)} is empty, as a variable is that is not set; give a value"
                )
        return super().parse_args(ctx, args)

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)
        if option is not None:
            option.metavar = ""
        return option


def _typed(parameter: Any) -> str:
    """Return what a parameter is called where it is typed."""
    return max(parameter.opts, key=len) if parameter.param_type_name == "option" else parameter.name.upper()


class Command(ABC, Generic[B, P]):
    """A command that makes a file of each of its inputs.

    Attributes:
        name: What it is called by.
        done: What became of the inputs, for the count at the end: "restored", "slices corrected".
    """

    name: str
    done: ClassVar[str]

    @abstractmethod
    def plan(self, options: B) -> P:
        """Find all jobs, from the names and headers of files.

        Raises:
            UserError: Nothing can be done, or the options do not fit.
        """

    @abstractmethod
    def open(self, options: B, plan: P) -> Callable[[], Work]:
        """Return what makes the work; it can be pickled, and called in another process."""

    @abstractmethod
    def describe(self, options: B, facts: Facts) -> str:
        """Return figures of a result, or their means, in words; empty if there are none."""

    def remark(self, result: Result) -> str:
        """Return what there is to know about a result, in words."""
        return result.note

    def conclude(self, options: B, results: list[Result]) -> list[str]:
        """Return sentences on all results, beside their count and the mean of their quality."""
        return []


def run(command: Command[B, P], options: B) -> None:
    """Run a command: plan, do each job, print what comes of it, and write the report asked for.

    Raises:
        UserError: Nothing can be done, or the options do not fit.
        typer.Exit: With 1, where some inputs failed, or, if that is asked for, were warned of.
    """
    options.check()
    plan = command.plan(options)
    if options.shard is not None:
        from deepgsr_cli.jobs.plan import shard

        plan = replace(plan, jobs=shard(plan.jobs, options.shard))
    _refuse_losses(options, plan.jobs)
    tell = silent if options.quiet else say
    for note in plan.notes:
        tell(note)
    for failure in plan.failures:
        say(failure.for_command_line(), style="red")
    for path in plan.passed_over if options.verbose else ():
        tell(f"{path}: passed over")
    if options.dry_run:
        from deepgsr_cli.jobs.plan import action_for

        actions = []
        for job in plan.jobs:
            action = action_for(job, skip_existing=options.skip_existing, overwrite=options.overwrite)
            _print_action(job, action, options)
            actions.append(action)
        if failing := actions.count("fail"):
            ways = "--overwrite or" if options.skip_existing else "--overwrite, --skip-existing or"
            tell(f"already there: {counted(failing, 'result')}; give {ways} another -o")
    else:
        for aim in plan.aims:
            tell(aim)
        clean_up(_written(options, plan.jobs), sparing=True)
        # torch comes in here, so what is wrong with the command line is said before.
        outcomes, heading = _do(command, options, plan)
    if options.json_lines:
        key = "action" if options.dry_run else "status"
        for failure in plan.failures:
            # What cannot be used is a folder or a part of one, which has no result.
            line = {key: "fail" if options.dry_run else "failed", "error": failure.for_command_line()}
            emit(json.dumps(line))
        for path in plan.passed_over:
            emit(json.dumps({"input": str(path), key: "passed over"}))
    if options.dry_run:
        return
    for sentence in _summary(command, options, plan, outcomes, heading):
        tell(sentence)
    if options.report is not None:
        _write_report(command, options, plan, outcomes, heading)
    if plan.failures or any(outcome.status == "failed" for outcome in outcomes):
        raise typer.Exit(1)
    if getattr(options, "strict", False) and any(
        outcome.result and outcome.result.warnings for outcome in outcomes
    ):
        raise typer.Exit(1)


def run_facts() -> dict[str, str]:
    """Return what a report says of any run: the command, the version and the date."""
    return {
        "command": shlex.join(["deepgsr", *sys.argv[1:]]),
        "version": __version__,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def column_means(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, float | str]:
    """Return the mean of each column that rows have: of its finite values, if there are such.

    A picture that equals its reference has an infinite PSNR, beside which the others would not count.
    """
    found = {name: [row[name] for row in rows if name in row] for name in names}
    found = {name: list(filter(math.isfinite, values)) or values for name, values in found.items()}
    return {name: sum(values) / len(values) for name, values in found.items() if values}


def _written(options: BatchOptions, jobs: Sequence[Job]) -> list[Path]:
    """List the files that a command writes."""
    targets = [target for job in jobs for target in job.targets]
    named = (getattr(options, name, None) for name in _WRITTEN)
    return targets + [path for path in named if path is not None]


def _refuse_losses(options: BatchOptions, jobs: Sequence[Job]) -> None:
    """Refuse a result or the report in place of a file that an option has read, as the reference.

    Of a folder, that is the file under the name of the input.

    Raises:
        UsageError: There is such a one.
    """
    written = {os.path.realpath(path): path for path in _written(options, jobs)}
    for field in fields(options):
        path = getattr(options, field.name)
        if field.name in _WRITTEN or not isinstance(path, Path):
            continue
        for file in (path / job.name for job in jobs) if os.path.isdir(path) else [path]:
            if lost := written.get(os.path.realpath(file)):
                raise UsageError(
                    f"{lost}: is read by --{field.name.replace('_', '-')}, and nothing that is read is"
                    " overwritten; give another name"
                )


def _target(job: Job) -> str:
    return "-" if job.target is None else str(job.target)


def _print_action(job: Job, action: str, options: BatchOptions) -> None:
    if options.json_lines:
        emit(json.dumps({"input": job.label, "output": _target(job), "action": action}))
    else:
        emit(f"{action}: {job.label} -> {_target(job)}")


def _do(command: Command[B, P], options: B, plan: P) -> tuple[list[Outcome], Heading]:
    """Do the jobs of a plan, and print what became of each, in their order.

    Returns:
        What became of them, and what a report says of them all.
    """
    from deepgsr_cli.jobs.run import Place, Run, in_order
    from deepgsr_cli.jobs.work import Heading

    # What every process needs of the plan, beside the jobs.
    rest = replace(plan, jobs=[], notes=[], failures=[], passed_over=[], aims=[])
    run = Run(
        tuple(plan.jobs),
        partial(_open, command, options, rest),
        options.skip_existing,
        options.overwrite,
        PICTURES_IN_REPORT if options.report is not None else 0,
        options.report is not None,
        options.verbose,
    )
    if not run.jobs:
        return [], Heading.of(run.open(Place()))
    outcomes: list[Outcome] = []
    heading = Heading()
    with (
        told_of_compiling(options.quiet),
        progress_bar(len(plan.jobs), command.name, options.quiet) as advance,
    ):
        tally = _Tally(run.jobs, advance)
        # Closed at once after an interrupt, and not when it is forgotten: it may have processes to end.
        with closing(_outcomes(options, run, tally)) as found:
            for outcome in in_order(map(tally.count, found)):
                if outcome.said:
                    say_lines(outcome.said.rstrip())
                heading = heading.joined(outcome.heading)
                outcome = replace(outcome, said="", heading=None)
                outcomes.append(outcome)
                _print_outcome(command, options, plan.jobs[outcome.number], outcome)
    return outcomes, heading


def _open(command: Command[B, P], options: B, plan: P, place: Place) -> Work:
    """Make the work of a run in a process of it."""
    from deepgsr_cli.compute.memory import keep_freed_memory

    keep_freed_memory()
    changes: dict[str, Any] = {"jobs": str(place.sharing)}
    if place.device is not None:
        changes["device"] = place.device
    return command.open(replace(options, **changes), plan)()


def _outcomes(options: BatchOptions, run: Run, tally: _Tally) -> Generator[Outcome]:
    """Do the jobs of a run where the options say."""
    from deepgsr_cli.jobs.here import run_here

    if options.cluster is not None:
        return _on_cluster(options, options.cluster, run)
    jobs = parse_jobs(options.jobs)
    if jobs != 1 and len(run.jobs) > 1:
        from deepgsr_cli.jobs.pool import run_in_processes, share_out

        places, threads = share_out(jobs, getattr(options, "device", "cpu"))
        if len(places) > 1:
            return run_in_processes(run, places, threads, say=say_lines, progress=tally.progress)
    return run_here(run, say=say_lines, progress=tally.progress)


def _on_cluster(options: BatchOptions, cluster: str, run: Run) -> Generator[Outcome]:
    """Do the jobs of a run on a cluster."""
    if any(job.source is None or job.target is None for job in run.jobs):
        raise UsageError("--cluster works on files, not on standard input or output; name them")
    try:
        from deepgsr_cli.jobs.cluster import run_on_cluster
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--cluster needs the package {error.name}: pip install 'deepgsr[cluster]'"
        ) from error
    return run_on_cluster(
        run,
        parse_cluster(cluster),
        device=getattr(options, "device", "cpu"),
        weights=getattr(options, "weights", None),
        offline=getattr(options, "offline", False),
        say=say,
    )


class _Tally:
    """How far the jobs of a run are, for a progress bar.

    Args:
        jobs: All of them.
        advance: Called with the number that is done, in parts too, and what is in work.
    """

    def __init__(self, jobs: Sequence[Job], advance: Callable[[float, str], None]) -> None:
        self._jobs, self._advance = jobs, advance
        self._done = 0
        self._shares: dict[int, float] = {}  # of the jobs in work

    def progress(self, number: int, share: float) -> None:
        """Take note of the share of a job that is done."""
        self._shares[number] = share
        self._tell(number)

    def count(self, outcome: Outcome) -> Outcome:
        """Take note of a job that is done; return what became of it."""
        self._done += 1
        self._shares.pop(outcome.number, None)
        self._tell(outcome.number)
        return outcome

    def _tell(self, number: int) -> None:
        text = f"{number + 1}/{len(self._jobs)} {self._jobs[number].label}"
        self._advance(self._done + sum(self._shares.values()), text)


def _print_outcome(command: Command[B, P], options: B, job: Job, outcome: Outcome) -> None:
    """Print the path of a result, with its figures, on stdout and what there is to know on stderr; or all of
    it as JSON.
    """
    result = outcome.result if outcome.status == "done" else None
    if options.json_lines:
        line: dict[str, Any] = {"input": job.label, "output": _target(job), "status": outcome.status}
        line["seconds"] = round(outcome.seconds, 3)
        if result is not None:
            line |= {name: finite(value) for name, value in result.facts.items() if name != "seconds"}
            if result.note:
                line["note"] = result.note
            if result.warnings:
                line["warnings"] = result.warnings
        if outcome.error:
            line["error"] = outcome.error
        emit(json.dumps(line))
    elif outcome.error:
        say(outcome.error, style="red")
    elif result is not None and not options.quiet:
        if job.target is not None:
            emit("  ".join(filter(None, (str(job.target), command.describe(options, result.facts)))))
        if remark := command.remark(result):
            say(f"{job.label}: {remark}")
    for warning in result.warnings if result is not None and not options.json_lines else ():
        say(f"{job.label}: warning: {warning}", style="yellow")


def _summary(
    command: Command[B, P], options: B, plan: P, outcomes: list[Outcome], heading: Heading
) -> list[str]:
    """Return the count of what became of the inputs, and the mean quality where it was measured."""
    results = [o.result for o in outcomes if o.status == "done" and o.result is not None]
    sentences = []
    if len(outcomes) > 1 or plan.failures:
        text = f"{len(results)} {command.done}"
        for status in ("skipped", "failed"):
            count = sum(outcome.status == status for outcome in outcomes)
            text += f", {count} {status}" if count else ""
        text += f", {counted(len(plan.failures), 'input')} that cannot be used" if plan.failures else ""
        sentences.append(text)
    measured = [result.facts for result in results if "psnr" in result.facts]
    if len(measured) > 1:
        means = column_means(measured, [column.name for column in heading.columns if column.mean])
        equal = sum(math.isinf(facts["psnr"]) for facts in measured)
        apart = f"; {equal} equal to the reference, which PSNR leaves out" if equal else ""
        sentences.append(f"mean of {len(measured)}: {command.describe(options, means)}{apart}")
    return sentences + command.conclude(options, results)


def _write_report(
    command: Command[B, P], options: B, plan: P, outcomes: list[Outcome], heading: Heading
) -> None:
    from deepgsr_cli.reports.report import Report, ReportItem, write_report

    items: list[ReportItem] = []
    for outcome in outcomes:
        items += _items(plan.jobs[outcome.number], outcome, heading)
    items += [ReportItem("input", error=failure.for_command_line()) for failure in plan.failures]
    ran = {name: getattr(options, name) for name in ("device", "precision") if hasattr(options, name)}
    headings = [column.heading for column in heading.columns if column.mean]
    summary = column_means([item.metrics for item in items], headings)
    report = Report(heading.title, command.name, items, {**run_facts(), **ran, **heading.protocol}, summary)
    assert options.report is not None
    write_report(options.report, report)


def _items(job: Job, outcome: Outcome, heading: Heading) -> list[ReportItem]:
    """Return what a report shows of a job; of one that an earlier run has done, too."""
    from deepgsr_cli.reports.report import ReportItem

    result = outcome.result
    if result is None:
        return [ReportItem(job.label, error=outcome.error)]
    facts = result.facts
    # Figures come first: a narrow page shows no more than the first columns at once.
    columns = sorted(heading.columns, key=lambda column: not column.mean)
    metrics = {column.heading: column.value(facts) for column in columns if column.name in facts}
    before = "skipped: its output exists" if outcome.status == "skipped" else ""
    if not before:
        metrics["seconds"] = round(outcome.seconds, 3)
    warnings = (f"warning: {warning}" for warning in result.warnings)
    note = "; ".join(filter(None, (before, result.note, *warnings, result.caption)))
    return [ReportItem(job.label, result.images, metrics, note), *result.plots]
