"""Shape of SCHNet: every size, and every reading of the paper that another reading could replace.

The letters A21 … A34 name the entries of the ambiguity register (spec §9).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from hp_sdk.errors import ConfigError
from hp_trainer.models.encoder import CORES
from hp_trainer.models.schnet.clip_vision import PIXEL_STATS
from hp_trainer.models.schnet.ftm import RESIDUALS
from hp_trainer.models.schnet.positions import INTERPOLATIONS
from hp_trainer.models.schnet.sam import PATCH, RELPOS
from hp_trainer.models.schnet.similarity import SCALES
from hp_trainer.models.schnet.text import SOURCES

STAGES = 4
"""Stages of the trunk; each begins with an injector and ends with an extractor."""

TRAINABLE = (
    "sam",
    "sam.patch_embed",
    "sam.pos_embed",
    "clip",
    "clip.conv1",
    "clip.positional_embedding",
)
"""What may learn of the two encoders: parts, or all of one that was never pretrained."""


@dataclass(frozen=True, slots=True)
class SCHNetConfig:
    """Shape of the network; the defaults are `schnet-l` (spec §3)."""

    use_clip: bool = True
    use_sam: bool = True
    """Without SAM the trunk is CLIP's own encoder (the first row of the paper's ablation)."""
    use_srm: bool = True
    use_ftm: bool = True

    sam_width: int = 1024
    sam_depth: int = 24
    sam_heads: int = 16
    sam_global_blocks: tuple[int, ...] = (5, 11, 17, 23)
    """Blocks (from 0) that attend over the whole map; the others stay inside windows."""
    sam_window: int = 14
    """Window edge in tokens; 15 fits a 480-pixel input without padding (A32)."""
    sam_native_window: int = 14
    """Window the published position tables were trained with; it fixes their length."""
    sam_grid: int = 64
    """Edge in tokens of the map the published positions were trained with."""
    sam_relpos: str = "bias"
    """`bias` adds relative positions to the scores; `augmented` appends them to query and key."""

    clip_width: int = 768
    clip_depth: int = 12
    clip_heads: int = 12
    clip_patch: int = 16
    clip_grid: int = 14
    clip_out_blocks: tuple[int, ...] = (3, 5, 7, 11)
    """Blocks, counted from 0, whose tokens are the maps f_cv^1..4 (A21)."""
    clip_stats: str = "clip"
    """Pixel statistics CLIP sees: `clip` (its own) or `sam` (those of the network input; A29)."""
    text_width: int = 512
    """Width of CLIP's joint space."""
    text_features: str = "required"
    """`required`: the checkpoint brings them; `random-orthonormal`: for tests and ablations."""
    pos_interp: str = "bicubic"
    """How absolute positions reach another grid: bicubic or bilinear, without antialias (A34)."""

    sim_scale: float | str = "none"
    """Factor on the cosine in Eq. (1): `none` (literal), `clip` (100) or a number (A23)."""
    srm_reduction: int = 4
    """Bottleneck of Eq. (4) (A25)."""
    srm_shared: bool = True
    """One set of weights at all five places; false gives five sets."""
    srm_clip_map: tuple[int, ...] = (0, 1, 2, 3, 3)
    """Which of CLIP's four maps each place retrieves from; -1 is the input of block 0 (A22)."""
    ftm_tokens: int = 100
    """m, the learned tokens of each layer (A25)."""
    ftm_reduction: int = 4
    """Bottleneck of Eq. (6) (A25)."""
    ftm_rho: float = 1e-3
    """Initial value of rho in Eq. (5)."""
    ftm_per_layer_rho: bool = False
    ftm_attn_scale: bool = True
    """Divide the scores of Eq. (5) by the square root of the width, as Rein does (A26)."""
    ftm_drop_first: bool = False
    """Leave the first token out of the sum, as Rein does (A26)."""
    ftm_inner_residual: bool = False
    """MLP_f sees the update plus the features, as in Rein (A26)."""
    ftm_residual: str = "f"
    """What Eq. (6) is added to: `f` (literal) or `fprime` (A26)."""
    zero_init: bool = True
    """SRM and FTM start as identities (A27)."""

    adapter_heads: int = 16
    adapter_points: int = 4
    adapter_value_ratio: float = 0.5
    adapter_ffn_ratio: float = 0.25
    adapter_stem: int = 64
    adapter_drop_path: float = 0.4
    adapter_extra_extractors: int = 2
    """Further extractors after the last stage."""
    deform: str = "grid_sample"
    """Core of the deformable attention: grid_sample, gather or loop."""

    decoder_width: int = 512
    decoder_scales: tuple[int, ...] = (1, 2, 3, 6)
    """Cells per edge of the pooled maps."""
    decoder_dropout: float = 0.1

    trainable: tuple[str, ...] = ("sam.patch_embed",)
    """Parts of SAM and CLIP that learn (A28); the rest of both is frozen."""
    recompute: bool = False
    """Recompute the trunk in the backward pass: less memory for one more forward pass of it."""

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_parts()
        self._check_sizes()
        self._check_blocks()

    @property
    def width(self) -> int:
        """Width of the trunk, and of the adapter around it."""
        return self.sam_width if self.use_sam else self.clip_width

    @property
    def stages(self) -> tuple[range, ...]:
        """Layers of the trunk by stage: equal shares of SAM, or up to each of CLIP's maps."""
        share = self.sam_depth // STAGES
        ends = [share * (i + 1) for i in range(STAGES)]
        if not self.use_sam:
            ends = [block + 1 for block in self.clip_out_blocks]
        return tuple(range(start, end) for start, end in pairwise([0, *ends]))

    def _check_choices(self) -> None:
        choices = {
            "sam_relpos": RELPOS,
            "clip_stats": PIXEL_STATS,
            "text_features": SOURCES,
            "pos_interp": INTERPOLATIONS,
            "ftm_residual": RESIDUALS,
            "deform": CORES,
        }
        for key, allowed in choices.items():
            if (given := getattr(self, key)) not in allowed:
                raise ConfigError(f"model.{key} is {given!r}; choose one of {', '.join(allowed)}")
        if isinstance(self.sim_scale, str) and self.sim_scale not in SCALES:
            raise ConfigError(
                f"model.sim_scale is {self.sim_scale!r}; it is {' or '.join(SCALES)}, or a number"
            )
        for name in self.trainable:
            if name not in TRAINABLE:
                raise ConfigError(
                    f"model.trainable names {name!r}; what may learn is {', '.join(TRAINABLE)}"
                )

    def _check_parts(self) -> None:
        if not (self.use_sam or self.use_clip):
            raise ConfigError("model.use_sam and model.use_clip are both false; one must be true")
        if self.use_srm and not (self.use_sam and self.use_clip):
            raise ConfigError(
                "model.use_srm joins CLIP's features to SAM's and needs both; set "
                "model.use_srm = false, or model.use_clip and model.use_sam = true"
            )
        if self.use_ftm and not self.use_sam:
            raise ConfigError(
                "model.use_ftm tunes SAM's layers; set model.use_ftm = false or "
                "model.use_sam = true"
            )
        if not self.use_sam and self.clip_patch != PATCH:
            raise ConfigError(
                f"model.clip_patch is {self.clip_patch}; without SAM CLIP is the trunk, whose "
                f"patches are {PATCH} pixels"
            )
        if self.use_sam and self.use_clip and not self.use_srm:
            raise ConfigError(
                "model.use_srm is false, so nothing would read CLIP's features; set "
                "model.use_clip = false as well"
            )

    def _check_sizes(self) -> None:
        multiples = {
            "sam_width": "sam_heads",
            "clip_width": "clip_heads",
            "sam_depth": STAGES,
        }
        for key, of in multiples.items():
            divisor = getattr(self, of) if isinstance(of, str) else of
            if getattr(self, key) % divisor:
                name = f"model.{of} ({divisor})" if isinstance(of, str) else str(divisor)
                raise ConfigError(
                    f"model.{key} is {getattr(self, key)}; it must be a multiple of {name}"
                )
        if (value := int(self.width * self.adapter_value_ratio)) % self.adapter_heads or not value:
            raise ConfigError(
                f"model.adapter_value_ratio makes values of width {value}, which "
                f"{self.adapter_heads} heads (model.adapter_heads) cannot share"
            )

    def _check_blocks(self) -> None:
        blocks = self.clip_out_blocks
        rising = all(a < b for a, b in pairwise(blocks))
        if len(blocks) != STAGES or not rising or blocks[0] < 0 or blocks[-1] >= self.clip_depth:
            raise ConfigError(
                f"model.clip_out_blocks is {list(blocks)}; it must be {STAGES} rising block "
                f"numbers from 0 to {self.clip_depth - 1}"
            )
        places = self.srm_clip_map
        if len(places) != STAGES + 1 or not all(-1 <= index < STAGES for index in places):
            raise ConfigError(
                f"model.srm_clip_map is {list(places)}; it must be {STAGES + 1} numbers from -1 "
                f"(input of block 0) to {STAGES - 1}"
            )


