"""What a caller may ask of a parser, checked before any work is done for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, TypedDict

from hp_sdk.backends.base import Backend
from hp_sdk.bundle import Bundle
from hp_sdk.device_recipe import recipe_for
from hp_sdk.domains import canonical
from hp_sdk.errors import ConfigError, UnknownHead
from hp_sdk.image import Color
from hp_sdk.recipe import Recipe, Request
from hp_sdk.tta import TTA, choose_tta

_DEFAULT_HEAD = "cihp"


class AsLoaded:
    """Stands for the `tta` the parser was loaded with, because None means none."""

    def __repr__(self) -> str:
        return "as loaded"


AS_LOADED: Final = AsLoaded()
OnError: TypeAlias = Literal["raise", "return"]


class AnswerOptions(TypedDict, total=False):
    """What to answer about a photo, as far as it does not change the type of the answer."""

    color: Color | None
    tta: TTA | str | AsLoaded | None
    confidence: bool
    logits: bool
    labels_device: bool


class PredictOptions(AnswerOptions, total=False):
    """Options of `Parser.predict`."""

    batch_size: int | None


class StreamOptions(PredictOptions, total=False):
    """Options of `Parser.stream`."""

    ahead: int | None
    smooth: float


class SubmitOptions(AnswerOptions, total=False):
    """Options of `Parser.submit` and `ParseQueue.submit`."""

    timeout_s: float | None


@dataclass(frozen=True, slots=True)
class RecipeBook:
    """Turns options into a recipe; what is not given is as the parser was loaded."""

    bundle: Bundle
    backend: Backend
    head: str
    tta: TTA

    def recipe(
        self,
        domains: Sequence[str] | None = None,
        *,
        color: Color | None = None,
        tta: TTA | str | AsLoaded | None = AS_LOADED,
        confidence: bool = False,
        logits: bool = False,
        labels_device: bool = False,
    ) -> Recipe:
        """How to answer with these options.

        Raises:
            UnknownHead: the model has no such domain.
            ConfigError: an option is not allowed.
        """
        request = Request(
            heads=self._heads_of(domains),
            tta=self.tta if isinstance(tta, AsLoaded) else self._tta_named(tta),
            color=color,
            confidence=confidence,
            logits=logits,
            labels_device=labels_device,
            by_head=domains is not None,
        )
        return recipe_for(self.bundle, self.backend, request)

    def _heads_of(self, domains: Sequence[str] | None) -> tuple[str, ...]:
        if domains is None:
            return (self.head,)
        if isinstance(domains, str) or not domains:
            raise ConfigError(f"domains is {domains!r}; give a list such as ['cihp', 'atr']")
        return tuple(head_name(self.bundle, name) for name in domains)

    def _tta_named(self, tta: TTA | str | None) -> TTA:
        return choose_tta(tta, family=self.bundle.family)


def head_name(bundle: Bundle, head: str | None) -> str:
    """The bundle's own name of a head; None is "cihp", or else the first there is.

    Raises:
        UnknownHead: there is no such head; the message lists what there is.
    """
    if head is None:
        return _DEFAULT_HEAD if _DEFAULT_HEAD in bundle.heads else next(iter(bundle.heads))
    for name in (head, canonical(head)):
        if name in bundle.heads:
            return name
    raise UnknownHead(
        f"bundle {bundle.name!r} has no head {head!r}; it has {', '.join(bundle.heads)}"
    )


def checked_batch_size(batch_size: int | Literal["auto"], *, auto: int) -> int:
    """A batch size as a number.

    Raises:
        ConfigError: it is neither "auto" nor 1 or more.
    """
    return auto if batch_size == "auto" else checked_count("batch_size", batch_size, also="'auto'")


def checked_count(name: str, count: int, *, also: str = "None") -> int:
    """An option that counts photos or network inputs.

    Raises:
        ConfigError: it is no whole number from 1.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(f"{name} is {count!r}; allowed are {also} and 1 or more")
    return count


def photos_per_run(batch_size: int, tta: TTA) -> int:
    """Photos whose views together fill a batch of network inputs."""
    return max(1, batch_size // tta.num_views)
