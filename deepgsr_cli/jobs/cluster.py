"""Jobs done by the workers of a Dask cluster, whoever has started it.

Dask gives each job to a worker, and to another one when that is lost; the run itself is a task the others
depend on, so that each worker fetches it once. Everything is named by paths, which have to lead to the same
files everywhere. Weights are named too, and their checksums compared.

Source:
    Rocklin, Dask: parallel computation with blocked algorithms and task scheduling, SciPy 2015.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import itertools
import logging
import os
import pickle
import platform
import queue
import secrets
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distributed import Client, Future, KilledWorker, LocalCluster, get_worker
from distributed.system import MEMORY_LIMIT

from deepgsr_cli.compute.device import gpu_names
from deepgsr_cli.errors import UserError, WeightsError, first_line
from deepgsr_cli.files import clean_up
from deepgsr_cli.jobs.pool import interrupts_blocked
from deepgsr_cli.jobs.run import Outcome, Place, Run, Worker
from deepgsr_cli.version import __version__
from deepgsr_cli.weights.resolve import resolve

_CONNECT_S = 15  # for a scheduler to answer
_PATIENCE_S = 60  # for a first worker, before that is said
# Jobs handed over, for each thread of the cluster: enough that no worker waits for this process, and few, as
# whether a target exists is looked up when its job is.
_AHEAD = 4
_FEWEST_AHEAD = 32
_RECOUNT_S = 5.0

# A worker without this module would not only fail at a job: Dask ends a worker that cannot unpickle a task.
# So the first that workers get is what any Python can evaluate.
_PROBE = f"__import__({__name__!r}, fromlist=['run_on_cluster']).__version__"

# One job at a time in a worker, whatever its number of threads: the work has one network and one folder.
_ALONE = threading.Lock()


@dataclass(frozen=True)
class Order:
    """What a worker has to know.

    Attributes:
        name: Of the run, which no other has.
        run: The run, pickled; loaded only where the versions agree.
        folder: Working folder of the command, which relative paths start from.
        versions: Versions that the command has, by package.
        weights: Name or path of the weights that were asked for, and the checksum of the file.
        offline: Whether weights may not be fetched.
        device: Device that the options say.
        workers: Number of workers on this machine, where the command has started them.
    """

    name: str
    run: bytes = field(compare=False)
    folder: str = field(compare=False)
    versions: dict[str, str] = field(compare=False)
    weights: tuple[str, str] | None = field(compare=False)
    offline: bool = field(compare=False)
    device: str = field(compare=False)
    workers: int | None = field(compare=False)


def run_on_cluster(
    run: Run,
    address: int | Path | str,
    *,
    device: str,
    weights: str | None,
    offline: bool,
    say: Callable[[str], None],
) -> Generator[Outcome]:
    """Do the jobs on a Dask cluster; yield what became of each as it is done.

    A job whose worker is lost is done by another one, as often as the scheduler allows.

    Args:
        run: What to do; paths in it lead to the same files everywhere.
        address: Address of a scheduler, its file, or a number of workers to start on this machine.
        device: Device that the options say: "auto", "cpu", "cuda", ...
        weights: Name or path of the weights that the options say; None for the default.
        offline: Whether weights may not be fetched.
        say: Called with sentences on the cluster.

    Raises:
        UserError: As `jobs.run.run_here`; or the cluster cannot be reached any more, or its workers lack
            something.
    """
    checked = None if weights is None else (weights, resolve(weights, offline=offline).sha256)
    order = Order(
        f"deepgsr-{secrets.token_hex(4)}",
        pickle.dumps(run),
        os.getcwd(),
        _versions(),
        checked,
        offline,
        device,
        address if isinstance(address, int) else None,
    )
    ended = False
    try:
        with _connected(address) as client:
            yield from _Session(client, run, order, say).outcomes()
        ended = True
    finally:
        # What lost workers have left, where none is writing any more.
        if ended or isinstance(address, int):
            clean_up(target for job in run.jobs for target in job.targets)


@contextlib.contextmanager
def _connected(address: int | Path | str) -> Iterator[Client]:
    """A client of a scheduler; of a cluster of this machine, which ends with it.

    Raises:
        UserError: It does not answer.
    """
    with _hushed(), contextlib.ExitStack() as ends:
        options: dict[str, Any] = {"address": address}
        if isinstance(address, Path):
            options = {"scheduler_file": str(address)}
        if isinstance(address, int):
            with interrupts_blocked():
                cluster = LocalCluster(
                    n_workers=address,
                    threads_per_worker=1,
                    memory_limit=0,  # tiles are chosen by the memory there is
                    dashboard_address=None,
                    silence_logs=logging.CRITICAL,
                )
            options["address"] = ends.enter_context(cluster)
        try:
            client = Client(**options, timeout=_CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise UserError(
                f"--cluster {address}: no Dask scheduler answers there ({first_line(error)}); start one with"
                " `dask scheduler`, or give --cluster local:N"
            ) from error
        ends.callback(_close, client)
        yield client


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Keep Dask's log of this process off the terminal: what matters is told in a sentence."""
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "distributed"]
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _close(client: Client) -> None:
    """Close a client, whose scheduler may be gone."""
    with contextlib.suppress(Exception):
        client.close(timeout=2)


