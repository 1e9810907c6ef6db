"""A training model as a run begins: network, what is trained beside it, and the first weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hp_sdk.domains import Domain
from hp_sdk.errors import ConfigError
from hp_trainer.checkpoint import Checkpoint, read_checkpoint
from hp_trainer.config import Config
from hp_trainer.data import configured_path
from hp_trainer.dedicated import open_teacher
from hp_trainer.distillation import open_distillation
from hp_trainer.foundation import load_foundation
from hp_trainer.models import family_of
from hp_trainer.models.backbone import BasicBlock, Bottleneck, start_as_identity
from hp_trainer.models.schnet.schnet import SCHNet
from hp_trainer.models.sst import SST
from hp_trainer.schnet_training import SCHNetTraining
from hp_trainer.training_model import SSTTraining
from hp_trainer.weights import load_pretrained

FILES = ("sam", "clip", "text", "merges")
"""Keys of the foundation section that name files; `$NAME` stands for an environment variable."""

TrainingModel = SSTTraining | SCHNetTraining
Built = tuple[TrainingModel, str]
"""A training model, and what was taken from published weights, line by line."""


def build_model(config: Config, domains: tuple[Domain, ...], *, resumed: bool = False) -> Built:
    """Network and auxiliary modules with the weights that the configuration names.

    A `resumed` run gets its weights from its checkpoint afterwards, so SCHNet asks for no published
    ones.

    Raises:
        ConfigError, ModelError: the configuration and the files it names do not fit together.
    """
    model, notes = BUILDERS[family_of(config.model)](config, domains, resumed)
    if config.train.init:
        checkpoint = read_checkpoint(Path(config.train.init))
        if config.train.init_fitting:
            notes = load_fitting(model, checkpoint)
        else:
            load_weights(model, checkpoint)
    if isinstance(model, SCHNetTraining) and model.net.srm and not resumed:
        model.net.text()  # complains now, not at the first step
    return model, notes


def _build_sst(config: Config, domains: tuple[Domain, ...], _resumed: bool) -> Built:  # noqa: FBT001
    """SST; in dedicated training with its teacher, from whose weights it starts."""
    settings, notes = config.train, ""
    network: Any = config.model
    teaching = open_teacher(config.dedicated, config.aux)
    teacher = teaching and teaching[1]
    net = SST(network, domains)
    model = SSTTraining(
        net,
        config.aux,
        teacher=teacher or None,
        distillation=open_distillation(config.distillation, net),
    )
    if settings.pretrained:
        notes = load_pretrained(model.net, Path(settings.pretrained), trust=settings.trust)
    if teaching:
        load_weights(model, teaching[0], key="dedicated.teacher")
    if settings.heads_only:
        if not (settings.init or settings.pretrained):
            raise ConfigError(
                "train.heads_only keeps all else as it is, and nothing is trained yet; name a "
                "checkpoint with train.init"
            )
        if settings.init_fitting:
            raise ConfigError(
                "train.heads_only would keep what train.init_fitting lets start fresh; leave one "
                "out"
            )
        if config.aux.beta or config.aux.lam:
            raise ConfigError(
                f"train.heads_only leaves nothing for the auxiliary modules to teach, and aux.beta "
                f"is {config.aux.beta:g}, aux.lam {config.aux.lam:g}; set both to 0"
            )
        net.fix_parts()
    return model, notes


def _build_schnet(config: Config, domains: tuple[Domain, ...], resumed: bool) -> Built:  # noqa: FBT001
    """SCHNet around the published weights of SAM and CLIP."""
    if config.train.heads_only:
        raise ConfigError("train.heads_only is for sst; SCHNet's encoders are frozen as they are")
    if config.train.pretrained:
        raise ConfigError(
            "train.pretrained is for sst; SCHNet starts from foundation.sam and foundation.clip"
        )
    network: Any = config.model
    model = SCHNetTraining(SCHNet(network, domains), config.schnet)
    lines = () if resumed else _found(model.net, config)
    return model, "\n".join(lines)


def _found(net: SCHNet, config: Config) -> tuple[str, ...]:
    """Load the published weights that are named; all must be, unless something replaces them.

    Frozen encoders with random weights teach nothing, so nobody gets them without asking.
    """
    named = {key: value for key in FILES if (value := getattr(config.foundation, key))}
    parts = {"sam": net.sam, "clip": net.clip}
    missing = [f"foundation.{key}" for key, part in parts.items() if part and key not in named]
    replaced = bool(config.train.init) or config.schnet.random_foundation
    if missing and not replaced:
        raise ConfigError(
            f"{' and '.join(missing)} must name published weights, which SCHNet is built around "
            "(sam_vit_l_0b3195.pth of Segment Anything for schnet-l, ViT-B-16.pt of OpenAI's CLIP);"
            " or start from a checkpoint with train.init, or set schnet.random_foundation = true "
            "to train without them"
        )
    if not named:
        return ()
    paths: dict[str, Any] = {key: str(configured_path(value)) for key, value in named.items()}
    return load_foundation(net, replace(config.foundation, **paths), partial=replaced)


BUILDERS: dict[str, Callable[[Config, tuple[Domain, ...], bool], Built]] = {
    "sst": _build_sst,
    "schnet": _build_schnet,
}


def load_weights(model: TrainingModel, checkpoint: Checkpoint, *, key: str = "train.init") -> None:
    """Start from a checkpoint: everything of equal name must fit; new domains start fresh.

    So a domain is added to a trained model: its head and what else belongs to it (MSA, MSE and the
    MST of its pairs; gates of SRM and the text features) are new, all else is kept (spec §2.8).

    Raises:
        ConfigError: the checkpoint is of another network.
    """
    own = model.net.state_dict()
    foreign = [k for k, v in checkpoint.model.items() if k in own and own[k].shape != v.shape]
    missing = [k for k in own if k not in checkpoint.model and not _belongs_to_a_domain(k)]
    if foreign or missing:
        raise ConfigError(
            f"{key} holds another network: {len(missing)} tensors missing, {len(foreign)} of "
            f"another shape, first {(missing + foreign)[0]}; use the same preset and model settings"
        )
    model.net.load_state_dict({k: v for k, v in checkpoint.model.items() if k in own}, strict=False)
    aux = model.aux.state_dict()
    kept = {k: v for k, v in (checkpoint.aux or {}).items() if k in aux and aux[k].shape == v.shape}
    model.aux.load_state_dict(kept, strict=False)


def load_fitting(model: TrainingModel, checkpoint: Checkpoint) -> str:
    """Take the weights that fit in name and shape from another network; says how many did.

    Residual blocks of which it has nothing start as identities, so that a deeper network begins
    with what the other one knew.

    Raises:
        ConfigError: none fits.
    """
    own = model.net.state_dict()
    fitting = {k: v for k, v in checkpoint.model.items() if k in own and own[k].shape == v.shape}
    if not fitting:
        raise ConfigError("train.init holds a network of which no tensor fits this one")
    model.net.load_state_dict(fitting, strict=False)
    for name, block in model.net.named_modules():
        if isinstance(block, BasicBlock | Bottleneck):
            known = any(key.startswith(f"{name}.") for key in fitting)
            if block.downsample is None and not known:
                start_as_identity(block)
    new = [key for key in own if key not in fitting]
    shown = f", first {new[0]}" if new else ""
    return f"train.init: {len(fitting)} of {len(own)} tensors fit; {len(new)} start fresh{shown}"


def _belongs_to_a_domain(key: str) -> bool:
    return key.startswith(("heads.", "text.")) or (key.startswith("srm.") and ".gate." in key)
