"""Jobs done by several processes of this machine, each with one device or its share of the threads.

`concurrent.futures` does not say which job a lost process had, and ends all others with it; here its job is
tried once more and the others go on.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType

from deepgsr_cli.compute.device import count_cores, count_processes, gpu_names, select_device
from deepgsr_cli.errors import UserError, first_line
from deepgsr_cli.files import clean_up
from deepgsr_cli.interrupts import SIGNALS, count_deaf, held_back
from deepgsr_cli.jobs.run import Outcome, Place, Run, Worker

# So many more than there are places may end one after another before they have done a job; else none will.
_MOST_STILLBORN = 2
_PATIENCE_S = 5.0  # for a process to end by itself
_PROGRESS_S = 0.2  # between two messages of a job


def run_in_processes(
    run: Run,
    places: Sequence[Place],
    threads: int,
    *,
    say: Callable[[str], None],
    progress: Callable[[int, float], None],
) -> Generator[Outcome]:
    """Do the jobs in processes of their own; yield what became of each as it is done.

    A job whose process is lost, as one that the system ends for want of memory, is tried once more. When the
    iteration ends early, by an interrupt or an error, all processes are ended and no half file is left. They
    end too when this process is gone, after the job they have.

    Args:
        run: What to do.
        places: Where each process works.
        threads: Threads of each.
        say: Called with sentences on processes.
        progress: Called with the number of a job in work and the share of it that is done.

    Raises:
        UserError: As `run_here`; or no process lives.
    """
    with tempfile.TemporaryDirectory(prefix="deepgsr-") as folder:
        file = Path(folder) / "run"
        file.write_bytes(pickle.dumps(run))
        pool = _Pool(run, file, threads, say, progress)
        try:
            yield from pool.outcomes(places[: len(run.jobs)])
        finally:
            pool.end()


def share_out(jobs: int | None, device: str) -> tuple[list[Place], int]:
    """Places of the processes of a run, and the threads of each.

    Args:
        jobs: Processes; None for one a CUDA device if there are such, or else as many as this machine has
            cores and memory for.
        device: Device that the options say: "auto", "cpu", "cuda", ...

    Raises:
        UserError: As `select_device`.
    """
    gpus = gpu_names() if device in ("auto", "cuda") else []
    on_cpu = device == "cpu" or (not gpus and select_device(device).type == "cpu")
    if jobs is None:
        jobs = count_processes() if on_cpu else max(1, len(gpus))
    sharing = jobs if not gpus else -(-jobs // len(gpus))
    places = [Place(gpus[i % len(gpus)] if gpus else None, sharing) for i in range(jobs)]
    return places, max(1, count_cores() // jobs)


class _Process:
    """A process, the connection to it, and the job it has.

    Attributes:
        place: Where it works.
        number: Of its job; None if it waits for one.
        useful: Whether it has done a job.
    """

    def __init__(self, file: Path, place: Place, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, file, place, threads), daemon=True)
        with interrupts_blocked():
            self.process.start()
        theirs.close()
        self.place = place
        self.number: int | None = None
        self.useful = False

    def give(self, number: int, existed: bool) -> None:
        """Give it a job; if it is lost already, that shows when it is listened to."""
        self.number = number
        with contextlib.suppress(OSError):
            self.connection.send((number, existed))

    def lost(self) -> str:
        """Wait for the end of a process that has closed its connection; return how it ended, in words."""
        self.process.join(_PATIENCE_S)
        code = self.process.exitcode
        self.connection.close()
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):  # a signal without a name
                return f"by {signal.Signals(-code).name}"
        return f"with exit code {code}"


class _Pool:
    """The processes of a run, and the jobs that are left."""

    def __init__(
        self,
        run: Run,
        file: Path,
        threads: int,
        say: Callable[[str], None],
        progress: Callable[[int, float], None],
    ) -> None:
        self._run, self._file, self._threads = run, file, threads
        self._say, self._progress = say, progress
        self._processes: list[_Process] = []
        # Number of a job that is tried again, and whether its target existed at first.
        self._again: deque[tuple[int, bool]] = deque()
        self._fresh = iter(range(len(run.jobs)))
        self._existed: dict[int, bool] = {}  # of the jobs in work
        self._tried: set[int] = set()  # jobs that have lost a process
        self._stillborn = 0

    def outcomes(self, places: Sequence[Place]) -> Iterator[Outcome]:
        for place in places:
            self._start(place)
        while working := {p.connection: p for p in self._processes if p.number is not None}:
            for connection in wait(list(working)):
                assert isinstance(connection, Connection)
                outcome = self._hear(working[connection])
                if outcome is not None:
                    yield outcome

    def end(self) -> None:
        """End all processes: at once those that have a job, which then leave no half file."""
        for process in self._processes:
            process.connection.close()
            if process.number is not None:
                process.process.terminate()
        deadline = time.monotonic() + _PATIENCE_S
        for process in self._processes:
            process.process.join(max(0.0, deadline - time.monotonic()))
            if process.process.is_alive():
                process.process.kill()
                process.process.join()
        numbers = [p.number for p in self._processes if p.number is not None]
        clean_up(target for number in numbers for target in self._run.jobs[number].targets)

    def _start(self, place: Place) -> None:
        with held_back():  # else one that has started would be none of those to end
            process = _Process(self._file, place, self._threads)
            self._processes.append(process)
        self._employ(process)

    def _employ(self, process: _Process) -> None:
        """Give a process the next job, if there is one left."""
        if self._again:
            number, existed = self._again.popleft()
        else:
            number = next(self._fresh, -1)
            if number < 0:
                process.number = None
                return
            existed = self._run.exists(number)
        self._existed[number] = existed
        process.give(number, existed)

    def _hear(self, process: _Process) -> Outcome | None:
        """Take one message of a process; return what became of its job, if that is the message."""
        assert process.number is not None
        try:
            message = process.connection.recv()
        except (EOFError, OSError):
            return self._replace(process)
        if isinstance(message, float):
            self._progress(process.number, message)
            return None
        if isinstance(message, logging.LogRecord):
            logging.getLogger(message.name).handle(message)
            return None
        if isinstance(message, _Fatal):
            raise message.error from message
        assert isinstance(message, Outcome)
        self._stillborn, process.useful = 0, True
        del self._existed[process.number]
        self._employ(process)
        return message

    def _replace(self, process: _Process) -> Outcome | None:
        """Put a new process in the place of a lost one; return what became of the job if it is given up."""
        number = process.number
        assert number is not None
        end = process.lost()
        self._processes.remove(process)
        job, existed = self._run.jobs[number], self._existed.pop(number)
        clean_up(job.targets)
        self._stillborn += not process.useful
        if self._stillborn > len(self._processes) + 1 + _MOST_STILLBORN:
            raise UserError(
                f"{self._stillborn} processes in a row have ended {end} without doing anything;"
                " free memory or give fewer --jobs, and run again with --skip-existing"
            )
        outcome = None
        if number in self._tried:
            sentence = f"{job.label}: two processes that did it have ended {end}, as where memory is short"
            outcome = Outcome(number, "failed", error=f"{sentence}; do it alone, or give fewer --jobs")
        else:
            self._tried.add(number)
            self._again.append((number, existed))
            self._say(f"{job.label}: the process that did it has ended {end}; it is tried once more")
        self._start(process.place)
        return outcome


class _Fatal(Exception):
    """An error of another process that ends the run; its text is the traceback there."""

    def __init__(self, error: Exception, text: str) -> None:
        super().__init__(error, text)
        # Only ours are sure to survive the way.
        self.error = error if isinstance(error, UserError) else RuntimeError(first_line(error))
        self.text = text

    def __reduce__(self) -> tuple[type[_Fatal], tuple[Exception, str]]:
        return _Fatal, (self.error, self.text)

    def __str__(self) -> str:
        return f"in another process:\n{self.text}"


def _serve(connection: Connection, file: Path, place: Place, threads: int) -> None:
    """Do jobs of a run until there are no more, in a process of its own."""
    signal.signal(signal.SIGTERM, _stop)
    # What ends the process of the command has it end this one.
    for number in SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    # Read when torch and numpy are imported, which is when the run is.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    worker = Worker(lambda: pickle.loads(file.read_bytes()), place)
    told = time.monotonic()
    sending = threading.Lock()  # a log may come from any thread

    def send(message: object) -> None:
        with sending:
            connection.send(message)

    def progress(number: int, share: float) -> None:
        nonlocal told
        if time.monotonic() - told > _PROGRESS_S:
            told = time.monotonic()
            with contextlib.suppress(OSError):
                send(share)

    log = logging.getLogger("deepgsr_cli")
    log.setLevel(logging.INFO)
    log.addHandler(_Forwarder(send))
    # After the last job, and when the other end is gone, which is no fault of this one.
    with contextlib.suppress(EOFError, OSError):
        while True:
            number, existed = connection.recv()
            answer: Outcome | _Fatal
            try:
                answer = worker.do(number, existed, progress)
            except Exception as error:
                answer = _Fatal(error, traceback.format_exc())
            send(answer)


class _Forwarder(logging.Handler):
    """Sends what is logged to the process of the command, which logs it there.

    Args:
        send: Sends a message.
    """

    def __init__(self, send: Callable[[object], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        # Arguments may be anything; the words go anywhere.
        record.msg, record.args, record.exc_info = record.getMessage(), None, None
        with contextlib.suppress(OSError):
            self._send(record)


def _stop(number: int, frame: FrameType | None) -> None:
    """End this process as an error would, so that what it writes is not left half done; once, however often
    it is asked to."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if count_deaf(frame):
        os._exit(128 + number)  # nothing is being written
    raise SystemExit(128 + number)


@contextlib.contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Have a process that is started meanwhile not see Ctrl-C: this one ends it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # which unblocks them, if it starts with a process
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
