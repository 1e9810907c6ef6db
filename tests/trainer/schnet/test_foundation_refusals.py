"""T-58 for SCHNet: what is no SAM or CLIP is refused by name, and a bad setting by its key."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hp_sdk.errors import ConfigError, ModelError, ModelNotFound
from hp_trainer.foundation import FoundationConfig, load_foundation


@pytest.mark.parametrize(
    ("key", "signature", "told"),
    [
        ("sam", "visual.proj", "these weights are CLIP; give sam_vit_b"),
        ("clip", "image_encoder.pos_embed", r"Segment Anything \(SAM\); give a CLIP with a ViT"),
        ("clip", "visual.attnpool.positional_embedding", "a CLIP with a ResNet"),
        ("sam", "image_encoder.trunk.pos_embed", "Segment Anything 2"),
        ("sam", "adapter.level_embed", r"SCHNet of this project \(start from it with train\.init"),
        ("clip", "layer1.0.conv1.weight", r"\(layer1.*of no known layout"),
    ],
)
def test_weights_of_something_else_are_refused_by_name(
    tiny: Any, tmp_path: Path, key: str, signature: str, told: str
):
    torch.save({signature: torch.ones(2)}, tmp_path / "a.pth")
    given: Any = {key: str(tmp_path / "a.pth")}
    with pytest.raises(ModelError, match=rf"foundation\.{key}: .*{told}"):
        load_foundation(tiny(), FoundationConfig(**given), partial=True)


def test_a_file_that_is_not_there_is_named_with_its_key(tiny: Any, tmp_path: Path):
    config = FoundationConfig(sam=str(tmp_path / "gone.pth"))
    with pytest.raises(ModelNotFound, match=r"foundation\.sam: there is no file .*gone\.pth"):
        load_foundation(tiny(), config, partial=True)


def test_a_hub_id_is_not_fetched_unasked(tiny: Any):
    with pytest.raises(ConfigError, match=r"foundation\.download is not true"):
        load_foundation(tiny(), FoundationConfig(sam="hf:facebook/sam-vit-large"), partial=True)


@pytest.mark.parametrize("prompt", ["a photo", "", ("a {label}", "a {name}"), ()])
def test_a_prompt_without_a_place_for_the_label_is_refused(prompt: str | tuple[str, ...]):
    with pytest.raises(ConfigError, match=r"foundation\.prompt .*\{label\}"):
        FoundationConfig(prompt=prompt)


def test_one_prompt_or_several():
    assert FoundationConfig().prompts == ("a photo of a {label}",)
    assert FoundationConfig(prompt=("a {label}", "the {label}")).prompts[1] == "the {label}"
