"""Losses against numpy and against their definition."""

import numpy as np
import torch

from hp_trainer.losses import admissible_nll, cross_entropy, lovasz_softmax, subsample_labels


def random_case(seed: int = 0, classes: int = 4, size: int = 6):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, size, size, generator=generator)
    labels = torch.randint(0, classes, (2, size, size), generator=generator)
    return logits, labels


def mean_nll(logits: torch.Tensor, labels: torch.Tensor, sets: torch.Tensor) -> torch.Tensor:
    total, count = admissible_nll(logits, labels, sets)
    return total / count.clamp(min=1)


def test_cross_entropy_is_the_mean_over_valid_pixels():
    logits, labels = random_case()
    labels[0, :3] = 255
    p = logits.softmax(1)
    wanted = [
        -p[n, labels[n, y, x], y, x].log().item()
        for n in range(2)
        for y in range(6)
        for x in range(6)
        if labels[n, y, x] != 255
    ]
    assert np.isclose(cross_entropy(logits, labels).item(), np.mean(wanted), atol=1e-6)


def test_a_batch_without_labels_costs_nothing_and_has_a_gradient():
    logits, labels = random_case()
    logits.requires_grad_()
    labels[:] = 255
    for loss in (
        cross_entropy(logits, labels),
        lovasz_softmax(logits, labels),
        mean_nll(logits, labels, torch.eye(4, dtype=torch.bool)),
    ):
        assert loss.item() == 0
        loss.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_singleton_sets_are_the_cross_entropy():
    logits, labels = random_case()
    labels[1, 2] = 255
    sets = torch.eye(4, dtype=torch.bool)
    assert torch.allclose(mean_nll(logits, labels, sets), cross_entropy(logits, labels))


def test_a_set_is_satisfied_by_any_of_its_classes():
    labels = torch.zeros(1, 1, 1, dtype=torch.long)
    sets = torch.tensor([[True, True, False], [False, False, True]])
    for wanted in (0, 1):
        logits = torch.full((1, 3, 1, 1), -20.0)
        logits[0, wanted] = 20.0
        assert mean_nll(logits, labels, sets).item() < 1e-6
    logits = torch.tensor([-20.0, -20.0, 20.0]).reshape(1, 3, 1, 1)
    assert mean_nll(logits, labels, sets).item() > 10


def test_a_label_that_admits_nothing_is_ignored():
    logits, labels = random_case()
    sets = torch.zeros(4, 4, dtype=torch.bool)
    sets[0, 0] = True
    only_zero = torch.where(labels == 0, labels, 255)
    wanted = cross_entropy(logits, only_zero)
    assert torch.allclose(mean_nll(logits, labels, sets), wanted)


def test_lovasz_on_hard_predictions_is_the_mean_iou_loss():
    _, labels = random_case(1)
    wrong = labels.clone()
    wrong[0, :2] = (wrong[0, :2] + 1) % 4
    logits = torch.nn.functional.one_hot(wrong, 4).permute(0, 3, 1, 2) * 200.0
    ious = [
        ((wrong == c) & (labels == c)).sum() / ((wrong == c) | (labels == c)).sum()
        for c in range(4)
    ]
    assert torch.allclose(lovasz_softmax(logits, labels), 1 - torch.stack(ious).mean(), atol=1e-5)


def test_ignored_pixels_do_not_move_the_lovasz_loss():
    logits, labels = random_case(2)
    labels[0, 0] = 255
    other = logits.clone()
    other[0, :, 0] += 5 * torch.randn(4, 6)
    assert torch.allclose(lovasz_softmax(logits, labels), lovasz_softmax(other, labels), atol=1e-6)


def test_subsampled_labels_come_from_the_middle_of_their_cells():
    labels = torch.arange(16).reshape(1, 4, 4)
    assert subsample_labels(labels, 2).tolist() == [[[5, 7], [13, 15]]]
    assert subsample_labels(labels, 1) is labels
