"""Text features: they come with the checkpoint, and a network without them says so."""

import pytest
import torch

from hp_sdk.domains import load_domain
from hp_sdk.errors import ConfigError
from hp_trainer.models.schnet.text import TextFeatures

PASCAL, ATR = load_domain("pascal"), load_domain("atr")


def test_a_network_without_text_features_says_what_to_do():
    text = TextFeatures([PASCAL, ATR], 16)
    text.assign("pascal", torch.randn(7, 16))
    with pytest.raises(ConfigError, match=r"'atr' has no text features.*random-orthonormal"):
        text()


def test_one_class_without_an_embedding_is_counted():
    text = TextFeatures([PASCAL], 16, source="random-orthonormal")
    text["pascal"][3] = 0
    with pytest.raises(ConfigError, match="1 of 7 classes"):
        text()


def test_assigned_features_have_length_one():
    text = TextFeatures([PASCAL], 16)
    given = 5 * torch.randn(7, 16)
    text.assign("pascal", given)
    features = text()["pascal"]
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(7))
    torch.testing.assert_close(features * given.norm(dim=-1, keepdim=True), given)


@pytest.mark.parametrize(
    ("name", "features", "message"),
    [
        ("lip", torch.ones(20, 16), "'lip'.*pascal"),
        ("pascal", torch.ones(7, 15), r"\(7, 15\).*\(7, 16\)"),
        ("pascal", torch.zeros(7, 16), "7 of 7"),
        ("pascal", torch.full((7, 16), torch.nan), "7 of 7"),
    ],
)
def test_unusable_features_are_refused_and_change_nothing(name, features, message):
    text = TextFeatures([PASCAL], 16, source="random-orthonormal")
    before = text()["pascal"].clone()
    with pytest.raises(ConfigError, match=message):
        text.assign(name, features)
    assert torch.equal(text()["pascal"], before)


def test_random_features_are_orthonormal():
    features = TextFeatures([ATR], 32, source="random-orthonormal")()["atr"]
    torch.testing.assert_close(features @ features.T, torch.eye(18), atol=1e-5, rtol=0)


def test_features_are_buffers_and_travel_with_the_weights():
    text = TextFeatures([PASCAL], 16, source="random-orthonormal")
    assert set(text.state_dict()) == {"pascal"}
    assert not list(text.parameters())
    other = TextFeatures([PASCAL], 16)
    other.load_state_dict(text.state_dict())
    assert torch.equal(other()["pascal"], text()["pascal"])


def test_features_are_looked_at_again_after_loading():
    text = TextFeatures([PASCAL], 16, source="random-orthonormal")
    text()
    text.load_state_dict({"pascal": torch.zeros(7, 16)})
    with pytest.raises(ConfigError, match="pascal"):
        text()


def test_a_checkpoint_without_text_features_is_refused_by_name(tiny):
    net = tiny("pascal", "atr")
    state = {k: v for k, v in net.state_dict().items() if k != "text.atr"}
    with pytest.raises(ConfigError, match="no text features for atr"):
        net.load_state_dict(state)
    net.load_state_dict(state, strict=False)  # importers bring a part at a time


def test_the_network_parses_nothing_before_its_text_features_are_there(tiny):
    net = tiny(text_features="required")
    image = torch.randn(1, 3, 32, 32)
    with pytest.raises(ConfigError, match="'pascal' has no text features"):
        net(image)
    net.text.assign("pascal", torch.randn(7, 64))
    assert net(image)["pascal"].shape == (1, 7, 8, 8)
