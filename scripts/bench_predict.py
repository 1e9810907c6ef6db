"""Time one photo through `Parser.predict`, end to end and warm, and the memory of the process.

    python scripts/bench_predict.py [--model cihp] [--photo examples/astronaut.jpg] [--runs 50]

Prints the median, the 90th percentile, the mean of every step and the peak resident memory.
Nothing but the runtime is imported, so the memory is what an application would see.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from pathlib import Path

import hp_sdk
from hp_sdk.image import load_image

PHOTO = Path(__file__).resolve().parents[1] / "examples" / "astronaut.jpg"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="cihp")
    parser.add_argument("--photo", type=Path, default=PHOTO)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    image = load_image(args.photo)
    with hp_sdk.Parser.load(args.model, num_threads=args.threads) as loaded:
        for _ in range(3):
            loaded.predict(image)
        elapsed_ms, steps = [], []
        for _ in range(args.runs):
            start = time.perf_counter()
            result = loaded.predict(image)
            elapsed_ms.append(1e3 * (time.perf_counter() - start))
            steps.append(result.timing)
    ranked = sorted(elapsed_ms)
    print(f"{args.photo.name} {image.shape[1]}x{image.shape[0]}, {args.runs} runs, warm")
    print(f"median {statistics.median(ranked):.1f} ms, p90 {ranked[int(0.9 * len(ranked))]:.1f} ms")
    for name in steps[0]:
        print(f"  {name:16} {statistics.mean(step[name] for step in steps):6.1f} ms")
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"peak memory of the process {peak_mb:.0f} MB")


if __name__ == "__main__":
    main()
