"""What ships and what stays behind.

A checkpoint stores `model` and `aux` apart, so nothing is cut out of a network here: `aux` and the
optimiser's state are left behind, and a report says how much that was.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hp_export.progress import Progress, silent
from hp_sdk.errors import ConfigError, CorruptArtifact, UnknownHead, VerificationFailed
from hp_trainer.checkpoint import (
    Checkpoint,
    build_from_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from hp_trainer.models.schnet.folding import fold
from hp_trainer.models.schnet.schnet import SCHNet


@dataclass(frozen=True, slots=True)
class Part:
    """One module of a checkpoint."""

    name: str
    tensors: int
    parameters: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class StripReport:
    """Every module of a checkpoint, on the side it ends up on."""

    ships: tuple[Part, ...]
    left_behind: tuple[Part, ...]
    """Auxiliary modules (`aux.msa.cihp`, ...) and the training state (`train`)."""

    @property
    def left_bytes(self) -> int:
        """Bytes of tensors that do not ship."""
        return sum(part.size_bytes for part in self.left_behind)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON report, with sums before and after."""
        parts = {"before": (*self.ships, *self.left_behind), "after": self.ships}
        sums = {
            when: {
                "parameters": sum(part.parameters for part in those),
                "bytes": sum(part.size_bytes for part in those),
            }
            for when, those in parts.items()
        }
        return asdict(self) | sums


def strip(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint without auxiliary modules and training state; `train` keeps only the step."""
    kept = {key: checkpoint.train[key] for key in ("step",) if key in checkpoint.train}
    return replace(checkpoint, aux=None, train=kept)


def strip_report(checkpoint: Checkpoint) -> StripReport:
    """Count what ships and what does not."""
    left = _parts({_aux_key(k): v for k, v in (checkpoint.aux or {}).items()}, depth=3)
    state = {str(i): tensor for i, tensor in enumerate(_tensors(checkpoint.train))}
    if state:
        left += (_part("train", list(state.values())),)
    return StripReport(ships=_parts(checkpoint.model, depth=1), left_behind=left)


def bare_network(checkpoint: Checkpoint, *, core: str = "grid_sample") -> nn.Module:
    """The network that ships, in eval mode, with the deformable core that exports well.

    Raises:
        CorruptArtifact: the weights do not fit the network that the checkpoint describes.
    """
    config = dict(checkpoint.config)
    if "deform" in config:
        config["deform"] = core  # the cores share their weights; ONNX Runtime wants this one
    try:
        return build_from_checkpoint(replace(checkpoint, config=config)).eval()
    except (RuntimeError, TypeError) as exc:
        raise CorruptArtifact(
            f"the checkpoint's weights do not fit the {checkpoint.family} network it describes "
            f"({' '.join(str(exc).split()):.200}); train or copy it again"
        ) from exc


def network_to_trace(network: nn.Module, size_hw: tuple[int, int]) -> nn.Module:
    """What is exported for one input size: SCHNet with its constants computed once, else itself.

    `network` is untouched, so an artifact can be compared with it.
    """
    return fold(network, size_hw) if isinstance(network, SCHNet) else network


def choose_heads(checkpoint: Checkpoint, wanted: Sequence[str] | None = None) -> tuple[str, ...]:
    """The heads to export, in the order wanted; all of them by default.

    Raises:
        UnknownHead: the checkpoint has no such head.
    """
    there = tuple(domain.name for domain in checkpoint.domains)
    heads = tuple(dict.fromkeys(wanted or there))
    for name in heads:
        if name not in there:
            raise UnknownHead(f"the checkpoint has no head {name!r}; it has {', '.join(there)}")
    return heads


def check_same_logits(first: nn.Module, second: nn.Module) -> None:
    """Prove that two networks give bit-equal logits on noise.

    Raises:
        VerificationFailed: a head is missing in one of them, or a logit differs.
    """
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        a, b = first.eval()(image), second.eval()(image)
    different = [name for name in a.keys() | b.keys() if not _same(a.get(name), b.get(name))]
    if different:
        raise VerificationFailed(
            f"stripping changed the logits of {', '.join(sorted(different))}; nothing was written"
        )


def strip_file(source: Path, target: Path, *, progress: Progress = silent) -> StripReport:
    """Write `source` without what stays behind to `target`, after proving that no logit changed.

    Raises:
        ConfigError: `target` cannot be written.
        VerificationFailed: the file read back gives other logits.
    """
    progress("reading")
    checkpoint = read_checkpoint(source)
    network = bare_network(checkpoint)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
            candidate = Path(folder) / target.name
            progress("writing")
            write_checkpoint(candidate, strip(checkpoint))
            progress("comparing the logits")
            check_same_logits(network, bare_network(read_checkpoint(candidate)))
            candidate.replace(target)
    except OSError as exc:
        raise ConfigError(
            f"cannot write {str(target)!r}: {exc.strerror or exc}; choose a file you may write to"
        ) from exc
    return strip_report(checkpoint)


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and torch.equal(a, b)


def _aux_key(key: str) -> str:
    return key if key.startswith("aux.") else f"aux.{key}"


def _parts(state: Mapping[str, Tensor], *, depth: int) -> tuple[Part, ...]:
    groups: dict[str, list[Tensor]] = {}
    for key, tensor in state.items():
        groups.setdefault(".".join(key.split(".")[:depth]), []).append(tensor)
    return tuple(_part(name, tensors) for name, tensors in groups.items())


def _part(name: str, tensors: Sequence[Tensor]) -> Part:
    return Part(
        name=name,
        tensors=len(tensors),
        parameters=sum(tensor.numel() for tensor in tensors),
        size_bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
    )


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
