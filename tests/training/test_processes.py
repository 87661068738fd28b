import dataclasses
import os
import socket
import subprocess
import sys

import pytest
import torch

from deepgsr_cli.models import PRESETS
from deepgsr_cli.pictures.training import PictureSample, PictureTraining
from deepgsr_cli.tasks import train
from deepgsr_cli.training.task import Draw
from tests.samples import state_of


def environment(rank, port):
    """What torchrun tells one process of two."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def work(rank, port, config, tiny, results):
    """One process of two, as torchrun starts it; it says that it has started, and its last step."""
    os.environ |= environment(rank, port)
    torch.set_num_threads(1)
    PRESETS["tiny"] = tiny
    results.send("started")
    results.send(trained_step(config))


def trained_step(config):
    """The last step of a process's training."""
    end = train(config)
    torch.distributed.destroy_process_group()
    return end.step


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_other_with_one_sentence(pictures, tmp_path, killed):
    command = [sys.executable, "-m", "deepgsr_cli", "train", "denoise", "--data", str(pictures)]
    command += ["-o", str(tmp_path), "--model", "nsr", "--held-out", "1", "--batch", "1", "--patch", "16"]
    command += ["--device", "cpu", "--validate-every", "2", "--channels", "1"]
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    environment = os.environ | together | {"OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            command, env=environment | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True, bufsize=1
        )
        for rank in (0, 1)
    ]
    try:
        assert "step 2" in processes[0].stderr.readline()  # both are at work
        processes[killed].kill()
        _, stderr = processes[1 - killed].communicate(timeout=60)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert processes[1 - killed].returncode == 1
    said = [line for line in stderr.splitlines() if not line.startswith("step ")]
    assert said == [
        f"process {1 - killed} of 2: another process of this run has ended or does not answer; "
        "start all of them again, with --resume"
    ]


def test_two_processes_equal_one_with_both_batches(config, tmp_path, monkeypatch):
    config = dataclasses.replace(config, steps=4)
    port = free_port()
    # The other process is this one: importing torch takes longer than the training.
    context = torch.multiprocessing.get_context("spawn")
    results, sender = context.Pipe(duplex=False)
    second = context.Process(target=work, args=(1, port, config, PRESETS["tiny"], sender), daemon=True)
    second.start()
    sender.close()
    assert results.recv() == "started"
    with monkeypatch.context() as patch:
        for name, value in environment(0, port).items():
            patch.setenv(name, value)
        assert trained_step(config) == 4
    assert results.recv() == 4
    second.join()

    alone, steps = PictureTraining.sample, iter(range(100))

    def both(self, draw):
        parts = [alone(self, d) for d in (draw, Draw.of(torch.device("cpu"), config.seed, next(steps), 1))]
        shown = tuple(torch.cat(tensors) for tensors in zip(*(part.shown for part in parts)))
        return PictureSample(shown, *(torch.cat([getattr(p, n) for p in parts]) for n in ("clean", "weight")))

    monkeypatch.setattr(PictureTraining, "sample", both)
    single = dataclasses.replace(config, output=tmp_path / "single")
    train(single)
    together, expected = state_of(config), state_of(single)
    for name, value in expected["model"].items():
        torch.testing.assert_close(together["model"][name], value, rtol=1e-4, atol=2e-5)
