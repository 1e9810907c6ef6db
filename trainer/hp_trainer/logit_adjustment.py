"""Shift the background logit of a trained head to where person and background part best.

Where six parts share the probability of a person, the background can be the likeliest class of a
pixel that most probably shows a person, so arg-max misses people. A constant taken from the
background's logit corrects it; it becomes part of the head's bias and costs nothing.

Source: Long-tail learning via logit adjustment, arXiv:2007.07314, Section 4.1 (post hoc); here the
one constant is chosen for the person IoU on training photographs, which it is there to correct.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from hp_sdk.bundle import InputSpec
from hp_sdk.postprocess import label_map
from hp_sdk.preprocess import fit
from hp_trainer.checkpoint import Checkpoint
from hp_trainer.config import EvalConfig
from hp_trainer.evaluate import labelled_domain, open_list
from hp_trainer.metrics import Confusion
from hp_trainer.models.sst import SST, normalise

SHIFTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.3, 1.6, 2.0)
"""Candidates, in units of the logits."""


@torch.inference_mode()
def score_shifts(
    net: SST, spec: InputSpec, entry: EvalConfig, shifts: Sequence[float] = SHIFTS
) -> dict[float, float]:
    """Shift of the background logit → IoU of person (any part) on the list."""
    photos = open_list(entry)
    domain = labelled_domain(photos)
    counts = {shift: Confusion(domain.names) for shift in shifts}
    rng = np.random.default_rng(0)
    for index in range(len(photos)):
        image, labels = photos.load(index, rng)
        pixels, geometry = fit(image, spec)
        logits = net(normalise(torch.from_numpy(pixels)), [domain.name])[domain.name][0].numpy()
        for shift, confusion in counts.items():
            moved = logits.copy()
            moved[0] -= shift
            confusion.add(labels[domain.name], label_map(moved, geometry))
    return {shift: confusion.scores().person_iou for shift, confusion in counts.items()}


def best_shift(scores: dict[float, float]) -> float:
    """The shift with the highest score; the smaller one of equals."""
    return max(sorted(scores), key=lambda shift: scores[shift])


def shift_background(checkpoint: Checkpoint, shifts: dict[str, float]) -> Checkpoint:
    """The checkpoint with `shift` taken from the background bias of each named head.

    The sum of all shifts of a head is kept in `train["background_shift"]`.
    """
    model = dict(checkpoint.model)
    told: dict[str, Any] = dict(checkpoint.train.get("background_shift", {}))
    for name, shift in shifts.items():
        bias = model[f"heads.{name}.bias"].clone()
        bias[0] -= shift
        model[f"heads.{name}.bias"] = bias
        told[name] = told.get(name, 0.0) + shift
    return replace(checkpoint, model=model, train={**checkpoint.train, "background_shift": told})
