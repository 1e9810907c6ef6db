"""SCHNet's network: a frozen SAM that is told by a frozen CLIP what the image shows.

    image ─ CLIP ─► f_cls, f_cv^1..4 ── Sim(f_cls, text) ─► f_sim
      │ └─ SAM patches ─ SRM ─ [inject ─ (layer ─ FTM) × 6 ─ SRM ─ extract] × 4 ─► f1 … f4
      └─ spatial prior ─► c ──────┘                              └─► c            │
                         A_d (N, Z_d, H/4, W/4) ◄─ heads.<d> 1×1 ◄── UperNet ─────┘

One domain is the paper's network. With several, everything but `text`, the gate of SRM and the
class layer is shared, and the trunk runs once for all of them.

Source: SCHNet, Section 3; order of the calls: spec §3.8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hp_sdk.domains import Domain
from hp_sdk.errors import ConfigError, UnknownHead
from hp_trainer.models.schnet.adapter import Adapter, AdapterShape
from hp_trainer.models.schnet.clip_vision import CLIPShape, CLIPVision
from hp_trainer.models.schnet.config import PRESETS, STAGES, TRAINABLE, SCHNetConfig
from hp_trainer.models.schnet.ftm import FTM, FTMShape
from hp_trainer.models.schnet.sam import PATCH, SAMEncoder, SAMShape
from hp_trainer.models.schnet.similarity import SimModule
from hp_trainer.models.schnet.srm import SRM, resize_tokens
from hp_trainer.models.schnet.text import REMEDY, TextFeatures
from hp_trainer.models.schnet.upernet import UperNet
from hp_trainer.models.sizes import check_size

__all__ = ["PRESETS", "STRIDE", "TRAINABLE", "SCHNet", "SCHNetConfig"]

STRIDE = 4
"""Input pixels per logit."""


class Semantics(NamedTuple):
    """What SRM retrieves from."""

    maps: list[Tensor]
    """CLIP's maps on the trunk's grid, (N, T, W), in the order of `CLIPFeatures.maps`."""
    similarity: dict[str, Tensor]
    """Domain → f_sim (N, Z)."""


class SCHNet(nn.Module):
    """Normalised image (N, 3, H, W) → {domain: logits (N, Z, H/4, W/4)}.

    H and W must be multiples of 32; others raise `ConfigError`. SAM and CLIP are frozen but for
    `config.trainable`: no gradients, and always in eval mode.
    """

    def __init__(self, config: SCHNetConfig, domains: Sequence[Domain]) -> None:
        super().__init__()
        self.config = config
        self.domains = tuple(domains)
        self.fixed_hw: tuple[int, int] | None = None
        """The one size a folded network takes; None for any."""
        self.sam = SAMEncoder(_sam(config)) if config.use_sam else None
        self.clip = CLIPVision(_clip(config)) if config.use_clip else None
        if config.use_srm:
            self.text = TextFeatures(domains, config.text_width, source=config.text_features)
            self.sim = SimModule(config.sim_scale)
        copies = (1 if config.srm_shared else STAGES + 1) if config.use_srm else 0
        self.srm = nn.ModuleList(_srm(config, domains) for _ in range(copies))
        self.ftm: nn.Module | None = FTM(_ftm(config)) if config.use_ftm else None
        self.adapter = Adapter(_adapter(config))
        self.decoder = UperNet(
            config.width,
            config.decoder_width,
            scales=config.decoder_scales,
            dropout=config.decoder_dropout,
        )
        self.heads = nn.ModuleDict(
            {d.name: nn.Conv2d(config.decoder_width, d.num_classes, 1) for d in domains}
        )
        self.freeze()

    def features(self, image: Tensor) -> list[Tensor]:
        """The map at 1/16 that an auxiliary head reads, and the one at 1/4 that the heads read.

        (N, width, H/16, W/16) and (N, decoder_width, H/4, W/4).
        """
        maps = self.maps(image)
        return [maps[2], self.decoder(maps)]

    def forward(self, image: Tensor, heads: Sequence[str] | None = None) -> dict[str, Tensor]:
        finest = self.decoder(self.maps(image))  # (N, decoder_width, H/4, W/4)
        return {name: self.head(name)(finest) for name in heads or self.heads}

    def head(self, name: str) -> nn.Module:
        """The 1×1 convolution of one domain.

        Raises:
            UnknownHead: the network has no such head.
        """
        if name not in self.heads:
            raise UnknownHead(f"the network has no head {name!r}; it has {', '.join(self.heads)}")
        return self.heads[name]

    def parts(self) -> dict[str, nn.Module]:
        """What the network consists of besides its heads, by name."""
        names = ("sam", "clip", "text", "srm", "ftm", "adapter", "decoder")
        children = dict(self.named_children())
        present = {name: children[name] for name in names if name in children}
        return {name: part for name, part in present.items() if part.state_dict()}

    def compilable(self) -> list[nn.Module]:
        """Modules that are called as such and worth compiling."""
        if self.sam is None:
            assert self.clip is not None  # the configuration has one of the two
            return [*self.clip.transformer.resblocks, self.decoder]
        return [*self.sam.blocks, *([self.clip] if self.clip else []), self.decoder]

    def maps(self, image: Tensor) -> list[Tensor]:
        """Maps at 1/4, 1/8, 1/16, 1/32, each (N, width, h, w)."""
        grid_hw = self._grid(image)
        semantics = self._semantics(image, grid_hw)
        x = self._retrieve(0, self._embed(image), semantics)
        fine, c = self.adapter.prior(image)
        outputs = []
        for stage, layers in enumerate(self.config.stages):
            x = self._run(self._inject, stage, x, c, grid_hw)
            for layer in layers:
                x = self._run(self._layer, layer, x, grid_hw)
            x = self._retrieve(stage + 1, x, semantics)
            patches = x[:, self._lead :]
            c = self._run(self.adapter.extract, stage, c, patches, grid_hw)
            outputs.append(patches)
        return self.adapter.fuse(fine, c, outputs, grid_hw)

    def freeze(self) -> None:
        """Stop the gradients of SAM and CLIP except where `config.trainable` says otherwise."""
        learns = tuple(f"{name}." for name in self.config.trainable)
        for name, parameter in self.named_parameters():
            if name.startswith(("sam.", "clip.")):
                parameter.requires_grad_(f"{name}.".startswith(learns))

    def train(self, mode: bool = True) -> SCHNet:  # noqa: FBT001, FBT002 — nn.Module's signature
        super().train(mode)
        for encoder in (self.sam, self.clip):
            if encoder is not None:
                encoder.eval()
        return self

    def load_state_dict(
        self,
        state_dict: Mapping[str, Any],
        strict: bool = True,  # noqa: FBT001, FBT002 — nn.Module's signature
        assign: bool = False,  # noqa: FBT001, FBT002
    ) -> Any:
        """As torch's; a state without text features gets an error that says what to do.

        Raises:
            ConfigError: strict, and the text features of a domain are missing.
        """
        wanted = [name for name in self.state_dict() if name.startswith("text.")]
        missing = [name.removeprefix("text.") for name in wanted if name not in state_dict]
        if strict and missing:
            raise ConfigError(
                f"the checkpoint holds no text features for {', '.join(missing)}; {REMEDY}"
            )
        return super().load_state_dict(state_dict, strict, assign)

    @property
    def _lead(self) -> int:
        """Tokens before the patches: CLIP's class token when CLIP is the trunk."""
        return 0 if self.sam is not None else 1

    def _grid(self, image: Tensor) -> tuple[int, int]:
        h, w = int(image.shape[2]), int(image.shape[3])
        check_size(h, w)
        if self.fixed_hw and self.fixed_hw != (h, w):
            raise ConfigError(
                f"this network was folded for {self.fixed_hw[0]}x{self.fixed_hw[1]} and got "
                f"{h}x{w}; fold the trained one for that size"
            )
        return h // PATCH, w // PATCH

    def _semantics(self, image: Tensor, grid_hw: tuple[int, int]) -> Semantics | None:
        if not self.srm or self.clip is None:
            return None
        text = self.text()
        seen = self.clip(image)
        maps = [resize_tokens(x, seen.grid_hw, grid_hw) for x in seen.maps]
        return Semantics(maps, {name: self.sim(seen.vector, text[name]) for name in text})

    def _retrieve(self, place: int, x: Tensor, semantics: Semantics | None) -> Tensor:
        if semantics is None:
            return x
        srm = self.srm[min(place, len(self.srm) - 1)]
        clip_map = semantics.maps[self.config.srm_clip_map[place]]
        return srm(x, clip_map, semantics.similarity)

    def _embed(self, image: Tensor) -> Tensor:
        """Tokens that enter the trunk, (N, lead + T, C)."""
        if self.sam is not None:
            return self.sam.embed(image).flatten(1, 2)
        assert self.clip is not None  # the configuration has one of the two
        return self.clip.embed(image)[0]

    def _inject(self, stage: int, x: Tensor, c: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        patches = self.adapter.inject(stage, x[:, self._lead :], c, grid_hw)
        return torch.cat([x[:, : self._lead], patches], 1) if self._lead else patches

    def _layer(self, layer: int, x: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """One frozen layer of the trunk, and its FTM."""
        if self.sam is None:
            assert self.clip is not None  # the configuration has one of the two
            return self.clip.transformer.resblocks[layer](x)
        x = self.sam.blocks[layer](x.unflatten(1, grid_hw)).flatten(1, 2)
        return x if self.ftm is None else self.ftm(x, layer)

    def _run(self, step: Callable[..., Tensor], *values: Any) -> Tensor:
        """Call a step; with `recompute`, keep only its inputs for the backward pass."""
        if self.config.recompute and self.training and torch.is_grad_enabled():
            return checkpoint(step, *values, use_reentrant=False)
        return step(*values)


def _sam(config: SCHNetConfig) -> SAMShape:
    return SAMShape(
        width=config.sam_width,
        depth=config.sam_depth,
        heads=config.sam_heads,
        global_blocks=config.sam_global_blocks,
        window=config.sam_window,
        native_window=config.sam_native_window,
        grid=config.sam_grid,
        relpos=config.sam_relpos,
        pos_interp=config.pos_interp,
    )


def _clip(config: SCHNetConfig) -> CLIPShape:
    return CLIPShape(
        width=config.clip_width,
        depth=config.clip_depth,
        heads=config.clip_heads,
        patch=config.clip_patch,
        grid=config.clip_grid,
        out_blocks=config.clip_out_blocks,
        joint=config.text_width,
        stats=config.clip_stats,
        pos_interp=config.pos_interp,
    )


def _srm(config: SCHNetConfig, domains: Sequence[Domain]) -> SRM:
    return SRM(
        domains,
        clip_width=config.clip_width,
        width=config.sam_width,
        reduction=config.srm_reduction,
        zero_init=config.zero_init,
    )


def _ftm(config: SCHNetConfig) -> FTMShape:
    return FTMShape(
        width=config.sam_width,
        depth=config.sam_depth,
        tokens=config.ftm_tokens,
        reduction=config.ftm_reduction,
        rho=config.ftm_rho,
        per_layer_rho=config.ftm_per_layer_rho,
        attn_scale=config.ftm_attn_scale,
        drop_first=config.ftm_drop_first,
        inner_residual=config.ftm_inner_residual,
        residual=config.ftm_residual,
        zero_init=config.zero_init,
    )


def _adapter(config: SCHNetConfig) -> AdapterShape:
    return AdapterShape(
        width=config.width,
        stages=STAGES,
        heads=config.adapter_heads,
        points=config.adapter_points,
        value_ratio=config.adapter_value_ratio,
        ffn_ratio=config.adapter_ffn_ratio,
        stem=config.adapter_stem,
        drop_path=config.adapter_drop_path,
        extra_extractors=config.adapter_extra_extractors,
        core=config.deform,
    )
