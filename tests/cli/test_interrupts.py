"""What ends a run from outside ends it as a whole: finished files stay, and nothing is half written."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

import deepgsr_cli.pictures.jobs
import deepgsr_cli.tasks
from deepgsr_cli.cli import app
from deepgsr_cli.files import atomic_write
from deepgsr_cli.interrupts import SIGNALS, interruptible
from tests.formats.test_image import noise, png

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no signals that can be sent")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for name in "abc":
        (tmp_path / "in" / f"{name}.png").write_bytes(png(noise((24, 32), "uint8"), 8, 0))
    return tmp_path / "in"


@pytest.fixture(autouse=True)
def survive():
    """Let a signal that is not taken do nothing to the tests."""
    before = {number: signal.signal(number, nothing) for number in SIGNALS}
    yield
    after = {number: signal.signal(number, handler) for number, handler in before.items()}
    assert set(after.values()) == {nothing}


def nothing(number: int, frame: object) -> None:
    pass


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("times", [1, 3])
def test_a_signal_ends_a_run_when_what_is_being_written_is(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, times: int
) -> None:
    copy = deepgsr_cli.pictures.jobs.copy_file
    command = ["denoise", str(pictures), "--sigma", "0", "-o"]
    # What is imported is imported then, and puts no signal off.
    assert CliRunner().invoke(app, [*command, str(pictures.with_name("before"))]).exit_code == 0

    def stopped(source: Path, target: Path) -> None:
        monkeypatch.setattr(deepgsr_cli.pictures.jobs, "copy_file", copy)
        for _ in range(times):
            os.kill(os.getpid(), number)
            threading.Event().wait(0.01)
        copy(source, target)

    monkeypatch.setattr(deepgsr_cli.pictures.jobs, "copy_file", stopped)
    out = pictures.with_name("out")
    result = CliRunner().invoke(app, [*command, str(out)])
    assert result.exit_code == 128 + number
    assert result.stderr == "interrupted; what was finished is kept\n"
    assert {"a.png"} <= set(os.listdir(out)) <= {"a.png", "b.png"}


@pytest.mark.parametrize("command", ["denoise W/in -o W/out --report", "eval denoise --data W/in --csv"])
def test_what_a_killed_run_has_left_goes_with_the_next(
    pictures: Path, tiny_weights: dict[int, Path], command: str
) -> None:
    folder = pictures.parent
    (folder / "out").mkdir()
    named = folder / ("r.json" if "report" in command else "x.csv")
    for target in (folder / "out/b.png", named) if "report" in command else (named,):
        with atomic_write(target) as temporary:
            pass
        target.unlink()
        temporary.touch()
        os.utime(temporary, (0, 0))
    options = f"{command} {named} --sigma 25 --device cpu --weights {tiny_weights[1]}"
    result = CliRunner().invoke(app, options.replace("W/", f"{folder}/").split())
    assert result.exit_code == 0, result.stderr
    assert not [path for path in folder.rglob("*") if path.suffix == ".tmp"]


def test_a_signal_that_is_ignored_ends_no_run(pictures: Path) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        assert signal.signal(signal.SIGHUP, nothing) is signal.SIG_IGN


def wait_for_interrupt() -> None:
    """Wait in C, where an interrupt has to come through, and not when the wait is over."""
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        threading.Event().wait(300)
    assert time.monotonic() - began < 200


def test_an_import_is_not_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "interrupted_module.py").write_text(
        "import signal; signal.raise_signal(signal.SIGINT); done = 1"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with interruptible():
        module = importlib.import_module("interrupted_module")
        wait_for_interrupt()
    assert module.done


def test_an_interrupt_that_an_import_has_put_off_ends_nothing_after_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "last_module.py").write_text("import signal; signal.raise_signal(signal.SIGINT)")
    monkeypatch.syspath_prepend(tmp_path)
    with interruptible():
        importlib.import_module("last_module")
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join()
    signal.signal(signal.SIGINT, nothing)
    assert not came


def test_what_calls_python_from_c_is_not_interrupted() -> None:
    # As where the compiler of loops tells of what it has made: an exception is lost there.
    called = compile("import signal; signal.raise_signal(signal.SIGINT); done = 1", "x/llvmlite/y.py", "exec")
    names: dict[str, object] = {}
    with interruptible():
        exec(called, names)
        wait_for_interrupt()
    assert names["done"]


def test_an_interrupt_that_was_lost_is_followed_by_the_next() -> None:
    def lose() -> None:
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    with interruptible():
        lose()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_training_is_ended_as_other_commands_are(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(config: object, **options: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(deepgsr_cli.tasks, "train", train)
    result = CliRunner().invoke(
        app, ["train", "denoise", "--data", str(pictures), "-o", str(tmp_path / "run"), "--channels", "1"]
    )
    assert (result.exit_code, result.stderr) == (143, "interrupted; what was finished is kept\n")


def test_an_interrupt_after_the_end_ends_the_process_without_a_word() -> None:
    code = (
        "import atexit, os, signal, sys\nfrom deepgsr_cli.__main__ import main\n"
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))\n"
        "sys.argv = ['deepgsr', '--version']\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
