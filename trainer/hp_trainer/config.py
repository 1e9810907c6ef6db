"""A training run as a TOML file: parsed into frozen dataclasses, overridden by `a.b=c`.

Unknown keys and wrong types are errors that name the key path. The resolved configuration is
saved with every checkpoint.
"""

from __future__ import annotations

import tomllib
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from hp_sdk.errors import ConfigError
from hp_trainer.auxiliary import AuxConfig
from hp_trainer.data import DataConfig
from hp_trainer.dedicated import DedicatedConfig
from hp_trainer.distillation import DistillationConfig
from hp_trainer.foundation_config import FoundationConfig
from hp_trainer.models import PRESETS, NetworkConfig, family_of
from hp_trainer.models.sst import SSTConfig
from hp_trainer.optimiser import OptimiserConfig
from hp_trainer.schnet_training import SCHNetTrainConfig

OWN_SECTIONS = {
    "sst": ("aux", "dedicated", "distillation"),
    "schnet": ("schnet", "foundation"),
}
"""Family → sections that configure its training and no other family's."""


RESIZES = ("letterbox", "stretch", "shortest-side")


@dataclass(frozen=True, slots=True)
class EvalConfig:
    """One validation list."""

    root: str = ""
    domain: str = ""
    labels: str = "labels"
    """Folder of the label PNGs."""
    split: str = "val"
    limit: int = 0
    """Use only the first `limit` images; 0 uses all."""
    layout: str = "auto"
    """`auto` (the neutral layout, or the published one that `root` looks like), or its name."""
    decode_colors: bool = False
    """Accept label pictures in the colours of the domain's palette; otherwise they are errors."""


@dataclass(frozen=True, slots=True)
class TrainConfig(OptimiserConfig):
    """Optimiser, schedule and bookkeeping."""

    steps: int = 1000
    compile: bool = False
    """Compile the network (minutes; pays on GPUs)."""
    threads: int = 0
    """Torch threads on the CPU; 0 leaves torch's choice."""
    device: str = "auto"
    seed: int = 0
    init: str = ""
    """Checkpoint whose weights the run starts from; its domains may be fewer or more."""
    init_fitting: bool = False
    """`init` may be another network: what fits in name and shape is taken, the rest is new."""
    heads_only: bool = False
    """Train nothing but the heads of SST, on what `init` or `pretrained` has learned: quick, and
    heads without labels answer as before."""
    pretrained: str = ""
    """Published weights (torchvision, timm, detectron2 ResNet; Mask2Former) the network starts
    from."""
    trust: bool = False
    """Open `pretrained` even if its format can run programs (Python pickles)."""
    save_every: int = 500
    eval_every: int = 0
    """Steps between validations; 0 validates at the end only. The best one is kept as best.pt."""
    log_every: int = 20
    samples: int = 6
    """Photographs on the sheet of predictions that each validation writes; 0 writes none."""
    input_hw: tuple[int, int] = (512, 512)
    """Network input size at evaluation and export."""
    resize: str = "letterbox"
    """How a photograph gets into that input: `letterbox` (all of it, padded), `stretch`, or
    `shortest-side` (it covers the input and is read through windows)."""

    def __post_init__(self) -> None:
        OptimiserConfig.__post_init__(self)
        if self.resize not in RESIZES:
            raise ConfigError(
                f"train.resize is {self.resize!r}; choose one of {', '.join(RESIZES)}"
            )


