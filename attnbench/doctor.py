"""What works on this machine, and what to do about what does not."""

import importlib.metadata
import importlib.util
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity

from attnbench.machine import launched_sdpa
from attnbench.nvml import ClockReader, driver
from attnbench.predict import gib
from attnbench.profiling import profiled
from patterns import pattern
from patterns.errors import BadInput, Unsupported
from patterns.kernels import tile_choice

_PACKAGES = {  # package -> (module, whether it is needed, what it is for)
    "numpy": ("numpy", True, "everything"),
    "pandas": ("pandas", True, "results as tables"),
    "matplotlib": ("matplotlib", True, "figures"),
    "seaborn": ("seaborn", True, "figures"),
    "safetensors": ("safetensors", True, "captured q, k, v"),
    "psutil": ("psutil", True, "free memory"),
    "tqdm": ("tqdm", True, "progress"),
    "tabulate": ("tabulate", True, "tables"),
    "triton": ("triton", False, "the triton backend; it comes with PyTorch for CUDA"),
    "nvidia-ml-py": ("pynvml", False, "clocks and throttling beside GPU times"),
    "transformers": ("transformers", False, "capturing from models: pip install '.[models]'"),
}
_LEAST_FREE = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    what: str
    fine: bool
    told: str
    needed: bool = True


def examine(runs: Path = Path("runs")) -> list[Finding]:
    """Look at devices, backends, packages and permissions."""
    looks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _python,
        _devices,
        _backends,
        _packages,
        lambda: _folder(runs),
    )
    return [finding for look in looks for finding in look()]


def told(findings: list[Finding]) -> str:
    """One line a finding; what is missing says what to do about it."""
    marks = {(True, True): "ok", (True, False): "ok", (False, True): "FIX", (False, False): "-"}
    width = max(len(one.what) for one in findings)
    return "\n".join(
        f"{marks[one.fine, one.needed]:4}{one.what:{width}}  {one.told}" for one in findings
    )


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    fine = sys.version_info >= (3, 11)
    yield Finding(
        what="python", fine=fine, told=version if fine else f"{version}: 3.11 or newer is needed"
    )
    numbers = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    fine = numbers >= (2, 11)
    yield Finding(
        what="torch",
        fine=fine,
        told=torch.__version__ if fine else f"{torch.__version__}: pip install 'torch>=2.11'",
    )


def _devices() -> Iterator[Finding]:
    yield Finding(what="cpu", fine=True, told=f"{torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(index)
            name = f"cuda:{index}"
            yield Finding(
                what=name, fine=True, told=f"{found.name}, {gib(found.total_memory)}, {driver()}"
            )
        reader = ClockReader(torch.device("cuda"))
        clocks = reader.read()
        yield Finding(
            what="clocks",
            fine=not isinstance(clocks, str),
            told=clocks if isinstance(clocks, str) else f"{clocks.sm_mhz} MHz",
            needed=False,
        )
        yield _profiler()
        yield _tiles(torch.device("cuda"))
        return
    built = torch.version.cuda is not None
    yield Finding(
        what="cuda",
        fine=False,
        needed=False,
        told="PyTorch sees no GPU: check that nvidia-smi lists one"
        if built
        else "this PyTorch has no CUDA; for GPU times install one that has (pytorch.org)",
    )


def _profiler() -> Finding:
    x = torch.ones(1024, device="cuda")
    names = []
    with suppress(RuntimeError), profiled(ProfilerActivity.CUDA) as events:
        (x + 1).sum().item()
    with suppress(NameError):
        names = [event.name() for event in events]
    return Finding(
        what="profiler",
        fine=bool(names),
        needed=False,
        told="sees CUDA kernels"
        if names
        else "sees no CUDA kernels, so the SDPA backend is unknown: allow CUPTI (in a container, "
        "--cap-add SYS_ADMIN)",
    )


def _tiles(device: torch.device) -> Finding:
    try:
        found = tile_choice.told(device)
    except BadInput as error:
        return Finding(what="tile sizes", fine=False, told=str(error))
    safe = f"{found}, for no others are known for this card: run_bench.py retune measures some"
    fine = found != "safe"
    return Finding(what="tile sizes", fine=fine, needed=False, told=found if fine else safe)


def _backends() -> Iterator[Finding]:
    full = pattern("full")
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    dtype = torch.bfloat16 if on_gpu else torch.float32
    q, k, v = (torch.randn(1, 2, 64, 64, device=device, dtype=dtype) for _ in range(3))
    for backend in full.backends:
        try:
            full.attend(q, k, v, backend=backend)
        except Unsupported as error:
            yield Finding(what=f"full@{backend}", fine=False, told=str(error), needed=False)
        except RuntimeError as error:
            short = str(error).splitlines()[0]
            yield Finding(what=f"full@{backend}", fine=False, told=short, needed=False)
        else:
            yield Finding(what=f"full@{backend}", fine=True, told=f"runs in {dtype}")
    if on_gpu:
        found = launched_sdpa(device)
        yield Finding(
            what="sdpa default",
            fine=found is not None,
            needed=False,
            told=f"launches {found}" if found else "unknown: see profiler",
        )


def _packages() -> Iterator[Finding]:
    for package, (module, needed, purpose) in _PACKAGES.items():
        fine = importlib.util.find_spec(module) is not None
        version = "without a version"
        with suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version(package)
        missing = f"missing: pip install {package} ({purpose})"
        yield Finding(what=package, fine=fine, needed=needed, told=version if fine else missing)


def _folder(runs: Path) -> Iterator[Finding]:
    try:
        runs.mkdir(parents=True, exist_ok=True)
        probe = runs / ".doctor"
        probe.write_text("", encoding="utf-8")
        probe.unlink()
        free = shutil.disk_usage(runs).free
    except OSError as error:
        yield Finding(
            what=str(runs), fine=False, told=f"cannot be written ({error.strerror}): use --out"
        )
        return
    yield Finding(
        what=str(runs),
        fine=free > _LEAST_FREE,
        needed=False,
        told=f"{gib(free)} free" + ("" if free > _LEAST_FREE else ": make room, or use --out"),
    )
