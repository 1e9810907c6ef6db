"""parse.py LIBRARY JOBS.json OUT.npz: jobs of the C++ library where the loader finds stand-ins.

A process of its own, so that no other test meets them.  A job is {model, load, photos, calls}.
"""

import json
import sys
from pathlib import Path

import numpy as np

from tests.cpp.conftest import Native


def main(library: str, jobs: str, out: str) -> None:
    native, found = Native(Path(library)), {}
    for number, job in enumerate(json.loads(Path(jobs).read_text("utf-8"))):
        photos = list(np.load(job["photos"]).values())
        with native.load(job["model"], **job["load"]) as parser:
            for at, call in enumerate(job["calls"]):
                heads = call.pop("heads", None)
                results = (
                    list(parser.parse_heads(photos[0], heads).values())
                    if heads
                    else parser.parse(photos, **call)
                )
                for place, result in enumerate(results):
                    key = f"{number}.{at}.{place}"
                    found[key] = result.labels
                    found[f"{key}.backend"] = np.array(result.backend)
                    if result.confidence is not None:
                        found[f"{key}.confidence"] = result.confidence
    np.savez(out, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
