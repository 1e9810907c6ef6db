"""SCHP's published checkpoints become bundles that parse."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from hp_export.foreign import open_checkpoint, open_foreign
from hp_export.foreign.schp import convert
from hp_export.strip import bare_network, strip_report
from hp_export.write import ExportOptions, export_bundle
from hp_sdk import Parser
from hp_sdk.domains import load_domain
from hp_sdk.errors import ConfigError, CorruptArtifact, ModelError
from hp_trainer.checkpoint import read_checkpoint
from hp_trainer.models.schp import SCHP, SCHPConfig, registration_matrix
from hp_trainer.models.sst import MEAN, STD
from tests.export.schp_checkpoint import FULL, published_logits, published_shapes, random_state

FILES = {
    "exp-schp-201908261155-lip.pth": 20,
    "exp-schp-201908301523-atr.pth": 18,
    "exp-schp-201908270938-pascal-person-part.pth": 7,
}
LAYOUTS = Path(__file__).parents[3] / "shared" / "reference" / "checkpoint_layouts"


def save(path: Path, state: dict[str, torch.Tensor], *, legacy: bool = True) -> Path:
    """Write as the authors did, in 2019."""
    content = {"epoch": 150, "state_dict": OrderedDict(state)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.fixture(scope="module")
def lip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("schp")
    return save(folder / "exp-schp-201908261155-lip.pth", random_state(20))


def rgb(seed: int = 0, *, side: int = 64) -> torch.Tensor:
    """Pixels (2, side, side, 3) in 0..255."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (2, side, side, 3), generator=generator).float()


def normalised_bgr(pixels: torch.Tensor) -> torch.Tensor:
    """As SCHP's own scripts prepare an image."""
    mean, std = torch.tensor([0.406, 0.456, 0.485]), torch.tensor([0.225, 0.224, 0.229])
    return ((pixels.flip(3) / 255 - mean) / std).permute(0, 3, 1, 2)


