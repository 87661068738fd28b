"""Jobs of which several are computed at once: as they would be alone, in order, in bounded memory."""

import os
import signal
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deepgsr_cli.errors import InputError, OutputError, WeightsError
from deepgsr_cli.jobs.here import run_here
from deepgsr_cli.jobs.plan import Job
from deepgsr_cli.jobs.run import Place, Run, attempt
from deepgsr_cli.jobs.work import BatchWork, Column, Result, StagedWork


@dataclass
class Doubles(BatchWork[str, str]):
    """Writes texts twice; what a text says decides how that goes.

    Attributes:
        count: So many at once.
        space: More at once are out of memory.
    """

    count: int = 3
    space: int = 100
    title: str = "Doubles"
    columns: tuple[Column, ...] = ()
    protocol: dict[str, str] = field(default_factory=dict)
    batches: list[list[str]] = field(default_factory=list)
    held: int = 0
    most_held: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, job: Job, *, for_report: bool) -> str:
        text = job.source.read_text()
        if text == "unreadable":
            raise InputError(f"{job.label}: is bad")
        with self.lock:
            self.held += 1
            self.most_held = max(self.held, self.most_held)
        return f"{job.target}\n{text}\n{for_report}"

    def room(self, case: str) -> int:
        return self.count

    def compute(self, cases, progress) -> list[str]:
        texts = [case.split("\n")[1] for case in cases]
        self.batches.append(texts)
        if len(cases) > self.space:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        if "weights" in texts:
            raise WeightsError("unknown weights")
        if "impossible" in texts:
            raise InputError("cannot be computed")
        if "fault" in texts:
            raise ZeroDivisionError("by zero")
        return [case.replace(f"\n{text}\n", f"\n{2 * text}\n") for case, text in zip(cases, texts)]

    def finish(self, computed: str) -> Result:
        target, text, for_report = computed.split("\n")
        with self.lock:
            self.held -= 1
        Path(target).write_text(text)
        return Result({"length": len(text), "pictures": for_report})

    def review(self, job: Job) -> Result:
        return Result({"length": len(job.target.read_text())})


@pytest.fixture
def run_of(tmp_path):
    def make(work: Doubles, *texts: str, **rules) -> Run:
        jobs = []
        for number, text in enumerate(texts):
            source = tmp_path / f"{number}.txt"
            source.write_text(text)
            jobs.append(Job(source, tmp_path / f"{number}.out", Path(source.name)))
        return Run(jobs, lambda place: work, **rules)

    return make


def test_jobs_are_computed_several_at_once_and_told_in_order(run_of, tmp_path):
    work, shares = Doubles(), []
    run = run_of(work, *"abcdefgh", pictures=2)
    outcomes = list(run_here(run, progress=lambda number, share: shares.append(number)))
    assert [o.number for o in outcomes] == list(range(8))
    assert work.batches == [["a", "b", "c"], ["d", "e", "f"], ["g", "h"]]
    assert [(tmp_path / f"{i}.out").read_text() for i in range(8)] == [2 * text for text in "abcdefgh"]
    assert [o.result.facts["pictures"] for o in outcomes] == ["True"] * 2 + ["False"] * 6
    assert set(shares) == set(range(8))


def test_at_most_three_batches_are_in_memory(run_of):
    work = Doubles(count=2)
    assert len(list(run_here(run_of(work, *["text"] * 50)))) == 50
    assert work.most_held <= 6


def test_one_alone_is_done_as_in_another_process(run_of, tmp_path):
    run = run_of(Doubles(), "a")
    outcome = attempt(run, run.open(Place()), 0)
    assert (outcome.status, outcome.result.facts["length"]) == ("done", 2)


def test_what_fails_does_not_take_its_batch_along(run_of):
    told = []
    run = run_of(Doubles(), "a", "unreadable", "impossible", "b", "fault", "c", "d", tracing=True)
    outcomes = list(run_here(run, say=told.append))
    failed = ("unreadable", "impossible", "fault")
    assert [o.status for o in outcomes] == [
        "failed" if job.source.read_text() in failed else "done" for job in run.jobs
    ]
    assert outcomes[1].error.endswith("1.txt: is bad")
    assert outcomes[2].error.endswith("2.txt: cannot be computed")
    assert "4.txt: unexpected ZeroDivisionError: by zero; please report it" in outcomes[4].error
    assert "ZeroDivisionError" in "".join(told)


def test_a_batch_that_memory_does_not_hold_is_halved_once_for_all(run_of):
    work = Doubles(count=8, space=2)
    outcomes = list(run_here(run_of(work, *"abcdefghijkl")))
    assert [o.status for o in outcomes] == ["done"] * 12
    assert [len(batch) for batch in work.batches] == [8, 4, 2, 2, 2, 2, 2, 2]
    (outcome,) = run_here(run_of(Doubles(space=0), "a", overwrite=True))
    assert "0.txt: memory does not suffice" in outcome.error


