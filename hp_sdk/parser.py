"""Photo in, parts out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, TypedDict, Unpack, overload

from hp_sdk.backends import Backend, open_backend
from hp_sdk.bundle import Bundle, read_bundle
from hp_sdk.domains import Domain, canonical
from hp_sdk.errors import ConfigError, UnknownHead
from hp_sdk.image import Color, Source
from hp_sdk.models import find_bundle
from hp_sdk.recipe import NamedSource, Request, parse_photos
from hp_sdk.result import Result
from hp_sdk.tta import TTA, choose_tta

_DEFAULT_HEAD = "cihp"


class _AsLoaded:
    """Stands for the `tta` the parser was loaded with, because None means none."""

    def __repr__(self) -> str:
        return "as loaded"


AS_LOADED: Final = _AsLoaded()


class PredictOptions(TypedDict, total=False):
    """Options of `Parser.predict` that never change the type of the answer."""

    color: Color | None
    tta: TTA | str | _AsLoaded | None
    confidence: bool
    logits: bool
    batch_size: int | None


class Parser:
    """A loaded model.  `predict` may be called from several threads at once.

    Use `Parser.load`; the constructor joins a bundle and an open backend, as tests do.  Close
    the parser, or use it in a `with` statement, where memory matters.
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        *,
        head: str | None = None,
        tta: TTA | str | None = None,
        batch_size: int | Literal["auto"] = "auto",
    ) -> None:
        self.bundle = bundle
        self.head = _head_name(bundle, head)
        self._backend = backend
        self._tta = choose_tta(tta, family=bundle.family)
        self._batch_size = _checked_batch_size(batch_size, auto=backend.facts.batch_opt)

    @classmethod
    def load(  # noqa: PLR0913 - the public contract; users pass the options by name
        cls,
        model: str | os.PathLike[str] = "cihp",
        *,
        backend: str = "auto",
        device: str | None = None,
        precision: str = "auto",
        batch_size: int | Literal["auto"] = "auto",
        tta: TTA | str | None = None,
        allow_fallback: bool = False,
        cache_dir: str | os.PathLike[str] | None = None,
        offline: bool | None = None,
        providers: Sequence[Any] | None = None,
        session_options: Any = None,
        num_threads: int | None = None,
    ) -> Self:
        """Find a bundle, check its files and open it.

        Args:
            model: "cihp", "lip", "atr", "pascal" or "ccp" of the bundled model, the name of a
                model added with hp-models, or the folder of a bundle.
            backend: "auto" or "onnxruntime".
            device: None or "auto", "cpu", "cuda", "cuda:0".  A device asked for by name works or
                raises.
            precision: "auto", or a precision the bundle holds.
            batch_size: network inputs at once; "auto" takes the bundle's own number.
            tta: None, "none", "flip", "ms", "ms+flip" or a `TTA`.
            allow_fallback: accept the CPU where the device asked for is not there; the receipt
                says so.
            cache_dir: for engines built on this machine; not used by ONNX Runtime.
            offline: no effect yet: nothing is fetched while loading.
            providers: ONNX Runtime's own provider list, instead of `device`.
            session_options: ONNX Runtime's own `SessionOptions`, instead of `num_threads`.
            num_threads: threads of the network; None leaves the choice to the runtime.

        Raises:
            ModelNotFound: no such model; the message lists what there is.
            ModelError: the bundle or one of its files is damaged.
            BackendError: the runtime or the device is not there.
            ConfigError: an option is not allowed.
        """
        del cache_dir, offline
        folder, head = find_bundle(model if isinstance(model, str) else Path(model))
        bundle = read_bundle(folder)
        choose_tta(tta, family=bundle.family)  # a misspelt option should cost no loading
        _checked_batch_size(batch_size, auto=1)
        opened = open_backend(
            bundle,
            backend=backend,
            precision=precision,
            device=device,
            num_threads=num_threads,
            allow_fallback=allow_fallback,
            providers=providers,
            session_options=session_options,
        )
        try:
            return cls(bundle, opened, head=head, tta=tta, batch_size=batch_size)
        except BaseException:
            opened.close()
            raise

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the label domains the model answers."""
        return tuple(self.bundle.heads)

    @property
    def domain(self) -> Domain:
        """What the labels of `predict` mean."""
        return self.bundle.heads[self.head].domain

    @property
    def domains(self) -> Mapping[str, Domain]:
        """Label domain of each head."""
        return {name: head.domain for name, head in self.bundle.heads.items()}

    @property
    def batch_size(self) -> int:
        """Network inputs at once."""
        return self._batch_size

    @overload
    def predict(
        self,
        source: list[Any] | tuple[Any, ...],
        *,
        domains: None = None,
        **options: Unpack[PredictOptions],
    ) -> list[Result]: ...
    @overload
    def predict(
        self,
        source: list[Any] | tuple[Any, ...],
        *,
        domains: Sequence[str],
        **options: Unpack[PredictOptions],
    ) -> list[dict[str, Result]]: ...
    @overload
    def predict(
        self, source: Source, *, domains: None = None, **options: Unpack[PredictOptions]
    ) -> Result: ...
    @overload
    def predict(
        self, source: Source, *, domains: Sequence[str], **options: Unpack[PredictOptions]
    ) -> dict[str, Result]: ...

    def predict(  # noqa: PLR0913 - the public contract; users pass the options by name
        self,
        source: Any,
        *,
        color: Color | None = None,
        tta: TTA | str | _AsLoaded | None = AS_LOADED,
        domains: Sequence[str] | None = None,
        confidence: bool = False,
        logits: bool = False,
        batch_size: int | None = None,
    ) -> Any:
        """Parse one photo, or a list of photos in batches.

        The result is in the photo's own pixels and keeps a reference to an array given, not a
        copy.  One source gives one answer and a list gives a list.

        Args:
            source: path, bytes, open binary file, array (H, W, 3), PIL image; or a list of them.
            color: channel order of arrays, "rgb" (also if None) or "bgr".
            tta: instead of the one the parser was loaded with.
            domains: heads to answer from one pass of the network; the answer is then a dict from
                head to `Result`.
            confidence: also give the winner's probability per pixel.
            logits: also give the network's logits (K, h/4, w/4) of the plain view.
            batch_size: network inputs at once, instead of the parser's own number.

        Raises:
            InputError: a source is not a usable photo.
            UnknownHead: the model has no such domain.
            BackendError: the runtime failed, or the parser is closed.
        """
        request = Request(
            heads=self._heads_of(domains),
            tta=self._tta_of(tta),
            color=color,
            confidence=confidence,
            logits=logits,
        )
        answers = [
            answer
            for batch in _in_batches(source, self._photos_at_once(batch_size, request.tta))
            for answer in parse_photos(batch, self.bundle, self._backend, request)
        ]
        if domains is None:
            answers = [answer[self.head] for answer in answers]
        return answers if isinstance(source, (list, tuple)) else answers[0]

    def close(self) -> None:
        """Free the model; a later `predict` raises BackendError."""
        self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        facts, (height, width) = self._backend.facts, self._backend.input_hw
        return (
            f"Parser({self.bundle.name} {self.bundle.version}, head {self.head} with "
            f"{self.domain.num_classes} classes, {self._backend.name} on {self._backend.provider}, "
            f"{facts.precision} {height}x{width}, tta {self._tta})"
        )

    def _heads_of(self, domains: Sequence[str] | None) -> tuple[str, ...]:
        if domains is None:
            return (self.head,)
        if isinstance(domains, str) or not domains:
            raise ConfigError(f"domains is {domains!r}; give a list such as ['cihp', 'atr']")
        return tuple(_head_name(self.bundle, name) for name in domains)

    def _tta_of(self, tta: TTA | str | _AsLoaded | None) -> TTA:
        return (
            self._tta if isinstance(tta, _AsLoaded) else choose_tta(tta, family=self.bundle.family)
        )

    def _photos_at_once(self, batch_size: int | None, tta: TTA) -> int:
        given = "auto" if batch_size is None else batch_size
        size = _checked_batch_size(given, auto=self._batch_size)
        return max(1, size // tta.num_views)


def _head_name(bundle: Bundle, head: str | None) -> str:
    if head is None:
        return _DEFAULT_HEAD if _DEFAULT_HEAD in bundle.heads else next(iter(bundle.heads))
    for name in (head, canonical(head)):
        if name in bundle.heads:
            return name
    raise UnknownHead(
        f"bundle {bundle.name!r} has no head {head!r}; it has {', '.join(bundle.heads)}"
    )


def _checked_batch_size(batch_size: int | Literal["auto"], *, auto: int) -> int:
    if batch_size == "auto":
        return auto
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size!r}; allowed are 'auto' and 1 or more")
    return batch_size


def _in_batches(source: Any, size: int) -> Iterator[list[NamedSource]]:
    if not isinstance(source, (list, tuple)):
        yield [NamedSource(source)]
        return
    count = len(source)
    named = [NamedSource(each, f"photo {i} of {count}: ") for i, each in enumerate(source, start=1)]
    yield from (named[first : first + size] for first in range(0, count, size))
