"""Folders of SegFormer in Hugging Face's layout become bundles that parse."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from hp_export.foreign import open_checkpoint, segformer
from hp_export.foreign.segformer import flip_pairs
from hp_export.strip import bare_network
from hp_export.write import ExportOptions, export_bundle
from hp_sdk import Parser
from hp_sdk.domains import load_domain
from hp_sdk.errors import ConfigError, CorruptArtifact, ModelError

Changes = dict[str, object]

WIDTHS, DEPTHS, HEADS = (8, 16, 24, 32), (1, 2, 1, 1), (1, 2, 3, 4)
REDUCTIONS, STRIDES = (8, 4, 2, 1), (4, 2, 2, 2)
DECODER = 12
ATR = [
    "Background", "Hat", "Hair", "Sunglasses", "Upper-clothes", "Skirt", "Pants", "Dress", "Belt",
    "Left-shoe", "Right-shoe", "Face", "Left-leg", "Right-leg", "Left-arm", "Right-arm", "Bag",
    "Scarf",
]  # fmt: skip
"""As the published human-parsing checkpoints spell them."""


def config(labels: list[str], **changes: object) -> dict[str, object]:
    return {
        "architectures": ["SegformerForSemanticSegmentation"],
        "model_type": "segformer",
        "depths": list(DEPTHS),
        "hidden_sizes": list(WIDTHS),
        "num_attention_heads": list(HEADS),
        "sr_ratios": list(REDUCTIONS),
        "patch_sizes": [7, 3, 3, 3],
        "strides": list(STRIDES),
        "mlp_ratios": [4, 4, 4, 4],
        "decoder_hidden_size": DECODER,
        "hidden_act": "gelu",
        "id2label": {str(k): label for k, label in enumerate(labels)},
    } | changes


def shapes(classes: int) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor on disk."""
    found: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *size: int, bias: bool = True) -> None:
        found[f"{name}.weight"] = size
        if bias:
            found[f"{name}.bias"] = size[:1]

    inputs = 3
    for i, width in enumerate(WIDTHS):
        encoder = "segformer.encoder"
        patch = 7 if i == 0 else 3
        layer(f"{encoder}.patch_embeddings.{i}.proj", width, inputs, patch, patch)
        layer(f"{encoder}.patch_embeddings.{i}.layer_norm", width)
        for j in range(DEPTHS[i]):
            block = f"{encoder}.block.{i}.{j}"
            for part in ("query", "key", "value"):
                layer(f"{block}.attention.self.{part}", width, width)
            if REDUCTIONS[i] > 1:
                layer(f"{block}.attention.self.sr", width, width, REDUCTIONS[i], REDUCTIONS[i])
                layer(f"{block}.attention.self.layer_norm", width)
            layer(f"{block}.attention.output.dense", width, width)
            layer(f"{block}.layer_norm_1", width)
            layer(f"{block}.layer_norm_2", width)
            layer(f"{block}.mlp.dense1", 4 * width, width)
            layer(f"{block}.mlp.dwconv.dwconv", 4 * width, 1, 3, 3)
            layer(f"{block}.mlp.dense2", width, 4 * width)
        layer(f"{encoder}.layer_norm.{i}", width)
        layer(f"decode_head.linear_c.{i}.proj", DECODER, width)
        inputs = width
    layer("decode_head.linear_fuse", DECODER, 4 * DECODER, 1, 1, bias=False)
    layer("decode_head.batch_norm", DECODER)
    found["decode_head.batch_norm.running_mean"] = (DECODER,)
    found["decode_head.batch_norm.running_var"] = (DECODER,)
    layer("decode_head.classifier", classes, DECODER, 1, 1)
    return found


def random_state(classes: int = 18) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, size in shapes(classes).items():
        noise = torch.randn(size, generator=generator)
        fan_in = math.prod(size[1:])
        if name.endswith("running_var"):
            noise = noise.abs() + 0.5
        elif len(size) > 1:
            noise = noise * (2 / fan_in) ** 0.5
        elif name.endswith("weight"):
            noise = 1 + 0.3 * noise
        else:
            noise = 0.3 * noise
        state[name] = noise
    return state | {"decode_head.batch_norm.num_batches_tracked": torch.tensor(5)}


def write_folder(
    folder: Path, labels: list[str] = ATR, *, pickled: bool = False, changes: Changes | None = None
) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config(labels, **(changes or {}))))
    state = random_state(len(labels))
    if pickled:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        save_file(state, folder / "model.safetensors")
    return folder


