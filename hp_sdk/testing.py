"""Stand-ins for tests, ours and yours: a backend without a runtime, a bundle without a network.

    bundle = make_bundle(tmp_path / "bundle")
    parser = Parser(bundle, FakeBackend(bundle))
    result = parser.predict("any.jpg")

By default the fake reads colours: a picture painted in a domain's palette is answered with the
ids it was painted from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hp_sdk.backends import BackendEntry
from hp_sdk.backends.base import (
    BackendOptions,
    Batch,
    Facts,
    Outputs,
    check_batch,
    run_in_chunks,
)
from hp_sdk.bundle import (
    Artifact,
    Bundle,
    HeadSpec,
    InputSpec,
    read_bundle,
    verify_artifact,
    write_manifest,
)
from hp_sdk.domains import Domain, load_domain
from hp_sdk.errors import BackendError

Oracle: TypeAlias = Callable[[Batch, HeadSpec], NDArray[np.floating[Any]]]
"""Logits (N, K, h/stride, w/stride) for a batch (N, h, w, 3) uint8 RGB and one head."""

FAKE = BackendEntry("hp_sdk.testing", "dev", "fake")
"""Put it into `hp_sdk.backends.BACKENDS` and `Parser.load` opens bundles of `make_bundle`."""


def palette_oracle(batch: Batch, head: HeadSpec) -> NDArray[np.float32]:
    """Logits of 10 for the class whose colour is nearest to a cell's mean colour, else 0."""
    count, height, width, _ = batch.shape
    rows, columns, step = height // head.stride, width // head.stride, head.stride
    cells = batch.reshape(count, rows, step, columns, step, 3).mean((2, 4), dtype=np.float32)
    palette = np.array(head.domain.palette, np.float32)
    nearest = np.square(cells[:, None] - palette[:, None, None]).sum(-1).argmin(1)
    classes = np.arange(head.domain.num_classes)[:, None, None]
    return np.where(nearest[:, None] == classes, np.float32(10), np.float32(0))


class FakeBackend:
    """Answers every batch with `oracle`; remembers in `batches` how many inputs each run had."""

    name = "fake"
    provider = "FakeProvider"

    def __init__(
        self,
        bundle_or_heads: Bundle | Mapping[str, HeadSpec],
        oracle: Oracle = palette_oracle,
        *,
        input_hw: tuple[int, int] = (64, 64),
        batch_max: int = 8,
    ) -> None:
        if isinstance(bundle_or_heads, Bundle):
            input_hw = bundle_or_heads.input.size_hw
            bundle_or_heads = bundle_or_heads.heads
        self.input_hw = input_hw
        self.facts = Facts(version="0", precision="fp32", batch_opt=batch_max, batch_max=batch_max)
        self.batches: list[int] = []
        self._heads = {head.output: head for head in bundle_or_heads.values()}
        self._oracle = oracle
        self._open = True

    def run(self, batch: Batch, *, outputs: Sequence[str] | None = None) -> Outputs:
        """Outputs by name for (N, h, w, 3) uint8 RGB, any N; all outputs if None are named."""
        if not self._open:
            raise BackendError("the backend is closed; load the model again")
        check_batch(batch, self.input_hw)

        def answer(chunk: Batch) -> Outputs:
            self.batches.append(len(chunk))
            return {name: self._oracle(chunk, self._heads[name]) for name in outputs or self._heads}

        return run_in_chunks(answer, batch, self.facts)

    def close(self) -> None:
        """Refuse any further `run`."""
        self._open = False


def open_artifact(bundle: Bundle, artifact: Artifact, options: BackendOptions) -> FakeBackend:
    """A fake for a bundle of `make_bundle`, whose file is compared with the manifest."""
    del options
    verify_artifact(bundle, artifact)
    return FakeBackend(bundle, batch_max=artifact.batch_max)


def make_bundle(
    folder: Path,
    *,
    domains: Sequence[str | Domain] = ("cihp",),
    size_hw: tuple[int, int] = (64, 64),
    resize: str = "letterbox",
    runtime: str = "fake",
    content: bytes = b"fake network",
) -> Bundle:
    """Write a small valid bundle into `folder` and read it back.

    `content` becomes its only artifact, `model.<runtime>`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = f"model.{runtime}"
    (folder / file).write_bytes(content)
    known = [load_domain(domain) if isinstance(domain, str) else domain for domain in domains]
    heads = {domain.name: HeadSpec(domain, f"logits.{domain.name}") for domain in known}
    artifact = Artifact(
        runtime=runtime,
        file=file,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        heads=tuple(heads),
        precision_asked="fp32",
        precision_found="fp32",
        batch_min=1,
        batch_opt=2,
        batch_max=4,
        size_hw=size_hw,
        outputs=tuple(head.output for head in heads.values()),
    )
    bundle = Bundle(
        root=folder,
        name="fake",
        family="sst",
        version="1",
        license="Apache-2.0",
        input=InputSpec(size_hw=size_hw, resize=resize),
        heads=heads,
        artifacts=(artifact,),
    )
    write_manifest(bundle, folder)
    return read_bundle(folder)
