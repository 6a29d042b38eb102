"""What a benchmark ran on, for its record: processor, threads, memory, system, GPU;
and the releases of what it ran.

Results recorded before this file was there say nothing of the machine, or less; they
are left as they are, see ``tests/documents/test_tables.py``.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def machine(device: str = "cpu") -> dict[str, Any]:
    """The machine as JSON; what the system does not tell is left out.

    Args:
        device (str, optional): Where the models ran; of a GPU the name is recorded.

    Call it in the process that measures, after its threads have been set.
    """
    import torch

    found: dict[str, Any] = {
        "cpu": _processor(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": _memory(),
        "os": f"{platform.system()} {platform.release()}",
    }
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(device)
        found["cuda"] = torch.version.cuda
    return {key: value for key, value in found.items() if value}


def versions() -> dict[str, str]:
    """Releases of what was run."""
    from captum_margin._version import versions

    return versions(
        "captum", "torch", "torchvision", "grad-cam", "scikit-image", "numpy"
    )


def quick_dtype() -> torch.dtype:
    """bfloat16 where the processor multiplies in it, else float32.

    Small cores take half the time of float32 in the first; where it is emulated, ten
    times as much.
    """
    import torch

    can = torch.cpu.get_capabilities()
    native = any(can.get(f"{unit}bf16") for unit in ("avx512_", "amx_", "arm_", ""))
    return torch.bfloat16 if native else torch.float32


def _processor() -> str:
    """The model's name; Linux keeps it in a file, others in ``platform``."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor()


def _memory() -> float | None:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
    return round(size / 2**30, 1)
