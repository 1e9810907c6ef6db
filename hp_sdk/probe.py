"""What may crash, in a process of its own: a probe prints one JSON object per line as it learns.

for fact in run_probe("runtime", "onnxruntime", "path/of/a/bundle").facts: ...
"""

from __future__ import annotations

import ctypes
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

TIMEOUT_S = 180
_DRIVER_LIBRARIES = ("libcuda.so.1", "nvcuda.dll")
_PICTURE_HW = (96, 64)
_OURS = "hp-probe"
"""Key that tells our lines from what runtimes print."""

Fact = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a probe has said, and how it ended if it did not end well."""

    facts: list[Fact] = field(default_factory=list[Fact])
    crash: str = ""


def run_probe(probe: str, *arguments: str, timeout_s: float = TIMEOUT_S) -> Outcome:
    """Run one of `PROBES` in a child process; never raises, whatever the child does."""
    root = str(Path(__file__).parents[1])
    program = (
        f"import sys; sys.path.append({root!r}); "
        f"from hp_sdk.probe import main; main({probe!r}, *{arguments!r})"
    )
    # -P: a file in the working folder that is called like a package must not stand in for it.
    command = [sys.executable, "-P", "-c", program]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        said = exc.stdout.decode(errors="replace") if isinstance(exc.stdout, bytes) else ""
        return Outcome(_facts(said), f"did not answer within {timeout_s:g} s")
    except OSError as exc:
        return Outcome([], f"no process can be started ({exc})")
    return Outcome(_facts(done.stdout), _crash(done.returncode, done.stderr))


def main(probe: str, *arguments: str) -> None:
    """Inside the child: print what the probe learns, at once, because the next step may crash."""
    for fact in PROBES[probe](*arguments):
        sys.stdout.write(f"\n{json.dumps({_OURS: fact})}\n")
        sys.stdout.flush()


def probe_module(name: str) -> Iterator[Fact]:
    """Whether a module can be imported, and its version."""
    yield {"version": str(getattr(import_module(name), "__version__", ""))}


def probe_runtime(name: str, folder: str) -> Iterator[Fact]:
    """What a runtime lists, and for each of its devices whether a bundle really runs there."""
    from hp_sdk.backends import describe_backend
    from hp_sdk.backends.base import Absent
    from hp_sdk.errors import HpError

    try:
        installed = describe_backend(name)
    except HpError as exc:
        yield {"absent" if isinstance(exc, Absent) else "broken": str(exc)}
        return
    yield {"installed": asdict(installed)}
    for device in installed.devices if folder else ():
        yield {"trying": device}
        try:
            yield {"works": _parse(Path(folder), name, device)}
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is what we came to hear
            told = str(exc) if isinstance(exc, HpError) else f"{type(exc).__name__}: {exc}"
            yield {"fails": {"device": device, "error": " ".join(told.split())}}


def probe_driver() -> Iterator[Fact]:
    """CUDA version and GPUs as NVIDIA's driver library tells them; nothing if it is not there."""
    library = next(filter(None, map(_loaded, _DRIVER_LIBRARIES)), None)
    if library is None:
        return
    if error := library.cuInit(0):
        yield {"problem": f"the CUDA driver library does not start (error {error})"}
        return
    version, count = ctypes.c_int(), ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(version))
    library.cuDeviceGetCount(ctypes.byref(count))
    names = [_gpu_name(library, index) for index in range(count.value)]
    yield {"driver": f"CUDA {version.value // 1000}.{version.value % 1000 // 10}", "gpus": names}


PROBES: dict[str, Callable[..., Iterator[Fact]]] = {
    "module": probe_module,
    "runtime": probe_runtime,
    "driver": probe_driver,
}


def _parse(folder: Path, backend: str, device: str) -> Fact:
    """Parse a grey picture twice; the second time is what a photo costs."""
    import numpy as np

    from hp_sdk.parser import Parser

    picture = np.full((*_PICTURE_HW, 3), 127, np.uint8)
    start = perf_counter()
    with Parser.load(folder, backend=backend, device=device) as parser:
        parser.predict(picture)
        ready = perf_counter()
        receipt = parser.predict(picture).receipt
        end = perf_counter()
    facts = asdict(receipt) if receipt is not None else {}
    return {
        "device": device,
        "provider": facts.get("provider", ""),
        "precision": facts.get("precision", ""),
        "notes": list(facts.get("notes", ())),
        "ready_ms": round(1e3 * (ready - start), 1),
        "parse_ms": round(1e3 * (end - ready), 1),
    }


def _loaded(library: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(library)
    except OSError:
        return None


def _gpu_name(library: ctypes.CDLL, index: int) -> str:
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    library.cuDeviceGet(ctypes.byref(device), index)
    library.cuDeviceGetName(name, len(name), device)
    return name.value.decode(errors="replace")


def _facts(said: str) -> list[Fact]:
    lines = (line for line in said.splitlines() if line.startswith(f'{{"{_OURS}"'))
    return [json.loads(line)[_OURS] for line in lines if line.endswith("}")]


def _crash(code: int, complaints: str) -> str:
    if code == 0:
        return ""
    lines = [line.strip() for line in complaints.splitlines() if line.strip()]
    last = f": {lines[-1]}" if lines else ""
    if code < 0:
        known = {int(each): each.name for each in signal.Signals}
        return f"crashed with {known.get(-code, f'signal {-code}')}{last}"
    return f"ended with exit code {code}{last}"
