"""Views of a photo are averaged as the papers do, and lists are scored image by image."""

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from hp_sdk.bundle import InputSpec
from hp_sdk.domains import Domain, alias_lut, load_domain
from hp_sdk.errors import BackendUnavailable, ConfigError, DataError, ModelNotFound, UnknownHead
from hp_trainer.config import EvalConfig
from hp_trainer.evaluate import (
    evaluate_list,
    head_name,
    network_predictor,
    open_predictor,
    torch_device,
)
from hp_trainer.metrics import Confusion
from hp_trainer.models.sst import PRESETS, SST
from hp_trainer.tta import SCALES, NetworkTTA, TTAChoice, scaled_hw

CIHP = load_domain("cihp")
SPEC = InputSpec(size_hw=(64, 64), pad_value=0)
LIMBS = Domain("limbs", ("background", "left-arm", "right-arm"), flip_pairs=((1, 2),))


class PixelLinear(nn.Module):
    """Linear in each cell's mean colour and column; its answers have no mirror symmetry."""

    def __init__(self, domain: Domain) -> None:
        super().__init__()
        self.domains = (domain,)
        self.seen: list[tuple[int, ...]] = []
        torch.manual_seed(1)
        self.head = nn.Conv2d(4, domain.num_classes, 1)

    def forward(self, image, heads):
        self.seen.append(tuple(image.shape))
        colour = functional.avg_pool2d(image, 4)
        column = torch.linspace(-2, 2, colour.shape[-1]).expand_as(colour[:, :1])
        return {heads[0]: self.head(torch.cat([colour, column], 1))}


class Facing(nn.Module):
    """Knows an arm by its brightness and its side by the picture: people face the camera."""

    def __init__(self, domain: Domain) -> None:
        super().__init__()
        self.domains = (domain,)

    def forward(self, image, heads):
        arm = functional.avg_pool2d(image.mean(1, keepdim=True), 4) > 0
        on_the_left = torch.arange(arm.shape[-1]) < arm.shape[-1] / 2
        scores = [~arm, arm & ~on_the_left, arm & on_the_left]
        return {heads[0]: torch.cat(scores, 1).float()}


