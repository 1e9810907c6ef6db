"""Every reading of the paper is a setting; a wrong one is refused by its key."""

import json
from dataclasses import asdict, fields, replace
from typing import Any

import pytest

from hp_sdk.errors import ConfigError
from hp_trainer.cli.train import shipped_configs
from hp_trainer.config import load_config
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


REGISTER: dict[str, dict[str, Any]] = {
    "A21": {"model.clip_out_blocks": (2, 4, 6, 10)},
    "A22": {"model.srm_clip_map": (-1, 0, 1, 2, 3)},
    "A23": {"model.sim_scale": "clip"},
    "A24": {"foundation.prompt": ("a {label}", "the {label}")},
    "A25": {"model.srm_reduction": 16, "model.ftm_reduction": 2, "model.ftm_tokens": 20},
    "A26": {
        "model.ftm_attn_scale": False,
        "model.ftm_drop_first": True,
        "model.ftm_inner_residual": True,
        "model.ftm_residual": "fprime",
        "model.ftm_per_layer_rho": True,
        "model.ftm_rho": 0.01,
    },
    "A27": {"model.zero_init": False},
    "A28": {"model.trainable": ("sam.patch_embed", "sam.pos_embed", "clip.conv1")},
    "A29": {"model.clip_stats": "sam"},
    "A30": {"schnet.miou_loss": "soft-iou", "schnet.miou": 0.5, "schnet.cross_entropy": 0.5},
    "A31": {"schnet.fcn": 0.0},
    "A32": {"model.sam_window": 15},
    "A33": {"train.resize": "stretch"},
    "A34": {"model.pos_interp": "bilinear"},
}
"""Entry of the register → a reading that is not the default.  A35 concerns SST's priors alone, and
A36 knows one reading: PASCAL has no left and right to exchange."""
SETTINGS = {(entry, key): value for entry, keys in REGISTER.items() for key, value in keys.items()}


def reading(config: Any, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


@pytest.mark.parametrize(("entry", "key"), SETTINGS)
def test_every_other_reading_of_the_register_is_a_word_on_the_command_line(entry: str, key: str):
    value = SETTINGS[entry, key]
    told = json.dumps(list(value) if isinstance(value, tuple) else value)
    path = shipped_configs()["schnet_lip"]
    plain, other = load_config(path), load_config(path, [f"{key}={told}"])
    assert reading(other, key) == value
    assert reading(plain, key) != value
    section, name = key.split(".")
    back = replace(getattr(other, section), **{name: reading(plain, key)})
    assert replace(other, **{section: back}) == plain  # nothing else has changed


def test_the_paper_is_read_through_windows_or_whole_as_the_register_says():
    told = {}
    for name in ("schnet_lip", "schnet_pascal", "schnet_cihp"):
        config = load_config(shipped_configs()[name])
        told[name] = config.train.resize
        assert config.foundation.sam.endswith("/sam_vit_l_0b3195.pth")
        assert config.foundation.clip.endswith("/ViT-B-16.pt")
        assert config.foundation.prompts == ("a photo of a {label}",)
        assert not config.foundation.download
    assert told == {
        "schnet_lip": "letterbox",
        "schnet_pascal": "shortest-side",
        "schnet_cihp": "shortest-side",
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
