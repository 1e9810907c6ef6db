"""Left and right, checked by their names: a wrong flip pair is silent until somebody flips."""

from __future__ import annotations

import re

from hp_sdk.domains import Domain
from hp_sdk.errors import VerificationFailed

_SIDES = {"left": "right", "right": "left"}


def check_flip_pairs(domain: Domain) -> None:
    """Every `left-x` must swap with `right-x` where both exist, and with nothing else.

    Parts without a side in their names may swap as the domain says.

    Raises:
        VerificationFailed: a pair contradicts the names.
    """
    swaps = domain.flip_perm
    for k, name in enumerate(domain.names):
        twin = other_side(name)
        if twin in domain.names and domain.names[swaps[k]] != twin:
            raise VerificationFailed(
                f"domain {domain.name!r} swaps {name!r} with {domain.names[swaps[k]]!r} when a "
                f"picture is flipped; its twin is {twin!r}; correct flip_pairs and train again"
            )


def other_side(name: str) -> str | None:
    """The name with left and right exchanged; None if it has neither."""
    words = re.split(r"([^a-z]+)", name.lower())
    if not any(word in _SIDES for word in words):
        return None
    return "".join(_SIDES.get(word, word) for word in words)
