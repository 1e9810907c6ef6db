"""Scores of a checkpoint, a bundle or a bundled model on a labelled list.

Predictions are compared with the labels at the original resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch

from hp_sdk.bundle import InputSpec, read_bundle
from hp_sdk.domains import Domain, load_domain
from hp_sdk.errors import BackendUnavailable, ConfigError, DataError, UnknownHead
from hp_sdk.models import find_bundle
from hp_sdk.parser import Parser
from hp_sdk.postprocess import merged_labels
from hp_trainer.checkpoint import build_from_checkpoint, read_checkpoint
from hp_trainer.config import EvalConfig
from hp_trainer.data import configured_path
from hp_trainer.distributed import ALONE, World, sum_over_world
from hp_trainer.layouts import PhotoOptions, PhotoSet, encoding_of
from hp_trainer.metrics import IGNORED, Confusion, Scores
from hp_trainer.models import Network
from hp_trainer.models.sst import normalise
from hp_trainer.tta import PLAIN, NetworkTTA, TTAChoice, view_scores

CHECKPOINT_SUFFIXES = (".pt", ".pth", ".ckpt")

Predictor = Callable[[np.ndarray], np.ndarray]
"""Image (H, W, 3) uint8 RGB → label map (H, W) uint8."""


class Tally(Protocol):
    """Anything that counts images one by one: `Confusion`, `BoundaryTally`."""

    def add(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Count one image; both (H, W) uint8."""
        ...


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A predictor and how it predicts; close it, or use it in a `with` statement."""

    predict: Predictor
    domain: Domain
    """Label domain of the head that answers."""
    protocol: dict[str, Any] = field(default_factory=dict)
    """Plain values for JSON: kind of model, input size, views."""
    close: Callable[[], object] = bool

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Label map (H, W) uint8 of an image (H, W, 3) uint8 RGB."""
        return self.predict(image)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_predictor(
    model: str,
    domain: str,
    *,
    size_hw: tuple[int, int] | None = None,
    tta: TTAChoice | str | None = None,
    device: str = "auto",
) -> OpenedModel:
    """Predictor for a checkpoint file, a bundle folder or a bundled name.

    Args:
        model: checkpoint (.pt, .pth, .ckpt), folder of a bundle, or a name `Parser.load` knows.
        domain: label domain that is asked for, by name or as a file.
        size_hw: network input instead of the checkpoint's own; a bundle has one size.
        tta: views of each photo, by name or in detail.
        device: "auto", "cpu" or "cuda:0".

    Raises:
        ModelNotFound, CorruptArtifact, UnknownHead: the model cannot be used.
        ConfigError: an option is not allowed for this model.
        BackendError: the runtime or device is not there.
    """
    choice = tta if isinstance(tta, TTAChoice) else TTAChoice(name=tta or "none")
    if Path(model).suffix in CHECKPOINT_SUFFIXES and not Path(model).is_dir():
        return _open_checkpoint(Path(model), domain, size_hw, choice, device)
    if size_hw:
        raise ConfigError(
            "the network input of a bundle has one fixed size; leave --size out, "
            "or evaluate the checkpoint"
        )
    return _open_bundle(model, domain, choice, device)


def _open_checkpoint(
    path: Path, domain: str, size_hw: tuple[int, int] | None, choice: TTAChoice, device: str
) -> OpenedModel:
    checkpoint = read_checkpoint(path)
    tta, device = choice.for_network(checkpoint.family), torch_device(device)
    other = {"size_hw": size_hw, "stride_hw": None} if size_hw else {}
    spec = input_spec({**checkpoint.input, **other})
    net = build_from_checkpoint(checkpoint).to(device)
    domains = {each.name: each for each in net.domains}
    return OpenedModel(
        network_predictor(net, domain, spec, device, tta=tta),
        domains[head_name(domain, domains)],
        {"model": "checkpoint", "family": checkpoint.family, **_input_protocol(spec), **_views(tta)}
        | {"device": device},
    )


def _open_bundle(model: str, domain: str, choice: TTAChoice, device: str) -> OpenedModel:
    folder, _ = find_bundle(model)
    bundle = read_bundle(folder)
    tta, head = choice.for_bundle(bundle.family), head_name(domain, bundle.heads)
    parser = Parser.load(model, tta=tta, device=device)
    return OpenedModel(
        lambda image: parser.predict(image, domains=[head])[head].labels,
        parser.domains[head],
        {"model": "bundle", "family": bundle.family, **_input_protocol(bundle.input), **_views(tta)}
        | {"device": device},
        parser.close,
    )


