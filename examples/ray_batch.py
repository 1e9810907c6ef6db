"""Parse a folder or a Parquet file with Ray Data: `python examples/ray_batch.py [SOURCE]`.

Needs `pip install "hp-sdk[cpu,ray]"`.  Interrupted?  Call it again: it goes on where it was.  On a
cluster, call `ray.init(address="auto")` before; the paths must be the same on every machine.
"""

import argparse
from pathlib import Path

import cv2

from hp_sdk.integrations.ray import parse_dataset


def sample_folder(folder: Path, count: int = 6) -> Path:
    """The astronaut, closer with each photo."""
    folder.mkdir(parents=True, exist_ok=True)
    image = cv2.imread(str(Path(__file__).with_name("astronaut.jpg")))
    assert image is not None
    for i in range(count):
        file = folder / f"photo-{i}.jpg"
        if not file.exists():  # a photo that is written anew would be parsed anew
            cv2.imwrite(str(file), image[: 512 - 32 * i, 12 * i : 512 - 12 * i])
    return folder


arguments = argparse.ArgumentParser(description="Parse photos with Ray Data.")
arguments.add_argument("source", nargs="?", type=Path, help="folder of photos, or .parquet file")
arguments.add_argument("-o", "--output", type=Path, default=Path("out/ray_batch/parsed"))
arguments.add_argument("--model", default="cihp")
arguments.add_argument("--workers", type=int, default=2)
arguments.add_argument("--photo-column", default="photo", help="of a .parquet file")
arguments.add_argument("--key-column", default="key", help="of a .parquet file")
options = arguments.parse_args()

source = options.source or sample_folder(Path("out/ray_batch/photos"))
summary = parse_dataset(
    source,
    options.output,
    model=options.model,
    workers=options.workers,
    photo_column=options.photo_column,
    key_column=options.key_column,
)
print(f"{summary.parsed} parsed, {summary.kept} kept, {summary.failed} failed")
print("label maps, records and", summary.manifest.name, "are in", options.output)
