"""Many files, one command: which files, and where each result goes."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

from deepgsr_cli.errors import InputError, UsageError, UserError
from deepgsr_cli.files import files_below
from deepgsr_cli.words import counted

STREAM = "-"

J = TypeVar("J", bound="Job")


@dataclass(frozen=True)
class Job:
    """One file to restore.

    Attributes:
        source: The input; None for standard input.
        target: Where the result goes; None for standard output.
        name: Path of the input below the folder it was found in, to look up its reference.
        beside: Where a second result goes, as what is known of the first; None if there is none.
    """

    source: Path | None
    target: Path | None
    name: Path
    beside: Path | None = field(default=None, kw_only=True)

    @property
    def targets(self) -> list[Path]:
        """The files that are written."""
        return [path for path in (self.target, self.beside) if path is not None]

    @property
    def label(self) -> str:
        """The input as the user would call it."""
        return STREAM if self.source is None else str(self.source)


@dataclass(frozen=True)
class Plan:
    """All jobs of a run.

    Attributes:
        jobs: In the order they are done in.
        notes: Sentences on the inputs.
        failures: One for each input that cannot be used.
        passed_over: Files below the folders given that are no inputs.
        aims: Sentences on what will be done, for a run that is not dry.
    """

    jobs: list[Job]
    notes: list[str] = field(default_factory=list)
    failures: list[UserError] = field(default_factory=list)
    passed_over: list[Path] = field(default_factory=list)
    aims: list[str] = field(default_factory=list)


def plan(
    inputs: Iterable[str],
    output: str | None,
    task: str,
    suffixes: Collection[str],
    *,
    kind: str = "pictures",
    target_suffix: str | Mapping[str, str] | None = None,
    foreign: Collection[str] = (),
) -> Plan:
    """Plan jobs for files, folders and globs.

    Without an output, a result is written beside its input as `<stem>_<task><suffix>`. An output is a folder
    if it exists as one, ends in a separator, or must be one because the inputs are several or a folder, which
    the name of a file is refused for; the trees of input folders are kept below it. Results that would go to
    one path are `told_apart`, where their inputs differ in the suffix or the folder. Hidden files, results of
    earlier runs, and what already lies in the output folder are not taken as input from a folder or a glob.

    Args:
        inputs: Files, folders (searched to any depth), glob patterns (`**` too), or "-" for standard input.
        output: File, folder, or "-" for standard output.
        task: Name of the command.
        suffixes: Of files to take from folders, lower case with the dot.
        kind: What the files are, in the plural.
        target_suffix: Of results without a name of their own; None for that of the input. A mapping has, by
            the suffix of the input in lower case, those that differ from it.
        foreign: Suffixes of files of that kind that cannot be read; those found are named.

    Raises:
        UsageError: Nothing found, two results for one path, or a result in place of an input.
        InputError: Nothing found, as a folder cannot be listed.
    """
    inputs = list(inputs)
    folder = None
    if output not in (None, STREAM):
        folder = _as_folder(str(output), inputs, [*suffixes, target_suffix])
    found: dict[Path, tuple[Path, Path]] = {}  # by real path: the input, and its path below its root
    passed_over: list[Path] = []
    failures: list[InputError] = []
    for text in inputs:
        if text == STREAM:
            continue
        candidates, implicit = _candidates(text, failures)
        for file, name in candidates:
            if implicit and (_hidden(name) or _is_result(file, task, suffixes) or _inside(file, folder)):
                continue
            if implicit and file.suffix.lower() not in suffixes:
                passed_over.append(file)
                continue
            found.setdefault(Path(os.path.realpath(file)), (file, name))
    stream = STREAM in inputs
    if not found and not stream:
        if folder is not None and any(_inside(Path(text), folder) for text in inputs):
            raise UsageError(
                f"-o {output}: is the folder of the inputs, and no input is overwritten; give another -o"
            )
        if failures:
            raise failures[0]
        kinds = ", ".join(sorted(suffixes))
        raise UsageError(f"{', '.join(inputs)}: no {kind} in there; looked for {kinds}")
    if stream and (found or output is None):
        raise UsageError("- stands for standard input and goes alone, with an output: -o FILE or -o -")
    if stream and folder is not None:
        raise UsageError(f"-o {output}: is a folder, and standard input has no name; give a file in it")
    if output == STREAM and len(found) > 1:
        raise UsageError(f"-o -: {len(found)} {kind} do not fit one stream; give a folder")

    jobs = []
    for file, name in found.values():
        suffix = target_suffix if isinstance(target_suffix, str) else file.suffix
        if isinstance(target_suffix, Mapping):
            suffix = target_suffix.get(suffix.lower(), suffix)
        if output is None:
            target: Path | None = file.with_name(f"{file.stem}_{task}{suffix}")
        elif output == STREAM:
            target = None
        else:
            target = Path(output) if folder is None else (folder / name).with_suffix(suffix)
        jobs.append(Job(file, target, name))
    if stream:
        jobs.append(Job(None, None if output == STREAM else Path(str(output)), Path("stdin")))
    jobs, apart = told_apart(jobs)
    refuse_collisions(jobs)
    notes = [*_notes(passed_over, kind, foreign), *apart]
    if output not in (None, STREAM) and folder is None and not Path(str(output)).suffix:
        notes.append(f"-o {output}: is the name of a file; for a folder, give {output}/")
    return Plan(jobs, notes, list(failures), passed_over=passed_over)


def _notes(passed_over: list[Path], kind: str, foreign: Collection[str]) -> list[str]:
    """Sentences on files that are passed over: no such files, and such of formats that are not read."""
    unread = [file for file in passed_over if file.suffix.lower() in foreign]
    others = len(passed_over) - len(unread)
    notes = [f"{counted(others, 'file')} passed over, no {kind}"] if others else []
    if unread:
        names = ", ".join(file.name for file in unread[:3]) + (", ..." if len(unread) > 3 else "")
        notes.append(f"{counted(len(unread), 'file')} passed over, of formats that are not read: {names}")
    return notes


def _candidates(text: str, failures: list[InputError]) -> tuple[list[tuple[Path, Path]], bool]:
    """Files that an input stands for, with their paths below it, and whether they are not named by it."""
    path = Path(text)
    if os.path.isdir(path):
        return [(file, file.relative_to(path)) for file in sorted(files_below(path, failures))], True
    matches = _matches(text)
    if matches is None:
        return [(path, Path(path.name))], False  # a missing file fails when it is read
    if not any(file.is_file() for file in matches):
        raise UsageError(f"{text}: no file matches; check the pattern")
    return [(file, Path(file.name)) for file in matches if file.is_file()], True


def expanded(inputs: Iterable[str]) -> list[Path]:
    """List inputs with what matches a glob pattern in its place, each once by its real path."""
    found: dict[str, Path] = {}
    for text in inputs:
        for path in _matches(text) or [Path(text)]:
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def _matches(text: str) -> list[Path] | None:
    """List what matches a glob pattern; None for a name that is there, or that is no pattern."""
    if os.path.exists(text) or not glob.has_magic(text):
        return None
    return [Path(match) for match in sorted(glob.glob(text, recursive=True))]


def shard(jobs: list[Job], text: str) -> list[Job]:
    """Part i of n, "i/n" with i from 1, of the jobs: every n-th, so that parts are alike.

    Raises:
        UsageError: Not of that form or range.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
    part, parts = map(int, match.groups()) if match else (0, 0)
    if not 1 <= part <= parts:
        raise UsageError(f"--shard {text}: give i/n with 1 <= i <= n, as 3/8 for the third of eight")
    return jobs[part - 1 :: parts]