def test_finished_files_are_passed_over_in_their_place(run_of, tmp_path):
    work = Doubles()
    run = run_of(work, *"abcdef", skip_existing=True, reviewing=True)
    for i in (0, 3, 4):
        (tmp_path / f"{i}.out").write_text("before")
    outcomes = list(run_here(run))
    assert [o.status for o in outcomes] == ["skipped", "done", "done", "skipped", "skipped", "done"]
    assert [o.result.facts["length"] for o in outcomes] == [6, 2, 2, 6, 6, 2]
    assert sorted(text for batch in work.batches for text in batch) == ["b", "c", "f"]


def test_a_mistake_that_every_file_shares_ends_the_run_after_what_is_done(run_of, tmp_path):
    outcomes = run_here(run_of(Doubles(count=1), "a", "weights", "b"))
    assert next(outcomes).status == "done"
    with pytest.raises(WeightsError):
        next(outcomes)
    assert not (tmp_path / "2.out").exists()


@dataclass
class Slow(StagedWork):
    """Copies texts; one that is slow is written when the next one has been begun, and not before.

    Attributes:
        begun: What happens when a job is begun, by its number.
    """

    title: str = "Copies"
    columns: tuple[Column, ...] = ()
    protocol: dict[str, str] = field(default_factory=dict)
    begun: dict[int, threading.Event] = field(
        default_factory=lambda: {number: threading.Event() for number in range(9)}
    )

    def do(self, job, *, for_report, progress):
        text, number = job.source.read_text(), int(job.source.stem)
        self.begun[number].set()
        if text == "unreadable":
            raise InputError(f"{job.label}: is bad")
        if text == "interrupt":
            raise KeyboardInterrupt
        if text == "weights":
            raise WeightsError("unknown weights")
        progress and progress(1, 2)

        def finish() -> Result:
            if text == "full":
                raise OutputError(f"{job.target}: there is no space left")
            if text == "slow":
                assert self.begun[number + 1].wait(60)
            job.target.write_text(text)
            return Result({"length": len(text)})

        return finish

    def review(self, job):
        return Result({"length": len(job.target.read_text())})


def test_one_is_written_while_the_next_is_done_and_all_are_told_in_order(run_of, tmp_path):
    work, shares = Slow(), []
    run = run_of(work, "slow", "slow", "last")
    outcomes = list(run_here(run, progress=lambda number, share: shares.append((number, share))))
    assert [o.status for o in outcomes] == ["done"] * 3
    assert [o.number for o in outcomes] == [0, 1, 2]
    assert [(tmp_path / f"{i}.out").read_text() for i in range(3)] == ["slow", "slow", "last"]
    assert shares == [(0, 0), (0, 0.5), (1, 0), (1, 0.5), (2, 0), (2, 0.5)]


def test_what_cannot_be_read_or_written_fails_alone(run_of, tmp_path):
    told = []
    run = run_of(Slow(), "a", "full", "unreadable", "b", tracing=True)
    outcomes = list(run_here(run, say=told.append))
    assert [o.status for o in outcomes] == ["done", "failed", "failed", "done"]
    assert outcomes[1].error.endswith("1.out: there is no space left")
    assert outcomes[2].error.endswith("2.txt: is bad")
    assert not told
    assert sorted(path.name for path in tmp_path.glob("*.out")) == ["0.out", "3.out"]


@pytest.mark.parametrize(("text", "error"), [("interrupt", KeyboardInterrupt), ("weights", WeightsError)])
def test_what_is_being_written_is_finished_when_the_run_ends(run_of, tmp_path, text, error):
    outcomes = run_here(run_of(Slow(), "slow", text))
    with pytest.raises(error):
        list(outcomes)
    assert (tmp_path / "0.out").read_text() == "slow"


def test_what_is_finished_is_passed_over_between_what_is_not(run_of, tmp_path):
    (tmp_path / "1.out").write_text("before")
    outcomes = list(run_here(run_of(Slow(), *"abc", skip_existing=True)))
    assert [o.status for o in outcomes] == ["done", "skipped", "done"]
    outcomes = list(run_here(run_of(Slow(), *"abc")))
    assert [o.status for o in outcomes] == ["failed"] * 3
    assert "1.out: exists; give --overwrite" in outcomes[1].error


def interrupt() -> None:
    """Interrupt the main thread, and take a while."""
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait(0.01)


class InterruptedDoubles(Doubles):
    def finish(self, computed: str) -> Result:
        interrupt()
        return super().finish(computed)


class InterruptedSlow(Slow):
    def do(self, job, *, for_report, progress):
        finish = super().do(job, for_report=for_report, progress=progress)

        def interrupted() -> Result:
            interrupt()
            return finish()

        return interrupted


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT that can be sent")
@pytest.mark.parametrize("kind", [InterruptedDoubles, InterruptedSlow])
def test_what_is_being_written_when_an_interrupt_comes_is_finished(run_of, tmp_path, kind):
    # In a third of the tries it comes while the thread that writes would be starting.
    for _ in range(20):
        with pytest.raises(KeyboardInterrupt):
            list(run_here(run_of(kind(), "a")))
        assert (tmp_path / "0.out").exists()
        (tmp_path / "0.out").unlink()
