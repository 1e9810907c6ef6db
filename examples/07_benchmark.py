"""Measure a model on this machine: `python examples/07_benchmark.py [BACKEND ...]`.

The same as `hp-bench cihp --backend ... --json ... --plot ...`, from Python.
"""

import json
import sys
from pathlib import Path

from hp_sdk.bench.plot import latency_png
from hp_sdk.bench.session import benchmark
from hp_sdk.bench.setting import Options
from hp_sdk.files import write_bytes

out = Path("out/07_benchmark")
options = Options(
    model="cihp",
    backends=tuple(sys.argv[1:]) or ("auto",),
    batches=(1,),
    runs=20,  # enough for a first look; leave it out for ten seconds per configuration
    cold_starts=0,
    photos=(Path(__file__).with_name("astronaut.jpg"),),
)
report = benchmark(options)

for row in report.configurations:
    p50, p90 = row.latency_ms.p50, row.latency_ms.p90
    print(f"{row.name}: p50 {p50.value:.1f} ms, p90 {p90.value:.1f} ms, {row.provider}")
    stages = ", ".join(f"{name} {stage.mean:.1f}" for name, stage in row.stages_ms.items())
    print(f"  mean ms: {stages}; {row.throughput.value:.1f} photos/s")
    print(f"  same labels in every run: {row.outputs.stable}")

write_bytes(out / "report.json", json.dumps(report.to_dict(), indent=1).encode())
write_bytes(out / "latency.png", latency_png(report))
print("report.json (for --compare) and latency.png are in", out)