def _as_folder(output: str, inputs: list[str], suffixes: Collection[object]) -> Path | None:
    """The output as a folder, None if it is a file; one that is yet to be made has none of the suffixes."""
    path = Path(output)
    several = len(inputs) > 1 or any(
        text != STREAM and (os.path.isdir(text) or (glob.has_magic(text) and not os.path.exists(text)))
        for text in inputs
    )
    if os.path.isdir(path) or output.endswith(("/", os.sep)):
        return path
    if several and os.path.exists(path):
        raise UsageError(f"-o {output}: is a file, and several results need a folder")
    if several and path.suffix.lower() in suffixes:
        advice = f"give {output}/ if it is one"
        raise UsageError(f"-o {output}: is the name of a file, and several results need a folder; {advice}")
    return path if several else None


def _hidden(name: Path) -> bool:
    return any(part.startswith(".") for part in name.parts)


def _is_result(file: Path, task: str, suffixes: Collection[str]) -> bool:
    """Whether the file is what an earlier run made beside its input."""
    stem = file.stem.removesuffix(f"_{task}")
    # Without a suffix: the whole name of an input, as `told_apart` keeps it.
    return stem != file.stem and any(
        file.with_name(stem + suffix).is_file() for suffix in ("", file.suffix, *suffixes)
    )


