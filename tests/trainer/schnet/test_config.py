"""Every reading of the paper is a setting; a wrong one is refused by its key."""

from dataclasses import asdict, fields, replace
from typing import Any

import pytest

from hp_sdk.errors import ConfigError
from hp_trainer.models.schnet.config import PRESETS, SCHNetConfig

DEFAULTS = {
    "clip_out_blocks": (3, 5, 7, 11),  # A21
    "srm_clip_map": (0, 1, 2, 3, 3),  # A22
    "sim_scale": "none",  # A23
    "srm_reduction": 4,  # A25
    "ftm_reduction": 4,
    "ftm_tokens": 100,
    "ftm_attn_scale": True,  # A26
    "ftm_drop_first": False,
    "ftm_inner_residual": False,
    "ftm_residual": "f",
    "zero_init": True,  # A27
    "trainable": ("sam.patch_embed",),  # A28
    "clip_stats": "clip",  # A29
    "sam_window": 14,  # A32
    "pos_interp": "bicubic",  # A34
    "text_features": "required",
}


@pytest.mark.parametrize("key", DEFAULTS)
def test_the_default_reading_is_the_registers(key):
    assert getattr(SCHNetConfig(), key) == DEFAULTS[key]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sam_relpos": "sine"}, "model.sam_relpos is 'sine'.*bias, augmented"),
        ({"clip_stats": "imagenet"}, "model.clip_stats.*clip, sam"),
        ({"text_features": "random"}, "model.text_features.*random-orthonormal"),
        ({"pos_interp": "nearest"}, "model.pos_interp.*bicubic, bilinear"),
        ({"ftm_residual": "g"}, "model.ftm_residual.*fprime"),
        ({"deform": "magic"}, "model.deform.*gather"),
        ({"sim_scale": "high"}, "model.sim_scale is 'high'.*a number"),
        ({"trainable": ("adapter",)}, "model.trainable names 'adapter'.*sam.patch_embed"),
        ({"sam_heads": 15}, r"model.sam_width is 1024.*model.sam_heads \(15\)"),
        ({"sam_depth": 22}, "model.sam_depth is 22.*multiple of 4"),
        ({"adapter_value_ratio": 0.3}, "model.adapter_value_ratio.*width 307"),
        ({"clip_out_blocks": (3, 5, 7)}, r"model.clip_out_blocks is \[3, 5, 7\].*4 rising"),
        ({"clip_out_blocks": (4, 6, 8, 12)}, "model.clip_out_blocks.*0 to 11"),
        ({"srm_clip_map": (0, 1, 2, 3)}, "model.srm_clip_map.*5 numbers"),
        ({"srm_clip_map": (0, 1, 2, 3, 4)}, "model.srm_clip_map.*-1"),
        ({"use_sam": False}, "model.use_srm"),
        ({"use_sam": False, "use_srm": False}, "model.use_ftm"),
        ({"use_srm": False}, "model.use_clip = false"),
        ({"use_sam": False, "use_clip": False, "use_srm": False, "use_ftm": False}, "both false"),
        (
            {"use_sam": False, "use_srm": False, "use_ftm": False, "clip_patch": 32},
            "model.clip_patch is 32",
        ),
    ],
)
def test_a_wrong_setting_is_refused_by_its_key(changes: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        replace(SCHNetConfig(), **changes)


def test_layers_are_shared_out_over_four_stages():
    assert SCHNetConfig().stages == (range(6), range(6, 12), range(12, 18), range(18, 24))


def test_with_clip_as_the_trunk_a_stage_ends_at_each_of_its_maps():
    config = SCHNetConfig(use_sam=False, use_srm=False, use_ftm=False)
    assert config.stages == (range(4), range(4, 6), range(6, 8), range(8, 12))
    assert config.width == 768


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_the_plain_values_of_a_checkpoint(name):
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(PRESETS[name]).items()}
    back: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
    assert SCHNetConfig(**back) == PRESETS[name]


def test_only_presets_without_published_encoders_invent_their_text_features():
    sources = {name: preset.text_features for name, preset in PRESETS.items()}
    assert sources == {
        "schnet-l": "required",
        "schnet-b": "required",
        "schnet-small": "random-orthonormal",
        "schnet-tiny": "random-orthonormal",
    }


def test_settings_are_plain_values():
    kinds = {type(getattr(SCHNetConfig(), field.name)) for field in fields(SCHNetConfig)}
    assert kinds <= {bool, int, float, str, tuple}