def normalised_rgb(pixels: torch.Tensor) -> torch.Tensor:
    """As this project's graphs prepare an image."""
    return ((pixels - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("file", FILES)
def test_the_layout_is_the_published_one(file: str) -> None:
    kind = {20: "lip", 18: "atr", 7: "pascal"}[FILES[file]]
    table = LAYOUTS / f"schp_{kind}.tsv"
    if not table.is_file():
        pytest.skip(reason=f"{table.name} is missing: put the listings into shared/reference")
    rows = [line.split("\t") for line in table.read_text().splitlines() if "\t" in line]
    listed = {row[0]: row[1] for row in rows if row[0].startswith("module.")}
    ours = published_shapes(FILES[file], **FULL)
    assert {name: "x".join(map(str, shape)) for name, shape in ours.items()} == listed


@pytest.mark.parametrize("file", FILES)
def test_the_whole_published_checkpoint_fits_the_whole_network(file: str) -> None:
    classes = FILES[file]
    shapes = published_shapes(classes, **FULL)
    assert len(shapes) == 603
    assert round(sum(np.prod(shape) for shape in shapes.values()) / 1e6, 1) == 66.8
    with torch.device("meta"):
        tensors = {key.removeprefix("module."): torch.empty(s) for key, s in shapes.items()}
    checkpoint = convert(tensors, Path(file))
    assert checkpoint.config == {
        "depths": (3, 4, 23, 3), "stem": 64, "width": 64, "context": 512, "edge": 256,
        "decoder": 256, "skip": 48, "fusion": 256, "pad": int(classes == 20),
    }  # fmt: skip
    with torch.device("meta"):
        network = SCHP(SCHPConfig(**checkpoint.config), checkpoint.domains)
    assert checkpoint.model.keys() == network.state_dict().keys()
    left_behind = {"decoder.conv4", "edge.conv4", "edge.conv5"}
    assert {key.rpartition(".")[0] for key in checkpoint.aux or {}} == left_behind


@pytest.mark.parametrize("file", FILES)
def test_labels_and_their_mirror_images_come_with_the_number_of_classes(
    file: str, tmp_path: Path
) -> None:
    checkpoint = open_foreign(save(tmp_path / file, random_state(FILES[file])))
    assert checkpoint is not None
    (domain,) = checkpoint.domains
    assert domain == load_domain({20: "lip", 18: "atr", 7: "pascal"}[FILES[file]])
    assert len(domain.flip_pairs) == {20: 3, 18: 3, 7: 0}[FILES[file]]
    assert checkpoint.input["size_hw"] == {20: [472, 472]}.get(FILES[file], [512, 512])
    assert checkpoint.input["color"] == "RGB"


def test_twenty_classes_are_cihp_if_the_file_or_the_caller_says_so(tmp_path: Path) -> None:
    path = save(tmp_path / "exp_schp_multi_cihp_global.pth", random_state(20))
    assert open_checkpoint(path).domains[0].name == "cihp"
    assert open_checkpoint(path, domain="lip").domains[0].name == "lip"
    with pytest.raises(ConfigError, match="20 classes apart, domain 'atr' has 18"):
        open_checkpoint(path, domain="atr")


@pytest.mark.parametrize("side", [64, 72])
def test_logits_are_those_of_the_published_network(lip_file: Path, side: int) -> None:
    checkpoint = open_checkpoint(lip_file)
    network = bare_network(checkpoint)
    assert isinstance(network, SCHP)
    image = normalised_rgb(rgb(side=side))
    padded = functional.pad(image, (0, 1, 0, 1))
    with torch.inference_mode():
        found = network.native(image)["lip"]
        expected = published_logits(random_state(20), padded.flip(1))
    assert found.shape == (2, 20, side // 4 + 1, side // 4 + 1)
    assert float(expected.std()) > 0.1
    assert torch.allclose(found, expected, atol=1e-4)


def test_rgb_pixels_give_what_bgr_pixels_gave(tmp_path: Path) -> None:
    state = random_state(18)
    network = bare_network(open_checkpoint(save(tmp_path / "atr.pth", state)))
    assert isinstance(network, SCHP)
    pixels = rgb()
    with torch.inference_mode():
        found = network.native(normalised_rgb(pixels))["atr"]
        expected = published_logits(state, normalised_bgr(pixels))
        swapped = published_logits(state, normalised_rgb(pixels))
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(swapped, expected, atol=1e-2)


def test_a_negative_gamma_counts_by_its_size(lip_file: Path) -> None:
    state, checkpoint = random_state(20), open_checkpoint(lip_file)
    for ours, theirs in (
        ("stem.bn2", "bn2"),
        ("layer3.1.bn3", "layer3.1.bn3"),
        ("context.stages.2.1", "context_encoding.stages.2.2"),
        ("decoder.mix.1.1", "decoder.conv3.3"),
    ):
        gamma = state[f"module.{theirs}.weight"]
        assert (gamma < 0).any()
        assert torch.equal(checkpoint.model[f"{ours}.weight"], gamma.abs() + 1e-5)


def test_a_port_to_plain_batch_norm_keeps_its_gamma(tmp_path: Path) -> None:
    state = random_state(20) | {"module.bn1.num_batches_tracked": torch.tensor(7)}
    checkpoint = open_checkpoint(save(tmp_path / "port.pth", state))
    assert torch.equal(checkpoint.model["stem.bn2.weight"], state["module.bn2.weight"])
    bare_network(checkpoint)


@pytest.mark.parametrize(("side", "pad"), [(64, 0), (72, 1)])
def test_labels_lie_where_the_published_resize_puts_them(side: int, pad: int) -> None:
    cells = (side + pad + 3) // 4
    ramp = torch.linspace(0, 1, cells)[None, None, None].repeat(1, 1, 2, 1)
    size = (2, side + pad)
    published = functional.interpolate(ramp, size=size, mode="bilinear", align_corners=True)
    ours = ramp @ torch.from_numpy(registration_matrix(side, cells, side + pad)).T
    half_pixel = functional.interpolate(ours, size=(2, side), mode="bilinear")
    inside = slice(2, side - 2)  # beyond the outermost cells, half pixels are clamped
    assert torch.allclose(half_pixel[..., inside], published[..., inside], atol=1e-5)


def test_the_report_lists_edge_and_first_parsing_as_left_behind(lip_file: Path) -> None:
    report = strip_report(open_checkpoint(lip_file))
    assert {part.name for part in report.left_behind} == {
        "aux.decoder.conv4",
        "aux.edge.conv4",
        "aux.edge.conv5",
    }
    assert {"stem", "layer4", "context", "edges", "fusion", "heads"} <= {
        part.name for part in report.ships
    }


def test_a_published_file_becomes_a_bundle_that_parses(lip_file: Path, tmp_path: Path) -> None:
    report = export_bundle(
        open_checkpoint(lip_file), tmp_path / "lip", ExportOptions(size_hw=(64, 64))
    )
    assert {entry["verdict"] for entry in report.bundle.verify} == {"pass"}
    assert report.bundle.family == "schp"
    assert not {"GridSample", "BatchNormalization", "AveragePool"} & set(report.census.operators)
    photo = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
    with Parser.load(tmp_path / "lip") as parser:
        result = parser.predict(photo)
    assert result.labels.shape == (90, 70)
    assert result.domain.name == "lip"
    assert len(np.unique(result.labels)) > 1


def test_a_size_that_is_no_multiple_of_8_is_refused(lip_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"multiples of 8, not 473x473; the nearest is 472x472"):
        export_bundle(
            open_checkpoint(lip_file), tmp_path / "lip", ExportOptions(size_hw=(473, 473))
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"module.layer2.0.bn1.bias": None}, "1 missing: layer2.0.bn1.bias"),
        ({"module.extra.weight": torch.zeros(3)}, "1 unexpected: extra.weight"),
        ({"module.layer2.0.bn1.bias": torch.zeros(3)}, r"layer2.0.bn1.bias \(3 instead of 8\)"),
        ({"module.conv1.weight": None}, "without 'conv1.weight'"),
    ],
)
def test_a_checkpoint_with_parts_missing_or_left_over_is_refused_by_name(
    tmp_path: Path, change: dict[str, torch.Tensor | None], words: str
) -> None:
    state = {k: v for k, v in (random_state(20) | change).items() if v is not None}
    with pytest.raises(ModelError, match=words):
        open_foreign(save(tmp_path / "lip.pth", state, legacy=False))