def _input_protocol(spec: InputSpec) -> dict[str, Any]:
    windows = {"stride_hw": list(spec.window_stride_hw)} if spec.resize == "shortest-side" else {}
    return {"network_hw": list(spec.size_hw), "resize": spec.resize, **windows}


def _views(tta: Any) -> dict[str, Any]:
    return {"scales": list(tta.scales), "flip": tta.flip, "average": tta.average}


def network_predictor(
    net: Network, domain: str, spec: InputSpec, device: str = "cpu", *, tta: NetworkTTA = PLAIN
) -> Predictor:
    """Predict with a torch network, through the same steps as the SDK.

    Raises:
        UnknownHead: the network does not answer in this domain.
    """
    domains = {each.name: each for each in net.domains}
    head = head_name(domain, domains)

    @torch.inference_mode()
    def ask(pixels: np.ndarray) -> np.ndarray:
        logits = net(normalise(torch.from_numpy(pixels).to(device)), [head])[head]
        return logits.float().cpu().numpy()

    return lambda image: merged_labels(view_scores(image, spec, tta, domains[head], ask))


def head_name(domain: str, heads: Iterable[str]) -> str:
    """The head that answers in a domain given by name, by another name or as a file.

    Labels in a permutation of a domain, `pascal_m2fp`, are read as that domain and so is the head.

    Raises:
        UnknownHead: there is none.
    """
    heads, name = tuple(heads), encoding_of(domain)[0]
    if name in heads:
        return name
    if Path(domain).suffix and (name := load_domain(domain).name) in heads:
        return name
    raise UnknownHead(f"the model has no head {domain!r}; it has {', '.join(heads)}")


def torch_device(name: str) -> str:
    """`auto` is the GPU where there is one.

    Raises:
        ConfigError: no such kind of device.
        BackendUnavailable: the GPU asked for is not there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as exc:
        raise ConfigError(f"device is {name!r}; allowed are auto, cpu, cuda, cuda:0") from exc
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BackendUnavailable(
            f"device {name!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices; "
            "use cpu or auto"
        )
    return name


def input_spec(description: Mapping[str, Any]) -> InputSpec:
    """The `input` entry of a checkpoint as the SDK's input specification."""
    height, width = description["size_hw"]
    stride = description.get("stride_hw")
    return InputSpec(
        size_hw=(height, width),
        resize=description["resize"],
        pad_value=description["pad_value"],
        stride_hw=tuple(stride) if stride else None,
        longest_px=description.get("longest_px"),
    )


def evaluate_list(
    predict: Predictor,
    entry: EvalConfig,
    *,
    on_image: Callable[[], object] = bool,
    world: World = ALONE,
) -> Scores:
    """Scores over one validation list; each process of a `world` predicts its share of it."""
    photos = open_list(entry)
    photos.ids = photos.ids[world.rank :: world.size]
    domain = labelled_domain(photos)
    confusion = Confusion(domain.names)
    tally_list(predict, photos, domain, [confusion], on_image=on_image)
    confusion.matrix = sum_over_world(confusion.matrix, world)
    confusion.images = int(sum_over_world(np.array([confusion.images]), world)[0])
    return confusion.scores()


def open_list(entry: EvalConfig) -> PhotoSet:
    """The labelled images of one validation list, checked to be there.

    Raises:
        DataError: a listed file is missing or cannot be used.
    """
    labels = {entry.domain: entry.labels}
    options = PhotoOptions(entry.layout, entry.decode_colors)
    return PhotoSet(configured_path(entry.root), labels, entry.split, entry.limit, options)


def labelled_domain(photos: PhotoSet) -> Domain:
    """The domain whose ids the label maps of a list of one domain hold once they are read."""
    (name,) = photos.domains
    return load_domain(name)


def tally_list(
    predict: Predictor,
    photos: PhotoSet,
    domain: Domain,
    tallies: Sequence[Tally],
    *,
    on_image: Callable[[], object] = bool,
) -> None:
    """Predict every image of a list once and count it in every tally.

    Raises:
        DataError: an image or label map cannot be used, naming the file.
    """
    rng = np.random.default_rng(0)
    for index, name in enumerate(photos.ids):
        image, labels = photos.load(index, rng)
        (truth,) = labels.values()
        truth = np.where(truth == domain.ignore_index, np.uint8(IGNORED), truth)
        prediction = predict(image)
        try:
            for tally in tallies:
                tally.add(truth, prediction)
        except DataError as exc:
            raise DataError(f"image {name!r} of {photos.root}: {exc}") from exc
        on_image()
