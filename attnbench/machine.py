"""What was measured on: facts that decide a time, and a key made of them. No names, no serials."""

import hashlib
import importlib.metadata
import json
import platform
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.profiler import ProfilerActivity

from attnbench import nvml
from attnbench.profiling import profiled
from patterns.kernels import assembler, tile_choice

_KERNELS = {  # part of a kernel's name -> the SDPA backend it belongs to, first match first
    "cudnn": "cudnn",
    "fmha_cutlass": "efficient",
    "flash": "flash",
    "softmax": "math",
}
_cudnn: Any = torch.backends.cudnn  # its functions have no types
_LOOKS = 3  # a profiler may miss a kernel, and then this would be another machine
_NOT_IN_KEY = ("memory_bytes", "os")  # they differ without changing a time


def facts(device: torch.device) -> dict[str, Any]:
    """What the measurements depend on, beside the code.

    Raises:
        BadInput: a file with tile sizes for this GPU cannot be used.
    """
    found: dict[str, Any] = {
        "device": device.type,
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "os": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _installed("triton"),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "gpu": properties.name,
            "gpu_memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "l2_bytes": properties.L2_cache_size,
            "driver": nvml.driver(),
            "ptxas": assembler.version(device.index or 0),
            "cuda": torch.version.cuda,
            "cudnn": _cudnn.version(),
            "sdpa": launched_sdpa(device),
            "tiles": tile_choice.told(device),
        }
    return found


def machine_id(found: dict[str, Any]) -> str:
    """A readable key: the device's short name and 8 digits of a hash of the facts."""
    digest = hashlib.sha256(json.dumps(facts_in_key(found), sort_keys=True).encode()).hexdigest()[
        :8
    ]
    name = re.sub(r"[^a-z0-9]+", "-", found.get("gpu", "cpu").lower()).strip("-")
    return f"{name}-{digest}"


def facts_in_key(found: dict[str, Any]) -> dict[str, Any]:
    """The facts that make another machine."""
    usual = {"tiles": "shipped"}  # so were all before sizes could be measured
    return {
        name: value
        for name, value in found.items()
        if name not in _NOT_IN_KEY and usual.get(name) != value
    }


def launched_sdpa(device: torch.device) -> str | None:
    """Which backend SDPA launches by default, by the name of its kernel; None if unseen."""
    q, k, v = (torch.randn(1, 8, 1024, 64, device=device, dtype=torch.bfloat16) for _ in range(3))
    with suppress(RuntimeError):  # no bfloat16, or a container that forbids profiling
        scaled_dot_product_attention(q, k, v, is_causal=True)
        torch.cuda.synchronize(device)
        for _ in range(_LOOKS):
            with profiled(ProfilerActivity.CUDA) as events:
                scaled_dot_product_attention(q, k, v, is_causal=True)
                torch.cuda.synchronize(device)
            names = " ".join(event.name().lower() for event in events)
            for part, backend in _KERNELS.items():
                if part in names:
                    return backend
    return None


def _cpu() -> str:
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        if match := re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE):
            return match[1].strip()
    return platform.processor() or platform.machine()


def _installed(package: str) -> str | None:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None
