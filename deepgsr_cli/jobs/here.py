"""Jobs done by this process: in order, or several at once while others are read and written."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from deepgsr_cli.compute.memory import is_out_of_memory
from deepgsr_cli.errors import DeviceError, UsageError, WeightsError
from deepgsr_cli.jobs.plan import Job
from deepgsr_cli.jobs.run import Outcome, Place, Run, attempt, attempted, done, passed_over
from deepgsr_cli.jobs.work import BatchWork, Result, StagedWork, Work

Say = Callable[[str], None]
Told = Callable[[int, float], None]


def run_here(run: Run, *, say: Say | None = None, progress: Told | None = None) -> Generator[Outcome]:
    """Do the jobs in order in this process; a failed one does not stop the others.

    Of a work that can do several jobs at once, batches are computed one after another. The next one is read
    and the one before is written meanwhile, in threads: at most three batches are in memory. Of a work in two
    stages, one job is written while the next one is done, and told after that.

    Args:
        run: What to do.
        say: Called with the traceback of an unexpected error.
        progress: Called with the number of the job in work and the share of it that is done.

    Raises:
        UsageError: From the work, whatever the file, as the next would raise it as well.
        WeightsError: Likewise.
        DeviceError: Likewise.
    """
    if not run.jobs:
        return
    work = run.open(Place())
    if isinstance(work, BatchWork):
        yield from _Pipeline(run, work, say, progress).outcomes()
        return
    if isinstance(work, StagedWork):
        yield from _written_meanwhile(run, work, say, progress)
        return
    for number in range(len(run.jobs)):
        yield attempt(run, work, number, say=say, progress=progress)


def _written_meanwhile(run: Run, work: Work, say: Say | None, progress: Told | None) -> Generator[Outcome]:
    """Do the jobs in order, and write each in a thread while the next one is done; one is written at a time.

    Errors come up in this thread, which alone knows what the work has loaded so far.
    """
    assert isinstance(work, StagedWork)
    do = work.do
    # However this ends, an interrupt included, what is being written is finished first.
    with _thread() as writer:
        before: Callable[[], Outcome] | None = None
        for number, job in enumerate(run.jobs):

            def step(number: int = number, job: Job = job) -> Callable[[], Result] | Outcome:
                if (outcome := passed_over(run, work, number)) is not None:
                    return outcome
                if progress is not None:
                    progress(number, 0)
                told = None if progress is None else partial(_share, progress, number)
                return do(job, for_report=number < run.pictures, progress=told)

            try:
                entry = attempted(run, work, number, step, say)
            except Exception:
                if before is not None:
                    yield before()
                raise
            if before is not None:
                yield before()
            writing = entry if isinstance(entry, Outcome) else writer.submit(entry)
            before = partial(_end, run, work, number, writing, say)
        if before is not None:
            yield before()


def _thread() -> ThreadPoolExecutor:
    """Return an executor of one thread, which runs. One that an interrupt met while it starts would not be
    waited for, and its first job is to write."""
    executor = ThreadPoolExecutor(1)
    executor.submit(int).result()
    return executor


def _share(progress: Told, number: int, finished: int, parts: int) -> None:
    progress(number, finished / parts)


def _end(run: Run, work: Work, number: int, writing: Future[Result] | Outcome, say: Say | None) -> Outcome:
    """Return what becomes of a job that is being written, when it is."""
    if isinstance(writing, Outcome):
        return writing
    result = attempted(run, work, number, writing.result, say)
    return result if isinstance(result, Outcome) else done(work, number, result, 0.0)


@dataclass
class _Case:
    """A job that was read: its number and what it was read as."""

    number: int
    content: Any


class _Pipeline:
    """The jobs of a run on their way through reading, computing and writing.

    Args:
        run: What to do.
        work: What is done.
        say: As of `run_here`.
        progress: As of `run_here`.
    """

    def __init__(self, run: Run, work: Work, say: Say | None, progress: Told | None) -> None:
        assert isinstance(work, BatchWork)
        self._run, self._work, self._say, self._progress = run, work, say, progress
        self._numbers = iter(range(len(run.jobs)))  # of the jobs that are still to be read
        self._reading: deque[Future[_Case | Outcome]] = deque()
        self._most = len(run.jobs)  # at once, since memory ran out
        self._reader, self._writer = _thread(), _thread()

    def outcomes(self) -> Generator[Outcome]:
        """Yield what becomes of each job, in order."""
        writing: list[Future[Outcome]] = []
        size = 1
        try:
            self._read_ahead(1)
            while self._reading:
                entries: list[_Case | Outcome] = []
                while self._reading and len(entries) < size:
                    entries.append(self._reading.popleft().result())
                    if len(entries) == 1:
                        size = self._room(entries[0], size)
                    self._read_ahead(size - len(entries))
                self._read_ahead(size)
                before, writing = writing, []
                try:
                    computed = iter(self._compute([entry for entry in entries if isinstance(entry, _Case)]))
                except Exception:
                    yield from (future.result() for future in before)
                    raise
                for entry in entries:
                    result = next(computed) if isinstance(entry, _Case) else entry
                    writing.append(self._writer.submit(self._finish, entry, result))
                yield from (future.result() for future in before)
            yield from (future.result() for future in writing)
        finally:
            for pool in (self._reader, self._writer):
                pool.shutdown(cancel_futures=True)

    def _room(self, entry: _Case | Outcome, size: int) -> int:
        """How many jobs to compute at once from the first of them on; the size before where it is done."""
        if isinstance(entry, _Case):
            size = self._work.room(entry.content)
        return max(1, min(size, self._most))

    def _read_ahead(self, count: int) -> None:
        """Have so many jobs read, as far as there are."""
        for number in itertools.islice(self._numbers, max(0, count - len(self._reading))):
            self._reading.append(self._reader.submit(self._read, number))

    def _read(self, number: int) -> _Case | Outcome:
        run, work = self._run, self._work

        def step() -> _Case | Outcome:
            if (outcome := passed_over(run, work, number)) is not None:
                return outcome
            return _Case(number, work.read(run.jobs[number], for_report=number < run.pictures))

        return attempted(run, work, number, step, self._say)

    def _compute(self, cases: Sequence[_Case]) -> list[Any]:
        """What comes of each case, or the outcome of one that fails.

        Where one of several fails, they are computed one by one to find it; where memory runs out, half of
        them at once.
        """

        def progress(finished: int, parts: int) -> None:
            if self._progress is not None:
                for case in cases:
                    self._progress(case.number, finished / parts)

        def step() -> list[Any]:
            return self._work.compute([case.content for case in cases], progress) if cases else []

        progress(0, 1)
        if len(cases) == 1:
            only = attempted(self._run, self._work, cases[0].number, step, self._say)
            return [only] if isinstance(only, Outcome) else only
        try:
            return step()
        except (UsageError, WeightsError, DeviceError):
            raise
        except Exception as error:
            short = is_out_of_memory(error)
        if short:
            self._most = len(cases) // 2
        # Outside of `except`, whose traceback holds on to the memory.
        found: list[Any] = []
        while len(found) < len(cases):
            found += self._compute(cases[len(found) :][: self._most if short else 1])
        return found

    def _finish(self, entry: _Case | Outcome, computed: Any) -> Outcome:
        if isinstance(computed, Outcome):
            return computed
        assert isinstance(entry, _Case)
        number = entry.number
        step = partial(self._work.finish, computed)
        result = attempted(self._run, self._work, number, step, self._say)
        return result if isinstance(result, Outcome) else done(self._work, number, result, 0.0)
