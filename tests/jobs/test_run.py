"""One job after another: what becomes of each, and in which order that is told."""

import pickle
from pathlib import Path

import pytest

from deepgsr_cli.errors import WeightsError
from deepgsr_cli.jobs.here import run_here
from deepgsr_cli.jobs.run import Outcome, Place, Worker, attempt, in_order
from deepgsr_cli.jobs.work import Heading
from tests.jobs.works import Copies, copied, run_of


def test_a_bad_file_and_a_fault_of_ours_do_not_stop_the_others(tmp_path):
    told = []
    run = run_of(tmp_path, "a", "bad", "fault", "bb", tracing=True)
    outcomes = list(run_here(run, say=told.append))
    assert [o.status for o in outcomes] == ["done", "failed", "failed", "done"]
    assert outcomes[1].error == f"{tmp_path}/1.txt: is bad"
    assert "unexpected ZeroDivisionError: by zero; please report it" in outcomes[2].error
    assert "ZeroDivisionError" in told[0]
    assert outcomes[3].result.facts["length"] == 2


def test_a_mistake_that_every_file_shares_stops_at_once(tmp_path):
    with pytest.raises(WeightsError):
        list(run_here(run_of(tmp_path, "weights", "a")))
    assert copied(tmp_path) == {}


@pytest.mark.parametrize(
    ("rules", "status"),
    [({}, "failed"), ({"skip_existing": True}, "skipped"), ({"overwrite": True}, "done")],
)
def test_an_existing_output_is_kept_unless_told_otherwise(tmp_path, rules, status):
    run = run_of(tmp_path, "a", **rules)
    run.jobs[0].target.write_text("before")
    (outcome,) = run_here(run)
    assert outcome.status == status
    assert status != "failed" or "0.txt: exists; give --overwrite" in outcome.error
    assert copied(tmp_path) == {"0.txt": "a" if status == "done" else "before"}


def test_an_output_that_a_lost_process_has_written_is_made_again(tmp_path):
    run = run_of(tmp_path, "a", skip_existing=True)
    run.jobs[0].target.write_text("a")
    assert attempt(run, run.open(Place()), 0, existed=False).status == "done"


def test_skipped_files_are_looked_at_for_a_report(tmp_path):
    run = run_of(tmp_path, "abc", "a", skip_existing=True, reviewing=True)
    for job in run.jobs:
        job.target.write_text("abc")
    assert [o.result.facts for o in run_here(run)] == [{"length": 3}] * 2


def test_outcomes_are_told_in_the_order_of_the_inputs_as_soon_as_they_can():
    def found():
        for number in (2, 0, 1, 3):
            given.append(number)
            yield Outcome(number, "done")

    given = []
    ordered = in_order(found())
    assert next(ordered).number == 0
    assert given == [2, 0]
    assert [o.number for o in ordered] == [1, 2, 3]


def test_what_processes_know_of_all_jobs_is_joined():
    first = Heading("T", (), {"tile": "auto", "kind": "a; b"})
    later = Heading("T", (), {"tile": "auto", "kind": "b; c", "weights": "w"})
    joined = Heading().joined(first).joined(None).joined(later)
    assert joined == Heading("T", (), {"tile": "auto", "kind": "a; b; c", "weights": "w"})


def test_another_process_returns_what_it_says(tmp_path, capsys):
    run = run_of(tmp_path, "say", "fault", tracing=True)
    worker = Worker(lambda: pickle.loads(pickle.dumps(run)), Place(sharing=2))
    outcome = worker.do(0, False)
    assert outcome.said == f"{tmp_path}/0.txt: read\n"
    assert outcome.result.facts["place"] == Place(sharing=2)
    assert outcome.heading == Heading("Copies", Copies(Place()).columns, {"kind": "say"})
    assert "ZeroDivisionError" in worker.do(1, False).said
    assert capsys.readouterr().err == ""
    assert Path(run.jobs[0].target).exists()