def test_other_numbers_of_classes_need_a_domain(tmp_path: Path) -> None:
    path = save(tmp_path / "mine.pth", random_state(3))
    with pytest.raises(ModelError, match=r"3 classes; known are lip \(20\), atr \(18\), pascal"):
        open_foreign(path)
    (tmp_path / "mine.toml").write_text('names = ["background", "left-sock", "right-sock"]')
    checkpoint = open_checkpoint(path, domain=str(tmp_path / "mine.toml"))
    assert checkpoint.domains[0].names[1] == "left-sock"
    bare_network(checkpoint)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["xception_features.conv1.weight"], "Graphonomy or Grapy-ML, which cannot be exported"),
        (["hwAttention.gamma"], "CDGNet, which cannot"),
        (["head.w", "head.b", "neck.w", "tail"], r"4 tensors of an unknown layout \(head.w, head"),
        ([], "no named tensors"),
    ],
)
def test_unknown_checkpoints_are_refused_by_name(
    tmp_path: Path, names: list[str], words: str
) -> None:
    torch.save({name: torch.zeros(1) for name in names}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match=words) as caught:
        open_checkpoint(tmp_path / "other.pth")
    assert "SCHP checkpoints (LIP, ATR, PASCAL)" in str(caught.value)


class Payload:
    """Pickled, it would write a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("legacy", [True, False])
def test_a_file_that_would_run_a_program_is_refused_and_does_not(
    tmp_path: Path, legacy: bool
) -> None:
    content = {"state_dict": random_state(7), "args": Payload(tmp_path / "ran")}
    path = tmp_path / "evil.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ModelError, match="would run whatever its author put inside"):
        open_checkpoint(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"just text", b"PK\x03\x04 no archive", b"<html>"])
def test_what_is_no_weight_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.pth").write_bytes(content)
    with pytest.raises((CorruptArtifact, ModelError), match=r"broken\.pth"):
        open_checkpoint(tmp_path / "broken.pth")


def test_our_own_checkpoints_are_opened_as_before(checkpoint_file: Path, tmp_path: Path) -> None:
    assert open_foreign(checkpoint_file) is None
    opened = open_checkpoint(checkpoint_file)
    assert opened.family == "sst"
    assert opened.model.keys() == read_checkpoint(checkpoint_file).model.keys()
    with pytest.raises(ModelError, match="there is no checkpoint"):
        open_checkpoint(tmp_path / "nowhere.pt")
