"""Clocks, power and heat of one GPU, as the driver's management library tells them."""

from __future__ import annotations

import ctypes
import sys
from ctypes import byref, c_uint, c_void_p
from dataclasses import dataclass

from hp_sdk.errors import BackendUnavailable
from hp_sdk.gpu.driver import bus_id

_LIBRARY = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"
_SM, _MEMORY, _DIE = 1, 2, 0  # nvmlClockType_t and nvmlTemperatureSensors_t
_READINGS = {
    "sm_mhz": ("nvmlDeviceGetClockInfo", (_SM,), 1.0),
    "sm_max_mhz": ("nvmlDeviceGetMaxClockInfo", (_SM,), 1.0),
    "memory_mhz": ("nvmlDeviceGetClockInfo", (_MEMORY,), 1.0),
    "power_w": ("nvmlDeviceGetPowerUsage", (), 1e-3),
    "power_limit_w": ("nvmlDeviceGetEnforcedPowerLimit", (), 1e-3),
    "celsius": ("nvmlDeviceGetTemperature", (_DIE,), 1.0),
}
"""Field of `Sensors` → function, what it wants besides, and its unit in ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensors:
    """One reading; None where this GPU does not tell."""

    sm_mhz: float | None
    sm_max_mhz: float | None
    memory_mhz: float | None
    power_w: float | None
    power_limit_w: float | None
    celsius: float | None


def read_sensors(index: int) -> Sensors:
    """What the sensors of the GPU that CUDA calls `index` say now.

    Raises:
        BackendUnavailable: there is no management library, or it does not know the GPU.
    """
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as exc:
        raise BackendUnavailable(f"{_LIBRARY} is not there; clocks and power are unknown") from exc
    device = c_void_p()
    _check(library.nvmlInit_v2())
    try:
        # By its place on the bus: CUDA counts only visible GPUs, in an order of its own.
        _check(library.nvmlDeviceGetHandleByPciBusId_v2(bus_id(index).encode(), byref(device)))
        return Sensors(**{field: _read(library, device, field) for field in _READINGS})
    finally:
        library.nvmlShutdown()


def _read(library: ctypes.CDLL, device: c_void_p, field: str) -> float | None:
    name, arguments, unit = _READINGS[field]
    value = c_uint()
    if getattr(library, name)(device, *(c_uint(each) for each in arguments), byref(value)):
        return None
    return value.value * unit


def _check(code: int) -> None:
    if code:
        raise BackendUnavailable(f"the GPU's management library fails with {code}; see nvidia-smi")
