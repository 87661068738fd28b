"""Devices: what is there, what is not, and how much memory is left."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deepgsr_cli.compute import device
from deepgsr_cli.compute.device import describe_devices, free_memory, select_device
from deepgsr_cli.errors import DeviceError, UsageError

GIB = 1 << 30
MEMINFO = "MemTotal: 33554432 kB\nMemFree: 1048576 kB\nMemAvailable: 20971520 kB\n"  # 20 GiB available


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """A pretended machine: CUDA devices and Apple GPUs, none at first."""
    has = {"cuda": 0, "mps": 0}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has["cuda"] > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: has["cuda"])
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: has["mps"] > 0)
    return has


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_auto_prefers_cuda_then_mps_then_the_cpu(machine: dict[str, int]) -> None:
    assert select_device("auto") == torch.device("cpu")
    machine["mps"] = 1
    assert select_device("auto") == torch.device("mps")
    machine["cuda"] = 2
    assert select_device("auto") == torch.device("cuda:0")


def test_a_device_that_is_there_is_given(machine: dict[str, int]) -> None:
    machine |= {"cuda": 2, "mps": 1}
    for name in ("cpu", "cuda", "cuda:0", "cuda:1", "mps"):
        assert str(select_device(name)) == name


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps"])
def test_a_device_that_is_not_there_is_an_error_that_names_what_is(
    machine: dict[str, int], name: str
) -> None:
    with pytest.raises(DeviceError, match=f"device is {name}: not on this machine; give cpu, or auto"):
        select_device(name)


def test_a_cuda_number_past_the_last_names_those_there_are(machine: dict[str, int]) -> None:
    machine["cuda"] = 2
    with pytest.raises(DeviceError, match="cuda:2: not on this machine; give cuda:0 or cuda:1 or cpu"):
        select_device("cuda:2")


@pytest.mark.parametrize("name", ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "xpu", "cuda\n"])
def test_nonsense_is_wrong_usage(machine: dict[str, int], name: str) -> None:
    with pytest.raises(UsageError, match="not a device; give auto, cpu, cuda, cuda:N or mps"):
        select_device(name)


def test_free_ram_is_what_the_kernel_calls_available(tmp_path: Path) -> None:
    assert device._free_ram(write(tmp_path, {"proc/meminfo": MEMINFO})) == (20 * GIB, "/proc/meminfo")
    half_told = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "7\n"}  # no usage beside the limit
    assert device._free_ram(write(tmp_path, half_told)) == (20 * GIB, "/proc/meminfo")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("limited", ["a/b", "a", ""])
def test_a_control_groups_limit_holds_for_all_groups_below(
    tmp_path: Path, version: int, limited: str
) -> None:
    mount = f"sys/fs/cgroup/{'memory/' if version == 1 else ''}{limited}"
    files = {"proc/meminfo": MEMINFO}
    if version == 1:
        files["proc/self/cgroup"] = "8:pids:/\n4:memory:/a/b\n0::/a/b\n"
        files[f"{mount}/memory.limit_in_bytes"] = f"{8 * GIB}\n"
        files[f"{mount}/memory.usage_in_bytes"] = f"{5 * GIB}\n"
        files[f"{mount}/memory.stat"] = f"inactive_file 7\ntotal_inactive_file {GIB}\n"
        unlimited = {"memory.limit_in_bytes": "9223372036854771712\n", "memory.usage_in_bytes": "0\n"}
        files |= {f"sys/fs/cgroup/memory/a/b/{k}": v for k, v in unlimited.items() if limited != "a/b"}
    else:
        files["proc/self/cgroup"] = "0::/a/b\n"
        files[f"{mount}/memory.max"] = f"{8 * GIB}\n"
        files[f"{mount}/memory.current"] = f"{5 * GIB}\n"
        files[f"{mount}/memory.stat"] = f"anon 3\ninactive_file {GIB}\n"
        files |= {"sys/fs/cgroup/a/b/memory.max": "max\n"} if limited != "a/b" else {}
    assert device._free_ram(write(tmp_path, files)) == (4 * GIB, "a control group's limit")


def test_a_container_sees_its_limit_at_the_root_though_its_group_is_the_hosts(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "4:cpu,memory:/docker/0123abcd\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": str(2 * GIB),
        "sys/fs/cgroup/memory/memory.usage_in_bytes": str(3 * GIB),
    }
    assert device._free_ram(write(tmp_path, files)) == (0, "a control group's limit")


def test_memory_nobody_tells_is_a_guess_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free_bytes, source = device._free_ram(tmp_path)
    assert source == "sysconf"
    assert free_bytes > 0
    monkeypatch.delattr("os.sysconf_names")
    assert device._free_ram(tmp_path) == (4 * GIB, "a guess of 4 GiB, the system does not say")


def test_free_cuda_memory_counts_what_torch_keeps_for_reuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 40)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 15)
    assert free_memory(torch.device("cuda")) == 35


def test_this_machines_devices_are_described_and_can_be_selected() -> None:
    described = describe_devices()
    assert described[-1].name == "cpu"
    for info in described:
        assert info.description
        assert 0 < free_memory(select_device(info.name)) < 1 << 50
        assert 0 < info.free_bytes < 1 << 50


@pytest.mark.gpu
def test_a_gpu_is_found_and_its_memory_shrinks_by_what_is_taken() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    gpu = select_device("auto")
    assert gpu.type == "cuda"
    before = free_memory(gpu)
    taken = torch.empty(1 << 30, dtype=torch.uint8, device=gpu)
    assert before - free_memory(gpu) >= taken.nbytes // 2
    assert describe_devices()[0].name == "cuda:0"


def test_one_thread_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert describe_devices()[-1].description.startswith("1 thread, free memory")