def _inside(file: Path, folder: Path | None) -> bool:
    return folder is not None and Path(os.path.realpath(file)).is_relative_to(os.path.realpath(folder))


def told_apart(jobs: Iterable[J]) -> tuple[list[J], list[str]]:
    """Have results that would go to one path keep what their inputs differ in, the suffix or the folder.

    Of `a.heic` and `a.png` that are written as PNG, one becomes `a.heic.png`; the one that has the suffix of
    its input keeps its name. Of `one/a.png` and `two/a.png`, both keep the folder. The names depend on the
    inputs alone, and not on their order.

    Returns:
        The jobs, in their order, and a sentence on each kind of change, if there are such.
    """
    jobs = list(jobs)
    sentences = []
    for difference, names_of in (("suffix", _with_suffixes), ("folder", _in_folders)):
        counts = Counter(job.target for job in jobs)
        numbers = [i for i, job in enumerate(jobs) if job.target is not None and counts[job.target] > 1]
        changed = []
        for number, target in zip(numbers, names_of([jobs[i] for i in numbers])):
            if target != jobs[number].target:
                jobs[number] = replace(jobs[number], target=target)
                changed.append(str(target))
        if changed:
            names = ", ".join(changed[:3]) + (", ..." if len(changed) > 3 else "")
            sentences.append(f"results that differ by their input's {difference} alone keep it: {names}")
    return jobs, sentences


def _with_suffixes(jobs: Sequence[Job]) -> list[Path | None]:
    """Targets of jobs with the suffixes of their inputs in their names, unless they have or show them."""
    targets = []
    for job in jobs:
        source, target = job.source, job.target
        if source is not None and target is not None:
            same = source.suffix.lower() == target.suffix.lower()
            if not same and not target.name.startswith(source.name):
                # A name begins with the stem of the input, which a number or the name of the task may follow.
                target = target.with_name(source.name + target.name[len(source.stem) :])
        targets.append(target)
    return targets


def _in_folders(jobs: Sequence[Job]) -> list[Path | None]:
    """Targets of jobs in the folders that were searched, or that the inputs are in, below a common one."""
    searched = [
        Path(os.path.abspath(job.source)).parents[len(job.name.parts) - 1]
        for job in jobs
        if job.source is not None
    ]
    drives = {folder.anchor for folder in searched}
    if len(searched) < len(jobs) or len(drives) > 1 or len(set(searched)) < 2:
        return [job.target for job in jobs]
    common = os.path.commonpath(searched)
    targets: list[Path | None] = []
    for job, folder in zip(jobs, searched):
        assert job.target is not None
        output = job.target.parents[len(job.name.parts) - 1]
        targets.append(output / folder.relative_to(common) / job.target.relative_to(output))
    return targets


def action_for(
    job: Job, *, skip_existing: bool = False, overwrite: bool = False
) -> Literal["write", "replace", "skip", "fail"]:
    """What becomes of a job by which of its results are there; it is not skipped for one of two."""
    # Path.exists raises for a name that is too long; who writes it says so.
    there = [os.path.exists(target) for target in job.targets]
    if not any(there):
        return "write"
    if overwrite:
        return "replace"
    return "skip" if skip_existing and all(there) else "fail"


def refuse_collisions(jobs: Collection[Job]) -> None:
    """Refuse jobs with a result that would take the place of an input, by its real path, or of another one.

    Raises:
        UsageError: There is such a job.
    """
    sources = {Path(os.path.realpath(job.source)) for job in jobs if job.source is not None}
    targets: dict[Path, Job] = {}
    for job in jobs:
        for target in job.targets:
            real = Path(os.path.realpath(target))
            if real in sources:
                raise UsageError(f"{target}: is an input, and no input is overwritten; give another -o")
            if other := targets.get(real):
                raise UsageError(
                    f"{other.label} and {job.label} would both be written to {target}; "
                    "restore them in two runs with different -o"
                )
            targets[real] = job
