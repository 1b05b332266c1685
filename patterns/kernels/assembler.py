"""Which ptxas makes machine code of the kernels, and whether it can be trusted with all of them.

The ptxas of CUDA 12.8, which comes with Triton 3.6 and 3.7, may use a register again before one of
Hopper's asynchronous products (wgmma) has read it (triton issues 10486 and 11781). With it some
kernels of Combiner-Logsparse gave wrong numbers and read outside their memory on an H100; from the
same PTX, those of CUDA 12.9 and 13.0 made kernels that passed all the same tests. So on Hopper the
newest ptxas that is there takes the place of Triton's own, unless TRITON_PTXAS_PATH names one.
"""

import functools
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

SOUND = (12, 9)  # from which version on no kernel of ours was seen to go wrong
_HOPPER = 9
_NAMED = "TRITON_PTXAS_PATH"


@functools.cache
def prepare(device: int) -> None:
    """Have Triton use the chosen ptxas from now on, in this process and in those that it starts."""
    path = _chosen(device)[0]
    if path is None:
        return
    import triton
    from triton.backends.nvidia import compiler

    triton.knobs.nvidia.ptxas = path
    # Both keep what Triton's own said of itself, by which compiled kernels are found again.
    for kept in (compiler.get_ptxas_version, compiler.CUDABackend.hash):
        with suppress(AttributeError):
            kept.cache_clear()


def version(device: int) -> str | None:
    """The version of the ptxas that our kernels are made with, such as "13.0"."""
    return _chosen(device)[1]


def sound(device: int) -> bool:
    """Whether that ptxas can be trusted with kernels that 12.8 gets wrong on this device."""
    if torch.cuda.get_device_capability(device)[0] != _HOPPER:
        return True
    found = version(device)
    return found is not None and _number(found) >= SOUND


@functools.cache
def _chosen(device: int) -> tuple[str | None, str | None]:
    """The path to take in place of Triton's own, if any, and the version of what is taken."""
    try:
        import triton

        own = triton.knobs.nvidia.ptxas
    except (ImportError, AttributeError, RuntimeError):  # no Triton, or one without any ptxas
        return None, None
    hopper = torch.cuda.get_device_capability(device)[0] == _HOPPER
    if os.environ.get(_NAMED) or not hopper:
        return None, str(own.version)
    newest = max(_there(Path(triton.__file__).parent), key=lambda tool: _number(tool[1]))
    return newest if _number(newest[1]) > _number(own.version) else (None, str(own.version))


def _there(triton_folder: Path) -> Iterator[tuple[str, str]]:
    """The path and version of each ptxas where one is usually found."""
    from triton.knobs import NvidiaTool

    toolkits = (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda")
    own = triton_folder / "backends" / "nvidia" / "bin"
    for path in (
        *(str(own / name) for name in ("ptxas", "ptxas-blackwell")),
        *(str(Path(toolkit, "bin", "ptxas")) for toolkit in toolkits if toolkit),
        shutil.which("ptxas"),
    ):
        if path and os.access(path, os.X_OK) and (tool := NvidiaTool.from_path(path)):
            yield path, tool.version


def _number(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))
