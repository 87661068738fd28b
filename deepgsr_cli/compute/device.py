"""Devices to compute on, and how much memory each has left."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deepgsr_cli.errors import MissingDeviceError, OptionError, check_text
from deepgsr_cli.words import counted

if TYPE_CHECKING:
    import torch

_GUESS = 4 << 30
# What a process takes for torch, a network and the tiles it works on.
_PROCESS_BYTES = 1 << 30


@dataclass(frozen=True)
class DeviceInfo:
    """One device of this machine: its name for `--device`, what it is, and its free memory in bytes."""

    name: str
    description: str
    free_bytes: int


def select_device(name: str) -> torch.device:
    """Select the device called `name`; "auto" is the first there is of CUDA, MPS and the CPU.

    Args:
        name: "auto", "cpu", "cuda" (the current one), "cuda:N" with N from 0, or "mps".

    Raises:
        OptionError: `name` is none of these.
        MissingDeviceError: The device is not in this machine, or this build of torch cannot use it.
    """
    import torch

    check_text("device", name, "give auto, cpu, cuda, cuda:N or mps")
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name, re.ASCII):
        raise OptionError("device", name, "not a device; give auto, cpu, cuda, cuda:N or mps")
    present = _device_names()
    if name == "auto":
        return torch.device(present[0])
    if name not in present and not (name == "cuda" and "cuda:0" in present):
        raise MissingDeviceError("device", name, f"not on this machine; give {' or '.join(present)}, or auto")
    return torch.device(name)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on `device` now.

    CUDA: what the driver calls free plus what torch keeps for reuse. MPS: Metal's recommended maximum less
    what is taken. CPU: available RAM, or less where a control group limits it; 4 GiB where the system does
    not say (`describe_devices` tells).
    """
    import torch

    if device.type == "cuda":
        reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reusable
    if device.type == "mps" and hasattr(torch.mps, "recommended_max_memory"):  # from torch 2.5
        return max(0, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return _free_ram()[0]


def gpu_names() -> list[str]:
    """Names of the CUDA devices of this machine for `--device`."""
    return [name for name in _device_names() if name.startswith("cuda")]


def count_cores(root: Path = Path("/")) -> int:
    """Processor cores that this process may use; `root` is where sys is mounted."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # What a container is given of them: so much time in each period.
    quota, _, period = _text(root / "sys/fs/cgroup/cpu.max").strip().partition(" ")
    if quota.isdecimal() and period.isdecimal():
        cores = min(cores, max(1, round(int(quota) / int(period))))
    return cores


def count_processes() -> int:
    """Processes on the CPU, of one thread each, that this machine has the cores and the free memory for."""
    return max(1, min(count_cores(), _free_ram()[0] // _PROCESS_BYTES))


def describe_devices() -> list[DeviceInfo]:
    """List the devices `select_device` accepts, in the order "auto" prefers them: the CPU is the last."""
    import torch

    found = []
    for name in _device_names():
        if name == "cpu":
            free_bytes, source = _free_ram()
            description = f"{counted(torch.get_num_threads(), 'thread')}, free memory by {source}"
        else:
            free_bytes = free_memory(torch.device(name))
            description = torch.cuda.get_device_name(name) if name.startswith("cuda") else "Apple GPU"
        found.append(DeviceInfo(name, description, free_bytes))
    return found


def _device_names() -> list[str]:
    import torch

    names = [f"cuda:{i}" for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)]
    if torch.backends.mps.is_available():
        names.append("mps")
    return [*names, "cpu"]


def _free_ram(root: Path = Path("/")) -> tuple[int, str]:
    """Bytes of RAM this process can still take, and who says so; `root` is where proc and sys are mounted."""
    meminfo = _fields(root / "proc/meminfo")
    if "MemAvailable" in meminfo:
        free = meminfo["MemAvailable"] * 1024, "/proc/meminfo"
    elif {"SC_AVPHYS_PAGES", "SC_PAGE_SIZE"} <= getattr(os, "sysconf_names", {}).keys():
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "sysconf"
    else:
        free = _GUESS, "a guess of 4 GiB, the system does not say"
    return min([free, *((room, "a control group's limit") for room in _cgroup_rooms(root))])


def _cgroup_rooms(root: Path) -> list[int]:
    """Bytes left under each memory limit that holds for this process, of control groups version 1 and 2."""
    rooms = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            mount, limit, usage, cache = "", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            mount, limit, usage = "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        # A limit binds all groups below it. In a container the path can be the host's, of which only the
        # root is visible, so folders that are not there are passed over.
        group_path = root / "sys/fs/cgroup" / mount / group.lstrip("/")
        for folder in [group_path, *group_path.parents][: len(Path(group).parts)]:
            limit_text, usage_text = _text(folder / limit).strip(), _text(folder / usage).strip()
            if limit_text.isdecimal() and usage_text.isdecimal():
                reclaimable = _fields(folder / "memory.stat").get(cache, 0)
                rooms.append(max(0, int(limit_text) - int(usage_text) + reclaimable))
    return rooms


def _fields(path: Path) -> dict[str, int]:
    """Lines such as `name 123` or `Name: 123 kB` as numbers by name, units dropped."""
    pairs = (line.replace(":", " ").split() for line in _text(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) > 1 and pair[1].isdecimal()}


def _text(path: Path) -> str:
    """Content of a text file, empty where it is not there or not ours to read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def wait(device: torch.device) -> None:
    """Wait until what was started on the device is done."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
