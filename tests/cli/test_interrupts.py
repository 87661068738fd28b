"""What ends a run from outside ends it as a whole: finished files stay, and nothing is half written."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner

import deepgsr_cli.pictures.jobs
from deepgsr_cli.cli import app
from tests.formats.test_image import noise, png


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM that can be sent")
def test_sigterm_ends_a_run_as_an_interrupt_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    for name in "abc":
        (tmp_path / "in" / f"{name}.png").write_bytes(png(noise((24, 32), "uint8"), 8, 0))
    copy = deepgsr_cli.pictures.jobs.copy_file

    def stopped(source: Path, target: Path) -> None:
        # Once: a second signal would end the wait for what is being written, too.
        monkeypatch.setattr(deepgsr_cli.pictures.jobs, "copy_file", copy)
        os.kill(os.getpid(), signal.SIGTERM)
        copy(source, target)

    monkeypatch.setattr(deepgsr_cli.pictures.jobs, "copy_file", stopped)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # so that the tests survive without the handler
    try:
        result = CliRunner().invoke(
            app, ["denoise", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--sigma", "0"]
        )
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    assert result.exit_code == 128 + signal.SIGTERM
    assert "interrupted; what was finished is kept" in result.stderr
    assert {"a.png", "b.png"} >= set(os.listdir(tmp_path / "out"))
