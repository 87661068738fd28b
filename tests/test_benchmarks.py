"""Benchmarks that are for machines other than those of the tests run here, with little to do."""

import runpy
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_a_device_is_measured_by_network_and_precision(monkeypatch, capsys):
    options = "--device cpu --size 32 --repeat 1 --slices 0 --precision fp32 bf16 --weights"
    arguments = [*options.split(), "deepgsr-gray", "deepgsr-photo", "deepgsr-upscale"]
    monkeypatch.setattr(sys, "argv", ["device.py", *arguments])
    runpy.run_path(str(BENCHMARKS / "device.py"), run_name="__main__")
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("|")
    ]
    peaks = {row[0]: float(row[2]) for row in cells if row[0] in ("fp32", "bf16")}
    networks = [row for row in cells if row[0].startswith("deepgsr-")]
    assert set(peaks) == {"fp32", "bf16"}
    assert [row[:2] for row in networks] == [[name, p] for name in arguments[-3:] for p in ("fp32", "bf16")]
    assert all(float(row[2]) > 0 and row[3].endswith("%") and row[4] == "-" for row in networks)