def published_logits(t: dict[str, Tensor], image: Tensor) -> Tensor:
    """The published network once more, in plain functions; logits (N, Z, H/4, W/4)."""

    def linear(x: Tensor, name: str) -> Tensor:
        return functional.linear(x, t[f"{name}.weight"], t[f"{name}.bias"])

    def conv(x: Tensor, name: str, **options: int) -> Tensor:
        return functional.conv2d(x, t[f"{name}.weight"], t.get(f"{name}.bias"), **options)

    def norm(x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], t[f"{name}.weight"], t[f"{name}.bias"])

    def block(x: Tensor, name: str, i: int) -> Tensor:
        """Map (N, h, w, C), channels last all the way."""
        n, h, w, c = x.shape
        seen = y = norm(x, f"{name}.layer_norm_1")
        if REDUCTIONS[i] > 1:
            reduced = conv(y.permute(0, 3, 1, 2), f"{name}.attention.self.sr", stride=REDUCTIONS[i])
            seen = norm(reduced.permute(0, 2, 3, 1), f"{name}.attention.self.layer_norm")
        q, k, v = (
            linear(m, f"{name}.attention.self.{part}").reshape(n, -1, HEADS[i], c // HEADS[i])
            for part, m in (("query", y), ("key", seen), ("value", seen))
        )
        weights = torch.einsum("nqhd,nkhd->nhqk", q, k) / math.sqrt(c // HEADS[i])
        mixed = torch.einsum("nhqk,nkhd->nqhd", weights.softmax(-1), v).reshape(n, h, w, c)
        x = x + linear(mixed, f"{name}.attention.output.dense")
        y = linear(norm(x, f"{name}.layer_norm_2"), f"{name}.mlp.dense1").permute(0, 3, 1, 2)
        y = conv(y, f"{name}.mlp.dwconv.dwconv", padding=1, groups=4 * c).permute(0, 2, 3, 1)
        return x + linear(functional.gelu(y), f"{name}.mlp.dense2")

    x, maps = image, []
    for i in range(4):
        embed = f"segformer.encoder.patch_embeddings.{i}"
        x = conv(x, f"{embed}.proj", stride=STRIDES[i], padding=3 if i == 0 else 1)
        x = norm(x.permute(0, 2, 3, 1), f"{embed}.layer_norm")
        for j in range(DEPTHS[i]):
            x = block(x, f"segformer.encoder.block.{i}.{j}", i)
        x = norm(x, f"segformer.encoder.layer_norm.{i}")
        maps.append(linear(x, f"decode_head.linear_c.{i}.proj").permute(0, 3, 1, 2))
        x = x.permute(0, 3, 1, 2)
    size = maps[0].shape[2:]
    maps = [functional.interpolate(m, size=size, mode="bilinear") for m in maps]
    x = conv(torch.cat(maps[::-1], 1), "decode_head.linear_fuse")
    bn = "decode_head.batch_norm"
    statistics = (t[f"{bn}.running_mean"], t[f"{bn}.running_var"])
    x = functional.batch_norm(x, *statistics, t[f"{bn}.weight"], t[f"{bn}.bias"])
    return conv(torch.relu(x), "decode_head.classifier")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("hub") / "segformer_b2_clothes")


def image(h: int = 64, w: int = 96) -> Tensor:
    return torch.randn(2, 3, h, w, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("pickled", [False, True])
def test_logits_are_those_of_the_published_network(tmp_path: Path, pickled: bool) -> None:
    network = bare_network(open_checkpoint(write_folder(tmp_path / "model", pickled=pickled)))
    with torch.inference_mode():
        found = network(image())["atr"]
        expected = published_logits(random_state(), image())
    assert found.shape == (2, 18, 16, 24)
    assert float(expected.std()) > 0.1
    assert torch.allclose(found, expected, atol=1e-4)


def test_logits_are_those_of_transformers(folder: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    theirs = transformers.SegformerForSemanticSegmentation.from_pretrained(
        folder, local_files_only=True
    ).eval()
    with torch.inference_mode():
        found = bare_network(open_checkpoint(folder))(image())["atr"]
        assert torch.allclose(found, theirs(pixel_values=image()).logits, atol=1e-4)


def test_labels_of_a_known_domain_are_that_domain(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    assert checkpoint.family == "segformer"
    assert checkpoint.domains == (load_domain("atr"),)


def test_other_labels_make_a_domain_named_after_the_folder(tmp_path: Path) -> None:
    labels = ["background", "Left Eye", "nose", "right_eye", "l_ear", "r_ear"]
    (domain,) = open_checkpoint(write_folder(tmp_path / "Face.Parsing-b0", labels)).domains
    assert domain.name == "face-parsing-b0"
    assert domain.names == ("background", "left-eye", "nose", "right-eye", "l-ear", "r-ear")
    assert domain.flip_pairs == ((1, 3), (4, 5))


def test_a_part_without_its_mirror_image_swaps_with_nothing() -> None:
    assert flip_pairs(["background", "left-arm", "right-leg", "hair"]) == []


def test_a_domain_that_the_caller_names_goes_first(tmp_path: Path) -> None:
    labels = [f"LABEL_{k}" for k in range(7)]
    folder = write_folder(tmp_path / "model", labels)
    assert open_checkpoint(folder, domain="pascal").domains[0].names[1] == "head"
    with pytest.raises(ConfigError, match=r"names\[0\] is 'label-0'"):
        open_checkpoint(folder)
    with pytest.raises(ConfigError, match="7 classes apart, domain 'lip' has 20"):
        open_checkpoint(folder, domain="lip")


def test_the_input_is_prepared_as_the_preprocessor_says(folder: Path, tmp_path: Path) -> None:
    plain = open_checkpoint(folder).input
    assert (plain["size_hw"], plain["resize"]) == ([512, 512], "stretch")
    assert plain["mean"] == pytest.approx([123.675, 116.28, 103.53])
    other = write_folder(tmp_path / "other")
    (other / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "size": {"height": 384, "width": 192},
                "image_mean": [0.5, 0.4, 0.3],
                "image_std": [0.1, 0.2, 0.4],
                "rescale_factor": 1 / 255,
            }
        )
    )
    found = open_checkpoint(other).input
    assert found["size_hw"] == [384, 192]
    assert found["mean"] == pytest.approx([127.5, 102, 76.5])
    assert found["std"] == pytest.approx([25.5, 51, 102])


def test_pixels_that_are_only_scaled_are_only_scaled(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    (folder / "preprocessor_config.json").write_text('{"size": 256, "do_normalize": false}')
    found = open_checkpoint(folder).input
    assert found["size_hw"] == [256, 256]
    assert (found["mean"], found["std"]) == ([0.0] * 3, pytest.approx([255.0] * 3))


def test_an_input_size_of_one_side_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    (folder / "preprocessor_config.json").write_text('{"size": {"shortest_edge": 512}}')
    with pytest.raises(ConfigError, match="expected height and width"):
        open_checkpoint(folder)


def test_a_folder_becomes_a_bundle_that_parses(folder: Path, tmp_path: Path) -> None:
    report = export_bundle(
        open_checkpoint(folder), tmp_path / "clothes", ExportOptions(size_hw=(64, 64))
    )
    assert {entry["verdict"] for entry in report.bundle.verify} == {"pass"}
    photo = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
    with Parser.load(tmp_path / "clothes") as parser:
        result = parser.predict(photo)
    assert result.labels.shape == (90, 70)
    assert result.domain.name == "atr"
    assert len(np.unique(result.labels)) > 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "dpt"}, "describes"),
        ({"architectures": ["SegformerForImageClassification"]}, "ForImageClassification"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'; only 'gelu'"),
        ({"depths": [1, 2, 2, 1]}, "missing: stages.2.blocks.1"),
        ({"decoder_hidden_size": 16}, "of another shape"),
        ({"depths": None}, "lacks the shape"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path: Path, changes: Changes, words: str) -> None:
    with pytest.raises((ModelError, CorruptArtifact), match=words):
        open_checkpoint(write_folder(tmp_path / "model", changes=changes))


def test_folders_without_config_or_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        open_checkpoint(tmp_path / "empty")
    bare = write_folder(tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"pytorch_model.bin, only config\.json"):
        open_checkpoint(bare)
    with pytest.raises(ModelError, match="give the folder"):
        open_checkpoint(folder / "model.safetensors")


def test_weights_are_recognised_by_their_first_layer() -> None:
    assert segformer.recognises(random_state())
    assert not segformer.recognises({"conv1.weight": torch.zeros(1)})
