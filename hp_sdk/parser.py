"""Photo in, parts out."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any, Literal, Self, Unpack, overload

from hp_sdk.backends import Backend, open_backend
from hp_sdk.bundle import Bundle, read_bundle
from hp_sdk.domains import Domain
from hp_sdk.elastic import ElasticBackend
from hp_sdk.errors import BackendError, InputError
from hp_sdk.gpu.pipeline import DevicePipeline
from hp_sdk.image import Color, Source
from hp_sdk.models import find_bundle
from hp_sdk.options import (
    AS_LOADED,
    AnswerOptions,
    AsLoaded,
    OnError,
    PredictOptions,
    RecipeBook,
    StreamOptions,
    SubmitOptions,
    checked_batch_size,
    head_name,
    photos_per_run,
)
from hp_sdk.queueing import ParseQueue
from hp_sdk.recipe import NamedSource, named
from hp_sdk.result import Result
from hp_sdk.smoothing import Smoother
from hp_sdk.sources import Item
from hp_sdk.streaming import stream
from hp_sdk.tta import TTA, choose_tta


class Parser:
    """A loaded model.  One serves a whole program: any thread may call any method at any time.

    `predict` works in the thread that calls it, and the runtime lets several through at once.
    `stream` belongs to the thread that iterates and has helper threads until it ends or is closed.
    `submit` joins what all threads ask for.  All give the answers of one photo at a time, up to
    the runtime's rounding.  Where the device runs out of memory, batches shrink and stay small.

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
        self.head = head_name(bundle, head)
        self._backend = ElasticBackend(backend)
        self._tta = choose_tta(tta, family=bundle.family)
        self._batch_size = checked_batch_size(batch_size, auto=backend.facts.batch_opt)
        self._book = RecipeBook(bundle, self._backend, self.head, self._tta)
        self._lock = Lock()  # guards the two below
        self._queue: ParseQueue | None = None
        self._closed = False

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
            backend: "auto", "tensorrt", "tensorrt-rtx", "onnxruntime", "openvino" or "torch".
            device: None or "auto", "cpu", "cuda", "cuda:0"; "GPU" or "NPU" (Intel, through
                OpenVINO).  A device asked for by name works or raises.
            precision: "auto", a precision the bundle holds, or "bf16" where OpenVINO computes in
                it.
            batch_size: network inputs at once; "auto" takes the bundle's own number.
            tta: None, "none", "flip", "ms", "ms+flip", a paper's set ("graphonomy", "schnet", both
                also with "+flip") or a `TTA`.
            allow_fallback: accept the CPU where the device asked for is not there; the receipt
                says so.
            cache_dir: root folder instead of HP_HOME: models added there are found, and what a
                runtime compiles (OpenVINO) is kept in it.  With None nothing is written.
            offline: no effect yet: nothing is fetched while loading.
            providers: ONNX Runtime's own provider list, instead of `device`.
            session_options: a mapping of the runtime's own settings: attributes of ONNX Runtime's
                `SessionOptions` (or such an object whole), properties of OpenVINO.
            num_threads: threads of the network; None leaves the choice to the runtime.

        Raises:
            ModelNotFound: no such model; the message lists what there is.
            ModelError: the bundle or one of its files is damaged.
            BackendError: the runtime or the device is not there.
            ConfigError: an option is not allowed.
        """
        del offline
        root = None if cache_dir is None else Path(cache_dir).expanduser()
        folder, head = find_bundle(model if isinstance(model, str) else Path(model), root=root)
        bundle = read_bundle(folder)
        choose_tta(tta, family=bundle.family)  # a misspelt option should cost no loading
        checked_batch_size(batch_size, auto=1)
        opened = open_backend(
            bundle,
            backend=backend,
            precision=precision,
            device=device,
            num_threads=num_threads,
            allow_fallback=allow_fallback,
            providers=providers,
            session_options=session_options,
            cache_dir=root,
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
        """Network inputs at once; fewer than asked for after the device ran out of memory."""
        return min(self._batch_size, self._backend.limit or self._batch_size)

    @property
    def pipeline(self) -> DevicePipeline | None:
        """The whole way on an NVIDIA GPU, to measure it; None elsewhere."""
        return self._backend.pipeline

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
        self, source: Source | Item, *, domains: None = None, **options: Unpack[PredictOptions]
    ) -> Result: ...
    @overload
    def predict(
        self, source: Source | Item, *, domains: Sequence[str], **options: Unpack[PredictOptions]
    ) -> dict[str, Result]: ...

    def predict(  # noqa: PLR0913 - the public contract; users pass the options by name
        self,
        source: Any,
        *,
        color: Color | None = None,
        tta: TTA | str | AsLoaded | None = AS_LOADED,
        domains: Sequence[str] | None = None,
        confidence: bool = False,
        logits: bool = False,
        labels_device: bool = False,
        batch_size: int | None = None,
    ) -> Any:
        """Parse one photo, or a list of photos in batches.

        The result is in the photo's own pixels and keeps a reference to an array given, not a
        copy.  One source gives one answer and a list gives a list.

        Args:
            source: path, bytes, open binary file, array (H, W, 3), PIL image; or a list of them.
                An array in the memory of the GPU that the parser works on stays there.
            color: channel order of arrays, "rgb" (also if None) or "bgr".
            tta: instead of the one the parser was loaded with.
            domains: heads to answer from one pass of the network; the answer is then a dict from
                head to `Result`.
            confidence: also give the winner's probability per pixel.
            logits: also give the network's logits (K, h/4, w/4) of the plain view.
            labels_device: also leave the labels on the NVIDIA GPU that the parser works on; None
                in results of photos that needed windows.
            batch_size: network inputs at once, instead of the parser's own number.

        Raises:
            InputError: a source is not a usable photo.
            UnknownHead: the model has no such domain.
            BackendError: the runtime failed, or the parser is closed.
        """
        recipe = self._book.recipe(
            domains,
            color=color,
            tta=tta,
            confidence=confidence,
            logits=logits,
            labels_device=labels_device,
        )
        size = photos_per_run(self._inputs_at_once(batch_size), recipe.request.tta)
        answers = [each for batch in _in_batches(source, size) for each in recipe.parse(batch)]
        return answers if isinstance(source, (list, tuple)) else answers[0]

    @overload
    def stream(
        self,
        source: Any,
        *,
        domains: None = None,
        on_error: Literal["raise"] = "raise",
        **options: Unpack[StreamOptions],
    ) -> Generator[Result]: ...
    @overload
    def stream(
        self,
        source: Any,
        *,
        domains: None = None,
        on_error: Literal["return"],
        **options: Unpack[StreamOptions],
    ) -> Generator[Result | InputError]: ...
    @overload
    def stream(
        self,
        source: Any,
        *,
        domains: Sequence[str],
        on_error: Literal["raise"] = "raise",
        **options: Unpack[StreamOptions],
    ) -> Generator[dict[str, Result]]: ...
    @overload
    def stream(
        self,
        source: Any,
        *,
        domains: Sequence[str],
        on_error: Literal["return"],
        **options: Unpack[StreamOptions],
    ) -> Generator[dict[str, Result] | InputError]: ...

    def stream(
        self,
        source: Any,
        *,
        domains: Sequence[str] | None = None,
        on_error: OnError = "raise",
        ahead: int | None = None,
        batch_size: int | None = None,
        smooth: float = 0.0,
        **options: Unpack[AnswerOptions],
    ) -> Generator[Any]:
        """Parse photo after photo, in order, while the next are decoded and the last labelled.

        The source may be endless.  It is asked in the thread that iterates, for `ahead` photos at
        most beyond those answered, and must leave an array or file it gave as it is until then.
        Photos share a run in groups of `batch_size`; for a camera, 1 has the shortest delay.
        Close the generator (leaving the loop does) and no thread is left.

        Args:
            source: any iterable of what `predict` takes, or of `hp_sdk.sources.Item`, one answer
                each; or a folder, pattern, video or camera as `hp_sdk.sources.expand` reads it.
            domains: as for `predict`; so are `color`, `tta`, `confidence`, `logits` and
                `labels_device`.
            on_error: "raise" an InputError where a photo is unusable, after the answers before it;
                or "return" it in the photo's place and go on.
            ahead: photos between source and consumer, which bounds the memory; None: two batches
                and two more.  With 1, the next photo is asked for once you have the last answer.
            batch_size: network inputs at once, instead of the parser's own number.
            smooth: for the frames of one video: share of the scores so far in those of each frame,
                from 0 (none) to below 1; a scene cut starts anew.

        Raises:
            InputError, UnknownHead, BackendError: as `predict`.
            ConfigError: an option is not allowed; at once, not with the first answer.
        """
        recipe = self._book.recipe(domains, **options)
        if smooth:
            recipe = replace(recipe, smoother=Smoother(smooth))
        size = self._inputs_at_once(batch_size)
        return stream(source, recipe, batch_size=size, ahead=ahead, on_error=on_error)

    @overload
    def submit(
        self, source: Source | Item, *, domains: None = None, **options: Unpack[SubmitOptions]
    ) -> Future[Result]: ...
    @overload
    def submit(
        self, source: Source | Item, *, domains: Sequence[str], **options: Unpack[SubmitOptions]
    ) -> Future[dict[str, Result]]: ...

    def submit(self, source: Any, **options: Any) -> Future[Any]:
        """Parse one photo in the background, together with others that are submitted meanwhile.

        Goes to a queue of the parser's own with the defaults of `queue`; see `ParseQueue.submit`
        for options, cancelling, waiting and asyncio.
        """
        with self._lock:
            if self._closed:
                raise BackendError("the parser is closed; load the model again")
            if self._queue is None:
                self._queue = self.queue()
        return self._queue.submit(source, **options)

    def queue(
        self,
        *,
        max_batch: int | None = None,
        max_wait_ms: float = 5.0,
        max_pending: int | None = None,
    ) -> ParseQueue:
        """A queue for photos that arrive one by one; close it before the parser.

        Args:
            max_batch: network inputs at once; None takes the parser's number.
            max_wait_ms: how long a photo waits for others to share its run.
            max_pending: photos whose future is not done, before `submit` makes its caller wait;
                None is four batches, at least 16.

        Raises:
            ConfigError: an option is not allowed.
        """
        size = self.batch_size if max_batch is None else max_batch
        return ParseQueue(
            self._book, max_batch=size, max_wait_ms=max_wait_ms, max_pending=max_pending
        )

    def close(self, *, cancel_pending: bool = False) -> None:
        """Answer what was submitted, or cancel what has not begun; then free the model.

        A later call of `predict` or `submit` raises BackendError.  A `with` statement that ends in
        an exception cancels.
        """
        with self._lock:
            self._closed = True
        if self._queue is not None:
            self._queue.close(cancel_pending=cancel_pending)
        self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.close(cancel_pending=kind is not None)

    def __repr__(self) -> str:
        facts, (height, width) = self._backend.facts, self._backend.input_hw
        return (
            f"Parser({self.bundle.name} {self.bundle.version}, head {self.head} with "
            f"{self.domain.num_classes} classes, {self._backend.name} on {self._backend.provider}, "
            f"{facts.precision} {height}x{width}, tta {self._tta})"
        )

    def _inputs_at_once(self, batch_size: int | None) -> int:
        return checked_batch_size(
            "auto" if batch_size is None else batch_size, auto=self.batch_size
        )


def _in_batches(source: Any, size: int) -> Iterator[list[NamedSource]]:
    if not isinstance(source, (list, tuple)):
        yield [NamedSource(source)]
        return
    sources = list(named(source))
    yield from (sources[first : first + size] for first in range(0, len(sources), size))