@dataclass(frozen=True, slots=True)
class Config:
    """Everything `hp-train` needs."""

    domains: tuple[str, ...]
    """Built-in names or paths of domain files."""
    preset: str = "sst-r50"
    model: NetworkConfig = field(default_factory=SSTConfig)
    aux: AuxConfig = field(default_factory=AuxConfig)
    """What SST trains beside its network."""
    dedicated: DedicatedConfig = field(default_factory=DedicatedConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    """A trained network that SST learns from beside the labels."""
    schnet: SCHNetTrainConfig = field(default_factory=SCHNetTrainConfig)
    """How SCHNet is trained."""
    foundation: FoundationConfig = field(default_factory=FoundationConfig)
    """Published weights of SAM and CLIP that a new SCHNet starts from."""
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    validate: tuple[EvalConfig, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they are stored in checkpoints."""
        return asdict(self)


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a TOML file and apply `a.b=c` overrides; `a.0.b=c` names the first of a list.

    Raises:
        ConfigError: unreadable file, unknown key, wrong type or value.
    """
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as exc:
        raise ConfigError(f"there is no configuration file {path}") from exc
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path} is not valid TOML: {exc}") from exc
    for override in overrides:
        _apply(values, override)
    return parse_config(values)


def parse_config(values: Mapping[str, Any]) -> Config:
    """Plain values → `Config`; `preset` fills `model`, whose own keys then replace it.

    Raises:
        ConfigError: unknown key, wrong type or value, or a section of the other family.
    """
    preset = values.get("preset", "sst-r50")
    if preset not in PRESETS:
        raise ConfigError(f"preset is {preset!r}; choose one of {', '.join(PRESETS)}")
    base = PRESETS[preset]
    _check_sections(values, family_of(base), preset)
    plain = {key: value for key, value in values.items() if key != "model"}
    config = _build(Config, plain, "")
    changes = _checked(type(base), values.get("model", {}), "model.")
    return replace(config, model=replace(base, **changes))


def _check_sections(values: Mapping[str, Any], family: str, preset: str) -> None:
    for other, sections in OWN_SECTIONS.items():
        if other != family and (found := sorted(set(sections) & set(values))):
            raise ConfigError(
                f"{found[0]} is a section for {other}, and preset {preset!r} is of {family}, which "
                f"has {' and '.join(OWN_SECTIONS[family])}"
            )


def _apply(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"override {override!r} is not of the form section.key=value")
    *sections, key = path.split(".")
    for section in sections:
        values = _section(values, section, override)
    if isinstance(values, list):
        raise ConfigError(f"override {override!r} names no setting; add one, as in .{key}.weight")
    try:
        values[key] = tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        values[key] = text


def _section(values: dict[str, Any] | list[Any], name: str, override: str) -> Any:
    """The part of a table, or of a list by its place from 0, that an override names."""
    if isinstance(values, dict):
        found = values.setdefault(name, {})
    elif name.isdecimal() and int(name) < len(values):
        found = values[int(name)]
    else:
        raise ConfigError(
            f"override {override!r}: {name} is no place in a list of {len(values)}; "
            "places count from 0"
        )
    if not isinstance(found, dict | list):
        raise ConfigError(f"override {override!r}: {name} is not a section")
    return found


def _build(kind: Any, values: Any, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where.rstrip('.')} is {values!r}; a table of settings is expected")
    return kind(**_checked(kind, values, where))


def _checked(kind: Any, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    hints = get_type_hints(kind)
    known = [f.name for f in fields(kind)]
    if unknown := sorted(set(values) - set(known)):
        raise ConfigError(f"{where}{unknown[0]} is not a setting; there are {', '.join(known)}")
    if kind is Config and "domains" not in values:
        raise ConfigError('domains is missing; for example domains = ["cihp", "atr"]')
    return {key: _value(hints[key], value, where + key) for key, value in values.items()}


def _value(hint: Any, value: Any, where: str) -> Any:
    if is_dataclass(hint):
        return _build(hint, value, where + ".")
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple and isinstance(value, list | tuple):
        return _tuple(arguments, value, where)
    if origin in (Union, types.UnionType):
        matching = [a for a in arguments if isinstance(value, str) == (a is str)]
        return _value(matching[0], value, where)
    if origin is dict and isinstance(value, Mapping):
        return {str(k): _value(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if (
        not isinstance(hint, type)
        or not isinstance(value, hint)
        or (isinstance(value, bool) and hint is not bool)
    ):
        raise ConfigError(f"{where} is {value!r}; expected {_describe(hint)}")
    return value


def _tuple(arguments: tuple[Any, ...], value: Sequence[Any], where: str) -> tuple[Any, ...]:
    if arguments[-1] is Ellipsis:
        return tuple(_value(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if len(value) != len(arguments):
        raise ConfigError(f"{where} is {list(value)!r}; expected {len(arguments)} values")
    pairs = zip(arguments, value, strict=True)
    return tuple(_value(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(pairs))


def _describe(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return names.get(hint, f"a list like {hint}".replace("tuple", ""))