@dataclass(frozen=True)
class _Given:
    """A job that is handed over.

    Attributes:
        future: What will become of it.
        number: Its number.
        existed: Whether its target existed at first.
        alone: Whether no other is handed over with it.
    """

    future: Future[Any]
    number: int
    existed: bool
    alone: bool = False


class _Session:
    """One run on a cluster.

    Dask blames all jobs that a lost worker had for the loss. Those it gives up are therefore tried once more,
    one at a time: then it is the job.
    """

    def __init__(self, client: Client, run: Run, order: Order, say: Callable[[str], None]) -> None:
        self._client, self._run, self._order, self._say = client, run, order, say
        self._given: dict[str, _Given] = {}  # by key
        self._suspects: deque[_Given] = deque()
        self._finished: queue.Queue[Future[Any]] = queue.Queue()
        self._ahead, self._counted = _FEWEST_AHEAD, -_RECOUNT_S

    def outcomes(self) -> Iterator[Outcome]:
        """Yield what became of each job.

        Raises:
            UserError: As `run_on_cluster`.
        """
        try:
            with self._explained():
                for address, version in self._client.run(eval, _PROBE).items():
                    _check_version(address, version, __version__)
                common = self._client.submit(_itself, self._order, key=self._order.name, pure=False)
            left = iter(range(len(self._run.jobs)))
            while True:
                with self._explained():
                    for number in itertools.islice(left, self._room()):
                        self._give(common, number, self._run.exists(number))
                    if not self._given and self._suspects:
                        suspect = self._suspects.popleft()
                        self._give(common, suspect.number, suspect.existed, alone=True)
                if not self._given:
                    return
                outcome = self._outcome(self._next())
                if outcome is not None:
                    yield outcome
        finally:
            # What is running ends by itself, and leaves whole files.
            if self._client.status == "running":
                with contextlib.suppress(Exception):
                    self._client.cancel([given.future for given in self._given.values()])
                    self._client.run(_forget)

    def _room(self) -> int:
        """Number of jobs to hand over now."""
        if time.monotonic() - self._counted > _RECOUNT_S:
            self._counted = time.monotonic()
            self._ahead = max(_FEWEST_AHEAD, _AHEAD * sum(self._client.nthreads().values()))
        return max(0, self._ahead - len(self._given))

    def _give(self, common: Future[Any], number: int, existed: bool, alone: bool = False) -> None:
        key = f"{self._order.name}-{number}{'-alone' if alone else ''}"
        future = self._client.submit(_do_job, common, number, existed, key=key, pure=False)
        self._given[key] = _Given(future, number, existed, alone)
        future.add_done_callback(self._finished.put)

    def _next(self) -> Future[Any]:
        """Wait for a job that is done, or whose fate is known."""
        begun = time.monotonic()
        told = False
        while True:
            with contextlib.suppress(queue.Empty):
                return self._finished.get(timeout=1)
            if not told and time.monotonic() - begun > _PATIENCE_S:
                told = True
                with self._explained():
                    if not self._client.nthreads():
                        self._say("the cluster has no workers now; waiting for some")

    def _outcome(self, future: Future[Any]) -> Outcome | None:
        """What became of a job; None if it will be tried alone.

        Raises:
            UserError: The run cannot go on.
        """
        given = self._given.pop(str(future.key))
        try:
            with self._explained():
                outcome = future.result()
                # Else a lost worker that has done it would have it done again.
                future.release()
                return outcome
        except KilledWorker:
            if not given.alone:
                self._suspects.append(given)
                return None
            sentence = (
                f"{self._run.jobs[given.number].label}: the workers that did it were lost, also with no other"
                " file beside it, as where memory is short; give workers with more"
            )
            return Outcome(given.number, "failed", error=sentence)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """What goes wrong in the cluster itself, as one sentence."""
        try:
            yield
        except (UserError, KilledWorker):
            raise
        except ModuleNotFoundError as error:
            raise UserError(
                f"a worker of the cluster lacks {error.name}; install the same deepgsr on all of them and on"
                " the scheduler"
            ) from error
        except Exception as error:
            if self._client.status == "running" and not _is_lost(error):
                raise
            raise UserError(
                "the scheduler of the cluster does not answer any more; what was finished is kept: start it"
                " again, and go on with --skip-existing"
            ) from error


