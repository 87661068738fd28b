"""Jobs on a real scheduler and two workers of this machine, of which some are killed."""

import dataclasses
import importlib
import itertools
import json
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from multiprocessing.process import BaseProcess
from pathlib import Path

import pydicom
import pytest
from dask import config
from distributed import Client
from typer.testing import CliRunner

from deepgsr_cli.cli import app
from deepgsr_cli.errors import UserError, WeightsError
from deepgsr_cli.jobs import cluster
from deepgsr_cli.jobs.cluster import run_on_cluster
from deepgsr_cli.jobs.run import in_order
from deepgsr_cli.weights.resolve import resolve
from tests import forks
from tests.jobs.works import copied, run_of
from tests.samples import body_hu, saved_slice

OURS = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent.parent)}


class Fresh:
    """A process of Dask that imports what it needs by itself; it is used as one of multiprocessing.

    Args:
        kind: What it is, "scheduler" or "worker".
        options: Of the command line.
        folder: Where it works.
        environment: Variables that it has beside those of this process.
    """

    def __init__(self, kind: str, options: list[str], folder: Path, environment: dict[str, str]) -> None:
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *options]
        with (folder / f"{kind}.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=os.environ | environment, cwd=folder, stdout=log, stderr=log
            )
        self.pid, self.terminate, self.kill = self._process.pid, self._process.terminate, self._process.kill
        self.join = self._process.wait

    def is_alive(self) -> bool:
        return self._process.poll() is None


def dask(kind: str, options: list[str], folder: Path, settings: dict[str, object]) -> None:
    """Be a process of Dask in a folder, with the options of its command line and settings of Dask."""
    os.chdir(folder)
    config.set(settings)
    main = importlib.import_module(f"distributed.cli.dask_{kind}").main
    with Path(f"{kind}.log").open("a") as log, redirect_stdout(log), redirect_stderr(log):
        main(options)