PRESETS: dict[str, SCHNetConfig] = {
    "schnet-l": SCHNetConfig(),
    "schnet-b": SCHNetConfig(
        sam_width=768,
        sam_depth=12,
        sam_heads=12,
        sam_global_blocks=(2, 5, 8, 11),
        adapter_heads=12,
        adapter_drop_path=0.2,
        decoder_width=256,
    ),
    "schnet-small": SCHNetConfig(  # no published encoder is this small, so both learn
        sam_width=192,
        sam_depth=8,
        sam_heads=6,
        sam_global_blocks=(1, 3, 5, 7),
        sam_window=4,
        sam_native_window=4,
        sam_grid=8,
        clip_width=128,
        clip_depth=4,
        clip_heads=4,
        clip_grid=8,
        clip_out_blocks=(0, 1, 2, 3),
        text_width=64,
        text_features="random-orthonormal",
        ftm_tokens=16,
        adapter_heads=6,
        adapter_stem=16,
        adapter_drop_path=0.1,
        decoder_width=64,
        trainable=("sam", "clip"),
    ),
    "schnet-tiny": SCHNetConfig(
        sam_width=64,
        sam_depth=4,
        sam_heads=4,
        sam_global_blocks=(1, 3),
        sam_window=4,
        sam_native_window=4,
        sam_grid=8,
        clip_width=64,
        clip_depth=4,
        clip_heads=4,
        clip_grid=4,
        clip_out_blocks=(0, 1, 2, 3),
        text_width=64,
        text_features="random-orthonormal",
        ftm_tokens=8,
        adapter_heads=4,
        adapter_stem=8,
        adapter_drop_path=0.1,
        decoder_width=32,
    ),
}