def _is_lost(error: BaseException) -> bool:
    """Whether an error says that a scheduler is gone."""
    import asyncio
    import concurrent.futures

    return isinstance(error, OSError | asyncio.CancelledError | concurrent.futures.CancelledError)


def _versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in ("torch", "numpy")}
    return {"deepgsr": __version__, "Python": platform.python_version().rpartition(".")[0], **found}


def _check_version(address: str, version: str, of_command: str) -> None:
    if version != of_command:
        raise UserError(
            f"{address}: this worker has deepgsr {version}, the command {of_command}; install the same on all"
        )


def _itself(order: Order) -> Order:
    """The order: as a task, it is sent to the scheduler once and to each worker once."""
    return order


def _do_job(order: Order, number: int, existed: bool) -> Outcome:
    """Do one job in a worker."""
    here = get_worker()
    threads = here.state.nthreads
    with _ALONE, _working_in(order.folder, here.address):
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
        else:
            os.environ["OMP_NUM_THREADS"] = str(threads)
        try:
            return _worker(order).do(number, existed)
        except UserError:
            raise
        except Exception as error:
            raise RuntimeError(f"{here.address}: {type(error).__name__}: {first_line(error)}") from error


def _forget() -> None:
    """Give back the memory of what runs have loaded."""
    _worker.cache_clear()


@functools.lru_cache(maxsize=4)
def _worker(order: Order) -> Worker:
    """The work of a run in this process, made at its first job."""
    here = get_worker()
    gpus = gpu_names() if order.device in ("auto", "cuda") else []
    limit = here.memory_manager.memory_limit
    # As Dask shares out the memory of a machine, unless it was told otherwise.
    sharing = order.workers or (max(1, round(MEMORY_LIMIT / limit)) if limit else 1)
    device = None
    if gpus:
        sharing = -(-sharing // len(gpus))
        # Others see their own GPU as the first one.
        device = gpus[here.name % len(gpus)] if order.workers else None
    return Worker(functools.partial(_load, order, here.address), Place(device, sharing))


def _load(order: Order, address: str) -> Run:
    """The run, where this worker has what it takes.

    Raises:
        UserError: Another version of deepgsr.
        WeightsError: The weights are not there, or not the same.
    """
    versions = _versions()
    _check_version(address, versions["deepgsr"], order.versions["deepgsr"])
    for name, version in versions.items():
        if version != order.versions[name]:
            told = f"{address}: this worker has {name} {version}, the command {order.versions[name]}"
            print(f"{told}; results can differ in their last digits", file=sys.stderr)
    if order.weights is not None:
        spec, expected = order.weights
        found = resolve(spec, offline=order.offline).sha256
        if found != expected:
            raise WeightsError(
                f"{spec}: sha256 is {found[:8]}… for the worker {address}, {expected[:8]}… for the command;"
                " give all the same file"
            )
    return pickle.loads(order.run)


@contextlib.contextmanager
def _working_in(folder: str, address: str) -> Iterator[None]:
    """Work in a folder.

    Raises:
        UserError: It is not there.
    """
    before = os.getcwd()
    try:
        os.chdir(folder)
    except OSError as error:
        raise UserError(
            f"{folder}: the worker {address} cannot work in this folder ({error.strerror}); run the command"
            " in a folder on a file system that all workers share"
        ) from error
    try:
        yield
    finally:
        os.chdir(before)