class Engine:
    """A scheduler and workers, each a process.

    Args:
        folder: Where they work.
        settings: Of Dask, in which they differ from the usual ones.
        environment: Variables they have, in which case they are started afresh.

    Attributes:
        file: What the scheduler writes where it listens.
        scheduler: Its process.
        workers: Those of the workers, by their process ids.
    """

    def __init__(self, folder: Path, settings: dict[str, object] | None = None, **environment: str) -> None:
        self.settings, self.environment = settings or {}, environment
        self.folder, self.file = folder, folder / "scheduler.json"
        self.workers: dict[int, Fresh | BaseProcess] = {}
        self.scheduler = self._start("scheduler", "--port", "0", "--host", "127.0.0.1")
        while not self.file.exists():
            time.sleep(0.02)

    def _start(self, kind: str, *options: str) -> Fresh | BaseProcess:
        options = ["--scheduler-file", str(self.file), "--dashboard-address", ":0", *options]
        if self.environment:
            return Fresh(kind, options, self.folder, self.environment)
        return forks.start(dask, kind, options, self.folder, self.settings)

    def start_worker(self) -> None:
        """Start a worker of one thread."""
        options = ["--nthreads", "1", "--no-nanny", "--host", "127.0.0.1", "--local-directory", "scratch"]
        process = self._start("worker", *options)
        self.workers[process.pid] = process

    def start_workers(self, number: int) -> None:
        """Start workers, and wait until all are there."""
        for _ in range(number):
            self.start_worker()
        with Client(scheduler_file=str(self.file), set_as_default=False, timeout=300) as client:
            client.wait_for_workers(len(self.workers), timeout=300)

    def stop_workers(self) -> None:
        for process in self.workers.values():
            process.terminate()
            process.join()
        self.workers.clear()

    @contextmanager
    def replacing(self) -> Iterator[None]:
        """Start a new worker for each one that is lost."""
        over = threading.Event()

        def replace() -> None:
            while not over.wait(0.05):
                for pid, process in list(self.workers.items()):
                    if not process.is_alive():
                        self.workers.pop(pid).join()
                        self.start_worker()

        thread = threading.Thread(target=replace, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def stop(self) -> None:
        self.stop_workers()
        self.scheduler.kill()
        self.scheduler.join()


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    engine = Engine(tmp_path_factory.mktemp("engine"))
    yield engine
    engine.stop()


@pytest.fixture
def engine(scheduler):
    """A scheduler and two workers."""
    scheduler.start_workers(2)
    yield scheduler
    scheduler.stop_workers()


def start(run, file, told=None):
    say = (lambda text: None) if told is None else told.append
    return run_on_cluster(run, file, device="cpu", weights=None, offline=True, say=say)


def tell_numbers(run, file, connection):
    """Be the process of a command that comes to a halt after five outcomes, whose numbers it sends."""
    outcomes = start(run, file)
    for outcome in itertools.islice(outcomes, 5):
        connection.send(outcome.number)
    threading.Event().wait()


def test_a_killed_worker_costs_no_file(engine, tmp_path):
    texts = ["bad", "say", *["brief"] * 48]
    outcomes = []
    killed = None
    for outcome in in_order(start(run_of(tmp_path, *texts), engine.file)):
        outcomes.append(outcome)
        if killed is None and len(outcomes) == 15:
            killed = outcome.result.facts["process"]
            engine.workers[killed].kill()
    assert [o.status for o in outcomes] == ["failed", *["done"] * 49]
    assert outcomes[0].error.endswith("0.txt: is bad")
    assert outcomes[1].said.endswith("1.txt: read\n")
    assert copied(tmp_path) == {f"{i}.txt": text for i, text in enumerate(texts) if text != "bad"}
    assert {o.result.facts["process"] for o in outcomes[1:]} == set(engine.workers)


def test_a_file_that_kills_workers_fails_alone(tmp_path):
    engine = Engine(tmp_path, {"distributed.scheduler.allowed-failures": 0})
    try:
        engine.start_workers(1)
        texts = ["a", "brief", "deadly", *["brief"] * 5]
        with engine.replacing():
            outcomes = list(in_order(start(run_of(tmp_path, *texts), engine.file)))
        assert [o.status for o in outcomes] == ["done", "done", "failed", *["done"] * 5]
        assert "2.txt: the workers that did it were lost, also with no other file" in outcomes[2].error
        assert copied(tmp_path) == {f"{i}.txt": text for i, text in enumerate(texts) if text != "deadly"}
    finally:
        engine.stop()


def test_a_killed_command_is_resumed(engine, tmp_path):
    run = run_of(tmp_path, *["brief"] * 50)  # more than are handed over before the first are told
    outcomes, theirs = forks.FORKS.Pipe(duplex=False)
    process = forks.start(tell_numbers, run, engine.file, theirs)
    theirs.close()
    for _ in range(5):
        assert outcomes.recv() in range(50)
    process.kill()
    process.join()
    again = list(in_order(start(dataclasses.replace(run, skip_existing=True), engine.file)))
    assert {o.status for o in again} == {"done", "skipped"}
    assert sum(o.status == "skipped" for o in again) >= 5
    assert copied(tmp_path) == {f"{i}.txt": "brief" for i in range(50)}


def test_workers_without_the_package_are_told_and_left_alive(tmp_path):
    (tmp_path / "deepgsr_cli").mkdir()
    (tmp_path / "deepgsr_cli/__init__.py").touch()  # another one, where the worker looks first
    engine = Engine(tmp_path, **OURS | {"PYTHONPATH": str(tmp_path)})
    try:
        engine.start_workers(1)
        with pytest.raises(UserError, match=r"a worker of the cluster lacks deepgsr_cli\.jobs; install"):
            list(start(run_of(tmp_path, "a"), engine.file))
        (worker,) = engine.workers.values()
        assert worker.is_alive()
    finally:
        engine.stop()


def test_a_scheduler_that_is_gone_ends_the_run_with_one_sentence(tmp_path):
    engine = Engine(tmp_path)
    try:
        engine.start_workers(1)
        outcomes = start(run_of(tmp_path, *["brief"] * 50), engine.file)
        next(outcomes)
        engine.scheduler.kill()
        with pytest.raises(
            UserError, match=r"the scheduler of the cluster does not answer any more"
        ) as caught:
            list(outcomes)
        assert caught.value.exit_code == 1
    finally:
        engine.stop()


def test_a_series_is_whole_and_in_order_although_a_worker_is_killed(engine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("series").mkdir()
    for i in range(8):
        saved_slice(Path(f"series/{i}.dcm"), body_hu(i), ImagePositionPatient=["0", "0", str(i)])
    options = ["--method", "fbp", "--views", "20", "--device", "cpu"]

    def kill():
        while not list(Path("out").glob("*.dcm")):
            time.sleep(0.005)
        next(iter(engine.workers.values())).kill()

    threading.Thread(target=kill, daemon=True).start()
    common = ["ct-recon", "series", "-o", "out", *options, "--cluster", str(engine.file), "--json"]
    result = CliRunner().invoke(app, [*common, "--report", "report.json"])
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["input"] for line in lines] == [f"series/{i}.dcm" for i in range(8)]
    assert {line["status"] for line in lines} == {"done"}
    assert "8 slices reconstructed" in result.stderr
    assert sorted(path.name for path in Path("out").iterdir()) == [f"{i}.dcm" for i in range(8)]
    slices = [pydicom.dcmread(path) for path in Path("out").iterdir()]
    assert len({slice.SOPInstanceUID for slice in slices}) == 8
    assert {slice.pixel_array.shape for slice in slices} == {(64, 64)}
    report = json.loads(Path("report.json").read_text(encoding="utf-8"))
    assert report["protocol"]["method"] == "fbp, hann filter"
    assert len(report["items"]) == 8


def order_of(run, **changes):
    order = cluster.Order("name", pickle.dumps(run), ".", cluster._versions(), None, True, "cpu", None)
    return dataclasses.replace(order, **changes)


def test_a_worker_with_another_version_says_so(tmp_path, capsys):
    run = run_of(tmp_path, "a")
    versions = cluster._versions()
    with pytest.raises(UserError, match=r"tcp://w: this worker has deepgsr .*, the command 0\.0;"):
        cluster._load(order_of(run, versions=versions | {"deepgsr": "0.0"}), "tcp://w")
    assert cluster._load(order_of(run, versions=versions | {"torch": "1.0"}), "tcp://w").jobs == run.jobs
    assert "the command 1.0; results can differ in their last digits" in capsys.readouterr().err


def test_a_worker_checks_the_weights_by_their_checksum(tmp_path, tiny_weights):
    run, path = run_of(tmp_path, "a"), str(tiny_weights[1])
    same = (path, resolve(path).sha256)
    assert cluster._load(order_of(run, weights=same), "tcp://w").jobs == run.jobs
    with pytest.raises(WeightsError, match=r"sha256 is .* for the worker tcp://w, 0000"):
        cluster._load(order_of(run, weights=(path, "0" * 64)), "tcp://w")


def test_a_worker_needs_the_folder_of_the_command(tmp_path):
    before = os.getcwd()
    with cluster._working_in(str(tmp_path), "tcp://w"):
        assert os.getcwd() == str(tmp_path.resolve())
    assert os.getcwd() == before
    with (
        pytest.raises(UserError, match="none: the worker tcp://w cannot work in this folder"),
        cluster._working_in(str(tmp_path / "none"), "tcp://w"),
    ):
        pass


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ("--cluster somewhere", 2, "--cluster somewhere: give a scheduler's address, as tcp://host:8786"),
        ("--cluster local:0", 2, "--cluster local:0: give"),
        ("--cluster local:2 --jobs 2", 2, "--jobs and --cluster exclude each other"),
        ("--cluster tcp://127.0.0.1:1", 1, "--cluster tcp://127.0.0.1:1: no Dask scheduler answers there"),
    ],
)
def test_clusters_that_cannot_be_are_refused(pictures, tmp_path, monkeypatch, options, code, words):
    monkeypatch.setattr(cluster, "_CONNECT_S", 0.2)
    common = ["denoise", str(pictures), "-o", str(tmp_path / "out"), "--device", "cpu"]
    result = CliRunner().invoke(app, [*common, *options.split()])
    assert (result.exit_code, result.stdout) == (code, "")
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_streams_do_not_go_to_a_cluster(pictures):
    result = CliRunner().invoke(app, ["denoise", str(pictures / "0.png"), "-o", "-", "--cluster", "local:1"])
    assert result.exit_code == 2
    assert "--cluster works on files" in result.stderr


def test_without_dask_the_package_to_install_is_named(pictures, tmp_path, monkeypatch):
    for name in ("deepgsr_cli.jobs.cluster", "distributed"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "deepgsr_cli.jobs.cluster")
    result = CliRunner().invoke(
        app, ["denoise", str(pictures), "-o", str(tmp_path / "out"), "--cluster", "local:2"]
    )
    assert result.exit_code == 2
    assert "--cluster needs the package distributed: pip install 'deepgsr[cluster]'" in result.stderr
