"""Jobs done by several processes: order, losses, interrupts, and what each process gets."""

import logging
import multiprocessing
import os
import signal
import time

import pytest

from deepgsr_cli.compute import device
from deepgsr_cli.errors import WeightsError
from deepgsr_cli.interrupts import Interrupted, interruptible
from deepgsr_cli.jobs import pool
from deepgsr_cli.jobs.pool import run_in_processes, share_out
from deepgsr_cli.jobs.run import Place, in_order
from tests.jobs.works import copied, run_of


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Give processes that end all the time that a slow machine takes."""
    monkeypatch.setattr(pool, "_PATIENCE_S", 300)


def start(run, number=2, told=None):
    def ignore(*values):
        pass

    return run_in_processes(
        run, [Place(sharing=number)] * number, 1, say=ignore if told is None else told.append, progress=ignore
    )


def test_processes_share_the_jobs_and_survive_the_loss_of_one(tmp_path, caplog):
    caplog.set_level(logging.INFO, "deepgsr_cli")
    told = []
    texts = ["once", "bad", "say", "deadly", "log", *"abcdefg"]
    outcomes = list(in_order(start(run_of(tmp_path, *texts), told=told)))
    assert [o.status for o in outcomes] == ["done", "failed", "done", "failed", *["done"] * 8]
    assert outcomes[1].error.endswith("1.txt: is bad")
    assert outcomes[2].said.endswith("2.txt: read\n")
    assert "3.txt: two processes that did it have ended by SIGKILL" in outcomes[3].error
    assert sum("it is tried once more" in sentence for sentence in told) == 2
    done = {f"{i}.txt": text for i, text in enumerate(texts) if text not in ("bad", "deadly")}
    assert copied(tmp_path) == done
    assert {o.result.facts["place"] for o in outcomes if o.result} == {Place(sharing=2)}
    assert [record.getMessage() for record in caplog.records] == [f"compiling {tmp_path}/4.txt"]
    assert multiprocessing.active_children() == []


def test_an_interrupt_ends_all_processes_and_leaves_no_half_file(tmp_path):
    run = run_of(tmp_path, "a", "slow", "slow")
    outcomes = start(run)
    assert next(outcomes).number == 0
    while len(list(tmp_path.glob("*.begun"))) < 2:
        time.sleep(0.01)
    outcomes.close()
    assert len(list(tmp_path.glob("*.ended"))) == 2
    assert copied(tmp_path) == {"0.txt": "a"}
    assert multiprocessing.active_children() == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM that can be sent")
def test_a_process_that_starts_when_the_run_is_ended_is_ended(tmp_path, monkeypatch):
    begin = pool._Process.__init__

    def interrupted(process, *arguments):
        begin(process, *arguments)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(pool._Process, "__init__", interrupted)
    with interruptible(), pytest.raises(Interrupted):
        list(start(run_of(tmp_path, "a", "b")))
    assert multiprocessing.active_children() == []


def test_a_process_is_ended_once_however_often_it_is_asked_to():
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit, match="143"):
            pool._stop(signal.SIGTERM, None)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_mistake_that_every_file_shares_ends_the_run_with_its_own_error(tmp_path):
    with pytest.raises(WeightsError, match="unknown weights") as caught:
        list(start(run_of(tmp_path, "weights", "slow")))
    assert "in another process" in str(caught.value.__cause__)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("jobs", "named", "gpus", "places", "threads"),
    [
        (None, "auto", ["cuda:0", "cuda:1"], [Place("cuda:0"), Place("cuda:1")], 4),
        (3, "cuda", ["cuda:0", "cuda:1"], [Place(f"cuda:{i}", 2) for i in (0, 1, 0)], 2),
        (None, "cpu", ["cuda:0"], [Place(None, 8)] * 8, 1),
        (2, "auto", [], [Place(None, 2)] * 2, 4),
        (None, "auto", [], [Place(None, 8)] * 8, 1),
    ],
)
def test_each_process_has_a_device_or_its_share_of_the_cores(monkeypatch, jobs, named, gpus, places, threads):
    monkeypatch.setattr(pool, "gpu_names", lambda: gpus)
    for module in (pool, device):
        monkeypatch.setattr(module, "count_cores", lambda: 8)
    monkeypatch.setattr(device, "_free_ram", lambda: (100 << 30, "a test"))
    assert share_out(jobs, named) == (places, threads)


def test_processes_on_the_cpu_are_as_many_as_have_room(monkeypatch):
    monkeypatch.setattr(device, "count_cores", lambda: 8)
    monkeypatch.setattr(device, "_free_ram", lambda: (3 << 30, "a test"))
    assert device.count_processes() == 3
