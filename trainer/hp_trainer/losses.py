"""Losses on label maps. Label 255 is ignored everywhere; a batch without valid pixels costs 0."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

IGNORED = 255
TINY = 1e-30
"""Least weight of the admissible classes beside the likeliest one, so that a loss is finite."""


def resize_logits(logits: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """(N, Z, h, w) → (N, Z, *size_hw), bilinear with half-pixel centres, float32."""
    if logits.shape[-2:] == torch.Size(size_hw):
        return logits.float()
    return functional.interpolate(logits.float(), size=size_hw, mode="bilinear")


def subsample_labels(labels: Tensor, stride: int) -> Tensor:
    """Every `stride`-th label from the middle of its cell: (N, H, W) → (N, H/stride, W/stride)."""
    return labels[:, stride // 2 :: stride, stride // 2 :: stride] if stride > 1 else labels


def at_loss_size(logits: Tensor, labels: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Logits (N, Z, h, w) and labels (N, H, W), both at (H/stride, W/stride)."""
    labels = subsample_labels(labels, stride)
    return resize_logits(logits, (int(labels.shape[1]), int(labels.shape[2]))), labels


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over valid pixels. `logits` (N, Z, H, W), `labels` (N, H, W) int64."""
    total = functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


def mean_over_images(
    loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor
) -> Tensor:
    """Mean of a loss over the images (N, ...) that have a valid pixel; 0 if none has."""
    valid = (labels != IGNORED).flatten(1).any(1)
    each = [loss(logits[i : i + 1], labels[i : i + 1]) for i in range(len(labels))]
    return (torch.stack(each) * valid).sum() / valid.sum().clamp(min=1)


def admissible_nll(logits: Tensor, labels: Tensor, sets: Tensor) -> tuple[Tensor, Tensor]:
    """Loss on labels of another domain: -log of the summed probability of the admissible classes.

    `logits` (N, Z_target, H, W); `labels` (N, H, W) in the source domain; `sets`
    (Z_source, Z_target) bool, True where a target class may stand for the source label. Returns the
    sum over all pixels, and how many counted: a label that admits nothing is ignored.
    """
    source = torch.where(labels == IGNORED, 0, labels)
    valid = (labels != IGNORED) & sets.any(1)[source]
    logits = logits.float().movedim(1, -1)[valid]  # (P, Z_target)
    weight = (logits - logits.amax(1, keepdim=True).detach()).exp()
    allowed = (weight * sets[source[valid]]).sum(1).clamp(min=TINY)
    return (weight.sum(1).log() - allowed.log()).sum(), valid.sum()


def lovasz_softmax(logits: Tensor, labels: Tensor) -> Tensor:
    """Lovász extension of the mean IoU loss over the classes present in the batch.

    `logits` (N, Z, H, W), `labels` (N, H, W) int64.

    Source: The Lovász-Softmax loss, arXiv:1705.08790, Eqs. (7)–(9).
    """
    valid = labels != IGNORED
    target = torch.where(valid, labels, logits.shape[1]).reshape(-1)  # (P,)
    foreground = functional.one_hot(target, logits.shape[1] + 1).T[:-1]  # (Z, P)
    present = foreground.any(1)
    if not present.any():
        return logits.sum() * 0
    foreground = foreground[present].to(torch.float32)
    probability = logits.float().softmax(1).transpose(0, 1).flatten(1)[present]  # (Z, P)
    # an ignored pixel has error 0 and sorts last, where it changes no other pixel's weight
    error = (foreground - probability).abs() * valid.reshape(-1)
    error, order = error.sort(1, descending=True)
    weight = _lovasz_gradient(foreground.gather(1, order))
    return (error * weight).sum(1).mean()


def soft_iou(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - mean IoU of the probabilities, over the classes present in the batch.

    `logits` (N, Z, H, W), `labels` (N, H, W) int64.

    Source: Optimizing intersection-over-union in deep neural networks, ISVC 2016, Section 3.
    """
    valid = (labels != IGNORED).reshape(-1)
    target = torch.where(labels != IGNORED, labels, 0).reshape(-1)  # (P,)
    foreground = functional.one_hot(target, logits.shape[1]).T * valid  # (Z, P)
    present = foreground.any(1)
    if not present.any():
        return logits.sum() * 0
    foreground = foreground[present].to(torch.float32)
    probability = logits.float().softmax(1).transpose(0, 1).flatten(1)[present] * valid
    intersection = (foreground * probability).sum(1)
    union = (foreground + probability).sum(1) - intersection
    return 1 - (intersection / union).mean()


def _lovasz_gradient(foreground: Tensor) -> Tensor:
    """Gradient of the Jaccard extension along sorted errors: (Z, P) → (Z, P)."""
    total = foreground.sum(1, keepdim=True)
    intersection = total - foreground.cumsum(1)
    union = total + (1 - foreground).cumsum(1)
    jaccard = 1 - intersection / union
    return torch.cat([jaccard[:, :1], jaccard[:, 1:] - jaccard[:, :-1]], 1)
