"""Jobs done one after another, going on after a bad one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from deepgsr_cli.errors import DeviceError, OutputError, UsageError, UserError, WeightsError
from deepgsr_cli.jobs.plan import Job


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        job: The job.
        status: "done", "skipped" or "failed".
        seconds: Wall-clock time it took.
        result: What the work returned, if it is done.
        error: The sentence that says why it failed.
    """

    job: Job
    status: Literal["done", "skipped", "failed"]
    seconds: float = 0.0
    result: Any = None
    error: str | None = None


def run(
    jobs: Iterable[Job], work: Callable[[Job], Any], *, skip_existing: bool, overwrite: bool
) -> Iterator[Outcome]:
    """Outcomes of the jobs in order; a failed one does not stop the others.

    Args:
        jobs: What to do.
        work: Restores one file, and raises a UserError if it cannot be.
        skip_existing: Pass over jobs whose target exists.
        overwrite: Replace targets that exist; without either, such a job fails.

    Raises:
        UsageError: From the work, whatever the file, as the next would raise it as well.
        WeightsError: Likewise.
        DeviceError: Likewise.
    """
    for job in jobs:
        started = time.perf_counter()
        target = job.target
        try:
            if target is not None and target.exists():
                if skip_existing:
                    yield Outcome(job, "skipped")
                    continue
                if not overwrite:
                    raise OutputError(f"{target}: exists; give --overwrite, --skip-existing or another -o")
            result = work(job)
        except (UsageError, WeightsError, DeviceError):
            raise
        except UserError as error:
            yield Outcome(job, "failed", time.perf_counter() - started, error=str(error))
        except MemoryError:
            sentence = f"{job.label}: memory does not suffice; free some, or cut the picture into parts"
            yield Outcome(job, "failed", time.perf_counter() - started, error=sentence)
        else:
            yield Outcome(job, "done", time.perf_counter() - started, result)
