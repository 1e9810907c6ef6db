"""T-42: the mean IoU part of SCHNet's loss on cases small enough to count."""

import pytest
import torch

from hp_trainer.losses import lovasz_softmax


def logits_of(probabilities):
    """(P, Z) probabilities of the pixels of one row → logits (1, Z, 1, P)."""
    return torch.tensor(probabilities).log().T[None, :, None]


def labels_of(*labels):
    return torch.tensor(labels)[None, None]


def test_four_pixels_by_hand():
    # class 1 is on pixels 0 and 1; errors .1 .4 | .3 .2 sort to .4(fg) .3(bg) .2(bg) .1(fg):
    # Jaccard losses 1/2, 2/3, 3/4, 1 and so weights 1/2, 1/6, 1/12, 1/4.
    class_1 = 0.4 / 2 + 0.3 / 6 + 0.2 / 12 + 0.1 / 4
    # class 0 is on pixels 2 and 3 with the same errors: .4(bg) .3(fg) .2(fg) .1(bg):
    # Jaccard losses 1/3, 2/3, 1, 1 and so weights 1/3, 1/3, 1/3, 0.
    class_0 = (0.4 + 0.3 + 0.2) / 3
    logits = logits_of([[0.1, 0.9], [0.4, 0.6], [0.7, 0.3], [0.8, 0.2]])
    loss = lovasz_softmax(logits, labels_of(1, 1, 0, 0))
    assert loss.item() == pytest.approx((class_0 + class_1) / 2, abs=1e-6)


def test_a_perfect_prediction_costs_nothing():
    logits = torch.full((1, 3, 1, 3), -100.0)
    for pixel, label in enumerate((2, 0, 1)):
        logits[0, label, 0, pixel] = 100.0
    assert lovasz_softmax(logits, labels_of(2, 0, 1)).item() == pytest.approx(0, abs=1e-6)


def test_a_larger_error_costs_more():
    losses = [
        lovasz_softmax(
            logits_of([[1 - p, p], [0.4, 0.6], [0.7, 0.3], [0.8, 0.2]]), labels_of(1, 1, 0, 0)
        ).item()
        for p in (0.9, 0.7, 0.5, 0.3, 0.1)
    ]
    assert losses == sorted(losses)
    assert losses[0] < losses[-1]
