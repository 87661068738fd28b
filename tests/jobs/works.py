"""Work that needs no network: the processes of the tests that do it start in a third of a second."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from deepgsr_cli.errors import InputError, WeightsError
from deepgsr_cli.files import atomic_write
from deepgsr_cli.jobs.plan import Job
from deepgsr_cli.jobs.run import Place, Run
from deepgsr_cli.jobs.work import Column, Progress, Result


@dataclass
class Copies:
    """Copies text files; what a file says decides how that goes.

    Attributes:
        place: Where it was opened.
    """

    place: Place
    title: str = "Copies"
    columns: tuple[Column, ...] = (Column("length", "length"),)
    protocol: dict[str, str] = field(default_factory=dict)

    def __call__(self, job: Job, *, for_report: bool = False, progress: Progress | None = None) -> Result:
        text = job.source.read_text()
        self.protocol["kind"] = "; ".join(filter(None, (self.protocol.get("kind"), text)))
        if text == "weights":
            raise WeightsError("unknown weights")
        if text == "bad":
            raise InputError(f"{job.label}: is bad")
        if text == "fault":
            raise ZeroDivisionError("by zero")
        if text == "log":
            logging.getLogger("deepgsr_cli.compute.kernels").info("compiling %s", job.label)
        if text == "say":
            print(f"{job.label}: read", file=sys.stderr)
        with atomic_write(job.target) as temporary:
            temporary.write_text(text)
            if text == "brief":
                time.sleep(0.02)
            if text == "slow":
                job.source.with_suffix(".begun").touch()
                try:
                    time.sleep(60)
                finally:
                    job.source.with_suffix(".ended").touch()
            tries = job.source.with_suffix(".tries")
            if text == "deadly" or (text == "once" and not tries.exists()):
                tries.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return Result({"length": len(text), "process": os.getpid(), "place": self.place})

    def review(self, job: Job) -> Result:
        return Result({"length": len(job.target.read_text())})


def run_of(folder: Path, *texts: str, **rules: object) -> Run:
    """A run that copies files with these texts in a folder to another one in it."""
    (folder / "out").mkdir(exist_ok=True)
    jobs = []
    for number, text in enumerate(texts):
        source = folder / f"{number}.txt"
        source.write_text(text)
        jobs.append(Job(source, folder / "out" / source.name, Path(source.name)))
    return Run(jobs, Copies, **rules)


def copied(folder: Path) -> dict[str, str]:
    """Names and texts of what is in the folder of the results, hidden files too."""
    return {path.name: path.read_text() for path in (folder / "out").iterdir()}
