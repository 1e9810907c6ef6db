"""T-56: text features of a label domain come from CLIP's text encoder, or from a file of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hp_sdk.domains import load_domain
from hp_sdk.errors import ConfigError, CorruptArtifact, ModelError
from hp_trainer.clip_text import CLIPText, TextShape
from hp_trainer.clip_tokenizer import read_tokenizer
from hp_trainer.foundation import FoundationConfig, load_foundation
from hp_trainer.foundation_files import FoundationFiles
from hp_trainer.foundation_text import find_features
from hp_trainer.label_features import embed_labels, read_features
from hp_trainer.models.schnet.schnet import SCHNet

MERGES = ["a r", "m s</w>", "ar ms</w>", "h e"]
SHAPE = TextShape(vocabulary=512 + len(MERGES) + 2, context=40, width=128, depth=1, joint=64)
PROMPTS = ("a {label}", "my {label}")
PASCAL, ATR = load_domain("pascal"), load_domain("atr")


@pytest.fixture
def net(tiny: Any) -> SCHNet:
    return tiny(text_features="required")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HP_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def merges(tmp_path: Path) -> str:
    path = tmp_path / "merges.txt"
    path.write_text("#version: 0.2\n" + "\n".join(MERGES))
    return str(path)


def text_encoder(joint: int = 64) -> CLIPText:
    torch.manual_seed(5)
    shape = TextShape(SHAPE.vocabulary, SHAPE.context, SHAPE.width, SHAPE.depth, joint)
    return CLIPText(shape).eval()


def hugging_face(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    block, layer = "transformer.resblocks.0", "text_model.encoder.layers.0"
    found = {
        "text_model.embeddings.token_embedding.weight": weights["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": weights["positional_embedding"],
        "text_model.embeddings.position_ids": torch.arange(SHAPE.context)[None],
        "text_projection.weight": weights["text_projection"].T.contiguous(),
    }
    for kind in ("weight", "bias"):
        joined = weights[f"{block}.attn.in_proj_{kind}"]
        for part, tensor in zip("qkv", joined.chunk(3), strict=True):
            found[f"{layer}.self_attn.{part}_proj.{kind}"] = tensor.clone()
        for ours, theirs in {
            "attn.out_proj": "self_attn.out_proj",
            "ln_1": "layer_norm1",
            "ln_2": "layer_norm2",
            "mlp.c_fc": "mlp.fc1",
            "mlp.c_proj": "mlp.fc2",
        }.items():
            found[f"{layer}.{theirs}.{kind}"] = weights[f"{block}.{ours}.{kind}"]
        found[f"text_model.final_layer_norm.{kind}"] = weights[f"ln_final.{kind}"]
    return found


def write_encoder(folder: Path, layout: str = "openai", joint: int = 64) -> str:
    weights = {k: v.clone() for k, v in text_encoder(joint).state_dict().items()}
    content = {
        "openai": weights | {"logit_scale": torch.tensor(4.6)},
        "open_clip": {f"text.{k}": v for k, v in weights.items()}
        | {"text.attn_mask": torch.zeros(2, 2)},
        "hugging-face": hugging_face(weights),
    }[layout]
    path = folder / f"{layout}{joint}.pth"
    torch.save(content, path)
    return str(path)


def load(net: SCHNet, *, partial: bool = True, **settings: Any) -> tuple[str, ...]:
    return load_foundation(net, FoundationConfig(**settings), PASCAL, partial=partial)


def expected(merges: str, prompts: tuple[str, ...]) -> Tensor:
    tokenizer = read_tokenizer(Path(merges), SHAPE.vocabulary)
    return embed_labels(text_encoder(), tokenizer, PASCAL, prompts)


@pytest.mark.parametrize("layout", ["openai", "open_clip", "hugging-face"])
def test_every_layout_of_the_text_encoder_gives_the_same_features(
    net: SCHNet, tmp_path: Path, merges: str, layout: str
):
    lines = load(net, text=write_encoder(tmp_path, layout), merges=merges, prompt=PROMPTS)
    torch.testing.assert_close(net.text()["pascal"], expected(merges, PROMPTS))
    assert f"text encoder  {layout} layout" in lines
    assert "  matched         17" in lines
    assert lines[-1].startswith("text          pascal: 7 labels, 2 prompts, kept in ")


def test_the_default_prompt_is_a_photo(net: SCHNet, tmp_path: Path, merges: str):
    load(net, text=write_encoder(tmp_path), merges=merges)
    photo = expected(merges, ("a photo of a {label}",))
    torch.testing.assert_close(net.text()["pascal"], photo)


def test_features_are_kept_under_hp_home_per_domain_prompt_and_weights(
    tiny: Any, tmp_path: Path, home: Path, merges: str
):
    net, text = tiny("pascal", "atr", text_features="required"), write_encoder(tmp_path)
    lines: tuple[str, ...] = ()
    for prompt in ("a {label}", "the {label}", "a {label}"):
        config = FoundationConfig(text=text, merges=merges, prompt=prompt)
        lines = load_foundation(net, config, partial=True)  # all domains of the network
    names = sorted(path.name.split("-")[0] for path in (home / "text-features").iterdir())
    assert names == ["atr", "atr", "pascal", "pascal"]
    assert len(lines) == 4
    assert all(f"from {home}" in line for line in lines[2:])  # the third time nothing was made


def test_kept_features_are_used_and_damaged_ones_made_anew(
    net: SCHNet, tmp_path: Path, home: Path, merges: str, monkeypatch: pytest.MonkeyPatch
):
    given: Any = {"text": write_encoder(tmp_path), "merges": merges}
    load(net, **given)
    (kept,) = (home / "text-features").iterdir()
    before, content = net.text()["pascal"].clone(), kept.read_bytes()
    kept.write_bytes(content[:200])
    load(net, **given)
    assert torch.equal(net.text()["pascal"], before)
    torch.testing.assert_close(read_features(kept).features, before)
    monkeypatch.setattr("hp_trainer.foundation_text.embed_labels", None)
    load(net, **given)  # from the file, the encoder is not asked again


def test_the_kept_file_serves_where_there_is_no_text_encoder(
    tiny: Any, tmp_path: Path, home: Path, merges: str
):
    net, other = tiny(text_features="required"), tiny(text_features="required")
    load(net, text=write_encoder(tmp_path), merges=merges, prompt=PROMPTS)
    (kept,) = (home / "text-features").iterdir()
    lines = load(other, text=str(kept), prompt=PROMPTS)
    assert torch.equal(other.text()["pascal"], net.text()["pascal"])
    assert lines[-1] == f"text          pascal: {kept.name} (7 labels, 2 prompts)"


def test_features_travel_in_the_weights_of_the_network(
    tiny: Any, tmp_path: Path, merges: str, net: SCHNet
):
    load(net, text=write_encoder(tmp_path), merges=merges)
    other = tiny(text_features="required")
    other.load_state_dict(net.state_dict())
    lines = load(other, partial=True)
    assert torch.equal(other.text()["pascal"], net.text()["pascal"])
    assert lines[-1] == "text          pascal: kept, the network has them"


def test_a_home_that_cannot_be_written_costs_only_the_next_time(
    net: SCHNet, tmp_path: Path, merges: str, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HP_HOME", str(tmp_path / "file" / "home"))
    lines = load(net, text=write_encoder(tmp_path), merges=merges)
    assert "not kept for the next time: cannot write" in lines[-1]
    assert net.text()["pascal"].any()


def test_the_text_encoder_takes_no_random_numbers_from_the_run(
    net: SCHNet, tmp_path: Path, merges: str
):
    text = write_encoder(tmp_path)
    torch.manual_seed(7)
    first = torch.rand(3)
    torch.manual_seed(7)
    load(net, text=text, merges=merges)
    assert torch.equal(torch.rand(3), first)


# ---- refusals --------------------------------------------------------------------------------


def test_without_any_source_the_error_says_how_to_get_them(net: SCHNet):
    files = FoundationFiles(FoundationConfig())
    with pytest.raises(ConfigError, match=r"'pascal' has no text features; set .*merges") as error:
        find_features(net.text, files, PASCAL)
    assert all(word in str(error.value) for word in ("foundation.text", "HP_HOME", "checkpoint"))
    assert load(net)[-1] == "text          pascal: none yet, a checkpoint must bring them"


def test_random_features_asked_for_by_name_are_kept(tiny: Any):
    net = tiny(text_features="random-orthonormal")
    features, lines = find_features(net.text, FoundationFiles(FoundationConfig()), PASCAL)
    assert features is None
    assert lines == ["text          pascal: kept, the network has them"]


def test_a_text_encoder_and_its_merges_need_each_other(net: SCHNet, tmp_path: Path, merges: str):
    with pytest.raises(ConfigError, match=r"foundation\.merges.* is empty; give bpe_simple_vocab"):
        load(net, text=write_encoder(tmp_path))
    with pytest.raises(ConfigError, match=r"merges is given and no text encoder"):
        load(net, merges=merges)


def test_merges_of_another_text_encoder_are_refused(net: SCHNet, tmp_path: Path):
    (tmp_path / "few.txt").write_text("a r\n")
    with pytest.raises(ModelError, match=r"few\.txt holds 1 merges, .* 518 tokens"):
        load(net, text=write_encoder(tmp_path), merges=str(tmp_path / "few.txt"))
    assert not net.text["pascal"].any()


def test_a_file_with_an_image_encoder_only_is_told_so(net: SCHNet, tmp_path: Path, merges: str):
    assert net.clip is not None
    torch.save({f"visual.{k}": v for k, v in net.clip.state_dict().items()}, tmp_path / "v.pth")
    with pytest.raises(ModelError, match=r"v\.pth has an image encoder and no text encoder"):
        load(net, clip=str(tmp_path / "v.pth"), merges=merges)
    with pytest.raises(ModelError, match=r"foundation\.text: .* CLIP with its text encoder"):
        load(net, text=str(tmp_path / "v.pth"), merges=merges)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"ln_final.bias": None}, r"text encoder cannot take .* 1 missing: ln_final\.bias"),
        ({"ln_final.bias": torch.ones(3)}, r"ln_final\.bias \(here 128, in the file 3\)"),
        ({"transformer.resblocks.0.x": torch.ones(3)}, "1 unexpected: transformer"),
        ({"text_projection": None}, "no text_projection"),
    ],
)
def test_a_text_encoder_that_is_not_whole_is_refused(
    net: SCHNet, tmp_path: Path, merges: str, change: dict[str, Tensor | None], told: str
):
    weights = {**text_encoder().state_dict(), **change}
    torch.save({k: v for k, v in weights.items() if v is not None}, tmp_path / "t.pth")
    with pytest.raises(ModelError, match=told):
        load(net, text=str(tmp_path / "t.pth"), merges=merges)
    assert not net.text["pascal"].any()


def test_another_joint_space_is_refused(net: SCHNet, tmp_path: Path, merges: str):
    with pytest.raises(ConfigError, match=r"are 32 wide .* has 64 dimensions.* model\.text_width"):
        load(net, text=write_encoder(tmp_path, joint=32), merges=merges)
    assert not net.text["pascal"].any()


def test_a_file_of_features_must_be_of_these_labels_and_prompts(
    tiny: Any, net: SCHNet, tmp_path: Path, home: Path, merges: str
):
    load(net, text=write_encoder(tmp_path), merges=merges)
    (kept,) = (home / "text-features").iterdir()
    given = FoundationConfig(text=str(kept))
    with pytest.raises(ConfigError, match=r"of 7 labels, domain 'atr' has 18 .*: hat\)"):
        load_foundation(tiny("atr"), given, ATR, partial=True)
    with pytest.raises(ConfigError, match=r"\['a photo of a \{label\}'\], foundation\.prompt is"):
        load(net, text=str(kept), prompt=PROMPTS)
    with pytest.raises(ConfigError, match=r"'atr'; the network has pascal"):
        load_foundation(net, given, ATR, partial=True)


def test_a_damaged_file_of_features_is_refused(
    net: SCHNet, tmp_path: Path, home: Path, merges: str
):
    load(net, text=write_encoder(tmp_path), merges=merges)
    (kept,) = (home / "text-features").iterdir()
    content = bytearray(kept.read_bytes())
    content[200] ^= 0xFF  # inside the features: the archive's checksum shows it
    kept.write_bytes(content)
    with pytest.raises(CorruptArtifact, match=r"\.npz cannot be read as text features"):
        load(net, text=str(kept))
