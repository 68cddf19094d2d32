"""GPUs, by NVML (nvidia-ml-py). Nothing where there is no driver; what a GPU does not tell is left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

THROTTLE = {0x8: "hw", 0x20: "sw_thermal", 0x40: "hw_thermal", 0x80: "power_brake"}
"""Bits of the clocks' event reasons that are faults; idle, power cap and application clocks are not."""


class Gpus:
    """All GPUs of the node."""

    def __init__(self, nvml: Any = None) -> None:
        self._handles: list[Any] = []
        self._events: Any = None
        try:
            if nvml is None:
                import pynvml as nvml
            nvml.nvmlInit()
        except Exception:  # no package, no driver, no GPU: NVML's own error types are not there to be named
            return
        self._nvml = nvml
        self._handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        self._listen()

    def read(self, now: float) -> dict[str, Any]:
        """{gpus: [{index, power W, busy share, memory share, temperature °C, clock MHz, throttle, ecc_…, …}], xids}."""
        if not self._handles:
            return {}
        return {"gpus": [self._gpu(i, h) for i, h in enumerate(self._handles)], "xids": self._xids()}

    def _gpu(self, index: int, handle: Any) -> dict[str, Any]:
        n = self._nvml
        found: dict[str, Any] = {"index": index}

        def add(name: str, read: Callable[[], Any]) -> None:
            try:
                found[name] = read()
            except n.NVMLError as e:
                if e.value == n.NVML_ERROR_GPU_IS_LOST:
                    found["lost"] = str(e)

        add("power", lambda: n.nvmlDeviceGetPowerUsage(handle) / 1000)
        add("busy", lambda: n.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
        add("memory", lambda: (m := n.nvmlDeviceGetMemoryInfo(handle)).used / m.total)
        add("temperature", lambda: n.nvmlDeviceGetTemperature(handle, n.NVML_TEMPERATURE_GPU))
        add("clock", lambda: n.nvmlDeviceGetClockInfo(handle, n.NVML_CLOCK_SM))
        add("throttle", lambda: _reasons(n.nvmlDeviceGetCurrentClocksThrottleReasons(handle)))
        for kind, name in ((n.NVML_MEMORY_ERROR_TYPE_CORRECTED, ""), (n.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, "un")):
            add(f"ecc_{name}corrected", lambda k=kind: n.nvmlDeviceGetTotalEccErrors(handle, k, n.NVML_VOLATILE_ECC))
        add("pcie_width", lambda: n.nvmlDeviceGetCurrPcieLinkWidth(handle))
        add("pcie_width_max", lambda: n.nvmlDeviceGetMaxPcieLinkWidth(handle))
        add("remapped", lambda: [int(v) for v in n.nvmlDeviceGetRemappedRows(handle)])
        if rows := found.pop("remapped", None):  # corrected, uncorrected, pending, failed
            found |= {"remapped_rows": rows[0] + rows[1], "remap_pending": rows[2], "remap_failed": rows[3]}
        return found

    def _listen(self) -> None:
        """Xids come as events too: the kernel's log is not for everybody."""
        n = self._nvml
        try:
            self._events = n.nvmlEventSetCreate()
            for handle in self._handles:
                n.nvmlDeviceRegisterEvents(handle, n.nvmlEventTypeXidCriticalError, self._events)
        except n.NVMLError:
            self._events = None

    def _xids(self) -> list[int]:
        found: list[int] = []
        try:
            while self._events is not None and len(found) < 20:
                found.append(int(self._nvml.nvmlEventSetWait_v2(self._events, 0).eventData))
        except self._nvml.NVMLError:  # none is left
            pass
        return found


def _reasons(bits: int) -> list[str]:
    return [name for bit, name in THROTTLE.items() if bits & bit]
