"""The comparison of an artifact with its network, and the pictures it uses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from hp_export.probes import figure, probe_images
from hp_export.strip import bare_network
from hp_export.verify import TOLERANCES, Agreement, Reference, compare, verify
from hp_export.write import ExportReport
from hp_sdk.errors import VerificationFailed
from hp_trainer.checkpoint import Checkpoint
from hp_trainer.models.sst import MEAN, STD

FP32 = TOLERANCES["fp32"]


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 5, 20, 20)).astype(np.float32)


def agreement(expected: np.ndarray, found: np.ndarray) -> Agreement:
    return compare(expected, found, head="cihp", batch=1)


def test_equal_logits_agree_perfectly(logits: np.ndarray) -> None:
    same = agreement(logits, logits.copy())
    assert (same.max_abs, same.margin, same.nans, same.images) == (0, 0, 0, 2)
    assert (same.label_agreement, same.miou) == (1, 1)
    assert same.within(FP32)


def test_rounding_is_within_tolerance(logits: np.ndarray) -> None:
    assert agreement(logits, logits + np.float32(1e-6)).within(FP32)


def test_one_wrong_logit_is_noticed(logits: np.ndarray) -> None:
    found = logits.copy()
    found[1, 2, 3, 4] += 0.1
    assert agreement(logits, found).max_abs == pytest.approx(0.1, rel=1e-4)
    assert not agreement(logits, found).within(FP32)


def test_tolerance_grows_with_the_logits(logits: np.ndarray) -> None:
    large = 1000 * logits
    assert agreement(large, large + np.float32(0.1)).within(FP32)


def test_labels_must_agree_even_where_logits_are_close() -> None:
    expected = np.zeros((1, 2, 10, 10), np.float32)
    expected[:, 0] = 1e-4
    swapped = agreement(expected, expected[:, ::-1].copy())
    assert swapped.max_abs <= FP32.max_abs
    assert swapped.label_agreement == 0
    assert not swapped.within(FP32)


def test_the_margin_says_how_sure_the_network_was_where_labels_differ() -> None:
    expected = np.zeros((1, 3, 1, 3), np.float32)
    expected[0, :, 0] = np.array([[3, 0, 0], [9, 0, 0], [2, 1.5, 0]]).T  # one column per pixel
    expected = expected.transpose(0, 1, 2, 3)
    found = expected.copy()
    found[0, 1, 0, 2] = 5  # the third pixel becomes class 1
    result = agreement(expected, found)
    assert result.margin == pytest.approx(0.5)
    assert result.label_agreement == pytest.approx(2 / 3)


def test_iou_counts_the_classes_present_in_either() -> None:
    expected = np.zeros((1, 4, 1, 4), np.float32)
    expected[0, 0, 0, :2] = expected[0, 1, 0, 2:] = 1
    found = np.zeros_like(expected)
    found[0, 0, 0, :3] = found[0, 1, 0, 3:] = 1
    assert agreement(expected, found).miou == pytest.approx((2 / 3 + 1 / 2) / 2)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_single_value_that_is_no_number_fails(logits: np.ndarray, value: float) -> None:
    found = logits.copy()
    found[0, 0, 0, 0] = value
    result = agreement(logits, found)
    assert result.nans == 1
    assert not replace(result, max_abs=0.0, label_agreement=1.0).within(FP32)


def test_another_shape_is_refused(logits: np.ndarray) -> None:
    with pytest.raises(VerificationFailed, match="the artifact answers"):
        agreement(logits, logits[:, :, ::2])


def test_probes_are_the_same_every_time_and_all_different() -> None:
    first, second = probe_images((48, 64)), probe_images((48, 64))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert len({image.tobytes() for image in first.values()}) == len(first) >= 6
    for image in first.values():
        assert image.shape == (48, 64, 3)
        assert image.dtype == np.uint8


def test_the_figure_fits_into_narrow_and_wide_pictures() -> None:
    for size_hw in ((32, 32), (256, 96), (64, 200)):
        picture = figure(size_hw)
        assert picture.shape == (*size_hw, 3)
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10


def test_the_reference_normalises_by_itself(plain_network: nn.Module) -> None:
    reference = Reference(plain_network, ["pascal"], mean=MEAN, std=STD)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    image = (pixels.astype(np.float64) - MEAN) / STD
    with torch.inference_mode():
        expected = plain_network(torch.from_numpy(image.transpose(0, 3, 1, 2)).float())["pascal"]
    np.testing.assert_allclose(reference(pixels)["pascal"], expected, rtol=1e-5, atol=1e-5)


def test_a_good_artifact_passes_alone_in_pairs_and_in_its_largest_batch(
    exported: ExportReport, checkpoint: Checkpoint
) -> None:
    reference = Reference(bare_network(checkpoint), ["pascal", "cihp"], mean=MEAN, std=STD)
    entries = verify(exported.bundle, reference)
    assert {(e["head"], e["batch"], e["images"]) for e in entries} == {
        (head, batch, images)
        for head in ("pascal", "cihp")
        for batch, images in ((1, 7), (2, 2), (16, 16))
    }
    assert {e["verdict"] for e in entries} == {"pass"}
    assert max(e["max_abs"] for e in entries) < 1e-4


@pytest.mark.parametrize("wrong", ["normalisation", "weights"])
def test_an_artifact_of_another_network_fails(
    exported: ExportReport, checkpoint: Checkpoint, wrong: str
) -> None:
    network = bare_network(checkpoint)
    std = (50.0, 50.0, 50.0) if wrong == "normalisation" else STD
    if wrong == "weights":
        with torch.no_grad():
            network.get_parameter("heads.pascal.bias")[1] += 0.1
    reference = Reference(network, ["pascal", "cihp"], mean=MEAN, std=std)
    with pytest.raises(VerificationFailed, match=r"head pascal at batch 1.*no bundle was written"):
        verify(exported.bundle, reference)