class BySize(nn.Module):
    """Class 1 is overwhelming in a small input and just behind in larger ones."""

    domains = (Domain("two", ("background", "person")),)

    def forward(self, image, heads):
        logits = torch.zeros(len(image), 2, image.shape[2] // 4, image.shape[3] // 4)
        logits[:, 1 if image.shape[2] == 32 else 0] = 9 if image.shape[2] == 32 else 3
        return {heads[0]: logits}


def photo(height=50, width=37, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (9, 7, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def labels_of(net: Any, image, tta=None, spec=SPEC):
    views = {} if tta is None else {"tta": tta}
    return network_predictor(net, net.domains[0].name, spec, **views)(np.ascontiguousarray(image))


@pytest.mark.parametrize("average", ["logits", "probs"])
def test_the_answer_to_a_mirrored_photo_is_the_mirrored_answer(average):  # T-27
    net, image = PixelLinear(CIHP), photo()
    tta = NetworkTTA(flip=True, average=average)
    straight, mirrored = labels_of(net, image, tta), labels_of(net, image[:, ::-1], tta)
    np.testing.assert_array_equal(mirrored, CIHP.mirror(straight))
    sided = np.flatnonzero(CIHP.flip_perm != np.arange(20))
    assert np.isin(straight, sided).mean() > 0.05
    # the network alone cannot do that
    alone = labels_of(net, image)
    assert (labels_of(net, image[:, ::-1]) != CIHP.mirror(alone)).mean() > 0.05


def test_so_it_is_over_several_scales_and_for_a_network_without_any_symmetry():
    torch.manual_seed(0)
    net = SST(PRESETS["sst-tiny"], [CIHP]).eval()
    tta = NetworkTTA(scales=(1.0, 0.5, 1.5), flip=True)
    straight, mirrored = labels_of(net, photo(), tta), labels_of(net, photo()[:, ::-1], tta)
    # Views are added in another order, so near-ties may fall either way.
    assert (mirrored == CIHP.mirror(straight)).mean() > 0.999


def arms():
    """A photo of two bright arms and its label map."""
    image, truth = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8)
    image[20:40, 4:20] = image[20:40, 44:60] = 255
    truth[20:40, 4:20], truth[20:40, 44:60] = 2, 1
    return image, truth


def score_arms(domain, tta):
    image, truth = arms()
    confusion = Confusion(domain.names)
    confusion.add(truth, labels_of(Facing(domain), image, tta))
    return confusion


def test_the_flip_keeps_left_and_right_and_without_the_swap_it_loses_them():
    numb = replace(LIMBS, flip_pairs=())  # the same parts, but nobody said that they mirror
    flip = NetworkTTA(flip=True)
    alone, swapped, unswapped = (
        score_arms(domain, tta)
        for domain, tta in ((LIMBS, NetworkTTA()), (LIMBS, flip), (numb, flip))
    )
    for name in ("left-arm", "right-arm"):
        ious = [each.scores().per_class_iou[name] or 0 for each in (alone, swapped, unswapped)]
        assert ious[0] > 0.95
        assert ious[1] == ious[0]
        assert ious[2] < 0.6
    assert swapped.left_right(LIMBS.flip_pairs).overall == 0
    assert (unswapped.left_right(LIMBS.flip_pairs).overall or 0) > 0.3


def test_averaging_logits_and_probabilities_can_disagree():  # T-28
    scales = (0.5, 1.0, 1.5)
    logits = np.array([[0, 9], [3, 0], [3, 0]], float)
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    winners = {
        average: set(labels_of(BySize(), photo(), NetworkTTA(scales=scales, average=average)).flat)
        for average in ("logits", "probs")
    }
    assert winners == {
        "logits": {int(logits.mean(0).argmax())},
        "probs": {int(probs.mean(0).argmax())},
    }
    assert winners["logits"] != winners["probs"]


@pytest.mark.parametrize("average", ["logits", "probs"])
def test_scaled_and_mirrored_views_are_averaged_as_torch_would(average):
    net, image, scales = PixelLinear(CIHP), photo(64, 64), (1.0, 0.5, 1.5)
    total = torch.zeros(1, 20, 64, 64)
    for side in (64, 32, 96):
        how = cv2.INTER_AREA if side < 64 else cv2.INTER_LINEAR
        for mirrored in (False, True):
            seen = np.ascontiguousarray(image[:, ::-1] if mirrored else image)
            seen = cv2.resize(seen, (side, side), interpolation=how)
            mean, std = np.array([[123.675, 116.28, 103.53], [58.395, 57.12, 57.375]])
            pixels = torch.from_numpy((seen - mean) / std).permute(2, 0, 1)[None].float()
            with torch.no_grad():
                logits = net(pixels, ["cihp"])["cihp"]
            scores = logits.softmax(1) if average == "probs" else logits
            full = functional.interpolate(scores, (64, 64), mode="bilinear", align_corners=False)
            total += full[:, CIHP.flip_perm.tolist()].flip(-1) if mirrored else full
    wanted = total[0].argmax(0).numpy()
    found = labels_of(net, image, NetworkTTA(scales=scales, flip=True, average=average))
    assert (found == wanted).mean() > 0.999
    assert len(np.unique(wanted)) > 3


def test_each_scale_asks_the_photo_and_its_mirror_in_one_batch():
    net = PixelLinear(CIHP)
    labels_of(net, photo(), NetworkTTA(scales=(1.0, 0.5, 1.5), flip=True))
    assert net.seen == [(2, 3, 64, 64), (2, 3, 32, 32), (2, 3, 96, 96)]


def test_memory_does_not_grow_with_photo_times_views():
    net, image = PixelLinear(CIHP), photo(600, 450)
    tta = NetworkTTA(scales=SCALES["sst"], flip=True)
    tracemalloc.start()
    labels_of(net, image, tta)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    one_view_bytes = 20 * image.shape[0] * image.shape[1] * 4
    assert peak_bytes < one_view_bytes


def test_scaled_inputs_are_rounded_up_to_a_multiple_of_32():
    assert [scaled_hw((480, 480), scale)[0] for scale in SCALES["schnet"]] == [384, 480, 608, 736]
    assert scaled_hw((512, 384), 1.25) == (640, 480)
    assert scaled_hw((50, 50), 1.0) == (50, 50)  # for the network to refuse


def test_families_have_the_scales_and_averages_of_their_papers():
    choice = TTAChoice(name="ms+flip")
    assert choice.for_network("sst") == NetworkTTA(
        scales=(1.0, 0.5, 0.75, 1.25, 1.5, 1.75), flip=True, average="logits"
    )
    assert choice.for_network("schnet") == NetworkTTA(
        scales=(0.75, 1.0, 1.25, 1.5), flip=True, average="probs"
    )
    assert TTAChoice(name="flip").for_network("sst") == NetworkTTA(flip=True)
    asked = TTAChoice(name="ms", scales=(1.0, 2.0), average="probs")
    assert asked.for_network("sst") == NetworkTTA(scales=(1.0, 2.0), average="probs")


def test_views_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="up to 4"):
        TTAChoice(name="ms", scales=(1.0, 4.5)).for_bundle("sst")
    with pytest.raises(ConfigError, match=r"'flip'; use ms"):
        TTAChoice(name="flip", scales=(0.5,)).for_network("sst")
    with pytest.raises(ConfigError, match="one view"):
        TTAChoice(average="probs").for_bundle("sst")
    with pytest.raises(ConfigError, match="'twice'"):
        TTAChoice(name="twice").for_network("sst")
    with pytest.raises(ConfigError, match="up to 4"):
        NetworkTTA(scales=(75.0,))
    with pytest.raises(ConfigError, match="'max'"):
        NetworkTTA(average="max")  # pyright: ignore[reportArgumentType]


def test_a_bundle_gets_its_scales_inside_its_input():
    tta = TTAChoice(name="ms+flip", scales=(1.0, 0.5)).for_bundle("sst")
    assert (tta.scales, tta.flip, tta.average) == ((1.0, 0.5), True, "logits")
    assert max(TTAChoice(name="ms").for_bundle("sst").scales) <= 1


def write_list(root: Path, truths: dict[str, np.ndarray]) -> EvalConfig:
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for name, truth in truths.items():
        cv2.imwrite(str(root / "images" / f"{name}.png"), np.dstack([truth] * 3))
        cv2.imwrite(str(root / "labels" / f"{name}.png"), truth)
    (root / "val.txt").write_text("\n".join(truths) + "\n", "utf-8")
    return EvalConfig(str(root), "pascal")


def test_a_list_is_scored_image_by_image(tmp_path: Path):
    truths = {"a": np.full((6, 5), 1, np.uint8), "b": np.full((3, 4), 2, np.uint8)}
    entry = write_list(tmp_path / "set", truths)
    calls: list[int] = []

    def predict(image):  # the images carry their labels; every torso is called head
        return np.minimum(image[..., 0], 1)

    scores = evaluate_list(predict, entry, on_image=lambda: calls.append(1))
    assert (scores.images, len(calls)) == (2, 2)
    assert scores.pixel_acc == pytest.approx(30 / 42)
    assert scores.per_class_iou["head"] == pytest.approx(30 / 42)
    assert scores.per_class_iou["torso"] == 0


def test_an_answer_of_another_size_names_the_image(tmp_path: Path):
    entry = write_list(tmp_path / "set", {"odd": np.zeros((4, 4), np.uint8)})
    with pytest.raises(DataError, match=r"'odd'.*differ"):
        evaluate_list(lambda image: np.zeros((2, 2), np.uint8), entry)


def test_labels_in_a_permuted_domain_are_scored_in_its_order(tmp_path: Path):
    _, lut = alias_lut("pascal_m2fp")
    entry = write_list(tmp_path / "set", {"a": np.arange(7, dtype=np.uint8).reshape(1, 7)})

    def predict(image):
        return np.array(lut, np.uint8)[image[..., 0]]

    for name in ("pascal_m2fp", "ppp"):
        scores = evaluate_list(predict, replace(entry, domain=name))
        assert (scores.pixel_acc == 1) == (name == "pascal_m2fp")


def test_a_domains_own_ignored_id_is_ignored(tmp_path: Path):
    file = tmp_path / "parts.toml"
    file.write_text('names = ["background", "hat"]\nignore_index = 9\n', "utf-8")
    entry = write_list(tmp_path / "set", {"a": np.array([[0, 1, 9, 255]], np.uint8)})
    scores = evaluate_list(
        lambda image: np.array([[0, 1, 1, 1]], np.uint8), replace(entry, domain=str(file))
    )
    assert scores.pixel_acc == 1
    assert scores.miou == 1


def test_heads_are_found_by_name_other_name_and_file(tmp_path: Path):
    assert head_name("pascal", ["cihp", "pascal"]) == "pascal"
    assert head_name("ppp", ["pascal"]) == head_name("pascal_m2fp", ["pascal"]) == "pascal"
    file = tmp_path / "parts.toml"
    file.write_text('name = "mine"\nnames = ["background", "hat"]\n', "utf-8")
    assert head_name(str(file), ["cihp", "mine"]) == "mine"
    with pytest.raises(UnknownHead, match=r"'atr'.*cihp, lip"):
        head_name("atr", ["cihp", "lip"])


def test_a_network_without_the_head_is_refused_before_any_photo():
    with pytest.raises(UnknownHead, match="atr"):
        network_predictor(PixelLinear(CIHP), "atr", SPEC)  # type: ignore[arg-type]


def test_models_and_devices_that_are_not_there_are_refused(tmp_path: Path):
    with pytest.raises(ModelNotFound, match=r"none\.pt"):
        open_predictor(str(tmp_path / "none.pt"), "cihp")
    with pytest.raises(ConfigError, match="one fixed size"):
        open_predictor(str(tmp_path), "cihp", size_hw=(64, 64))
    with pytest.raises(BackendUnavailable, match="cuda:99"):
        torch_device("cuda:99")
    with pytest.raises(ConfigError, match="'gpu'"):
        torch_device("gpu")
    assert torch_device("cpu") == "cpu"
