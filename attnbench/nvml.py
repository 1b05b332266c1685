"""What NVML says of a GPU: its clocks, why they are held down, its driver. Absent is no error."""

import importlib
from contextlib import suppress
from typing import Any

import torch

from attnbench.timing import Clocks

_ABSENT = "nvidia-ml-py is not installed, so clocks were not read: pip install nvidia-ml-py"
_REASONS = {  # bits of nvmlClocksEventReasons
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal",
    0x40: "hardware thermal",
    0x80: "power brake",
}


class ClockReader:
    """Reads the SM clock and the reasons for throttling of one device."""

    def __init__(self, device: torch.device) -> None:
        """Find the device by its UUID; what is missing is told by `read`."""
        self._handle: Any = None
        self.why_not: str | None = None
        try:
            self._nvml: Any = importlib.import_module("pynvml")
        except ImportError:
            self.why_not = _ABSENT
            return
        try:
            self._nvml.nvmlInit()
            uuid = str(torch.cuda.get_device_properties(device).uuid)
            name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
            self._handle = self._nvml.nvmlDeviceGetHandleByUUID(name)
        except (self._nvml.NVMLError, OSError, AttributeError) as error:
            self.why_not = f"clocks could not be read: {error}"

    def read(self) -> Clocks | str:
        """The clocks now, or why they cannot be read."""
        if self._handle is None:
            return self.why_not or _ABSENT
        try:
            mhz = self._nvml.nvmlDeviceGetClockInfo(self._handle, self._nvml.NVML_CLOCK_SM)
            bits = self._bits()
        except self._nvml.NVMLError as error:
            return f"clocks could not be read: {error}"
        reasons = tuple(reason for bit, reason in _REASONS.items() if bits & bit)
        return Clocks(sm_mhz=int(mhz), throttle=reasons)

    def _bits(self) -> int:
        for name in ("ClocksEventReasons", "ClocksThrottleReasons"):  # since, and before, R535
            ask = getattr(self._nvml, f"nvmlDeviceGetCurrent{name}", None)
            if ask is not None:
                with suppress(self._nvml.NVMLError):
                    return int(ask(self._handle))
        return 0


def driver() -> str | None:
    """The version of the driver, or None where nothing says so."""
    with suppress(Exception):  # whatever a missing or broken driver raises
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
        return str(nvml.nvmlSystemGetDriverVersion())
    return None
