"""A video parsed frame by frame, and what is written of it.

    film = parse_video(parser, "in.mp4", "out", smooth=0.6)
    film.files["overlay"]          # out/in.overlay.mp4

`Parser.stream("in.mp4", smooth=0.6)` gives the results alone.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

from hp_sdk.errors import ConfigError, InputError
from hp_sdk.files import write_bytes, write_folder
from hp_sdk.image import Pixels
from hp_sdk.parser import Parser
from hp_sdk.result import Result
from hp_sdk.video import Frame, Video, VideoWriter, open_video

LABELS_INDEX = "frames.json"
_USUAL_FPS, _LARGEST_FPS = 25.0, 120.0
_LONGEST_HOLD_S = 30.0
"""Times that jump further are taken for damaged."""

Tell: TypeAlias = Callable[[int, int | None], object]
"""Takes the number of frames done and of all frames, None if that is not known."""


@dataclass(frozen=True, slots=True)
class ParsedFrame:
    """One frame and its parts."""

    frame: Frame
    result: Result


@dataclass(frozen=True, slots=True)
class Film:
    """What was made of a video: files by kind, and the frames they stand for."""

    frames: int
    files: Mapping[str, Path]
    problem: str | None = None
    """That the video broke off, if it did."""


def parse_frames(
    parser: Parser,
    video: Video,
    *,
    head: str | None = None,
    smooth: float = 0.0,
    batch_size: int | None = None,
) -> Generator[ParsedFrame]:
    """Every frame of an open video with its result, in order, a few frames decoded ahead.

    Args:
        parser: stays open.
        video: from `open_video` or `open_camera`; read to its end.
        head: label domain to answer in, instead of the parser's own.
        smooth: as for `Parser.stream`.
        batch_size: frames at once, instead of the parser's own number.

    Raises:
        UnknownHead, BackendError, ConfigError: as `Parser.stream`.
    """
    given: deque[Frame] = deque()

    def images() -> Iterator[Pixels]:
        while frame := video.read():
            given.append(frame)
            yield frame.image

    heads = [head or parser.head]
    answers = parser.stream(images(), domains=heads, smooth=smooth, batch_size=batch_size)
    for answer in answers:
        (result,) = answer.values()
        yield ParsedFrame(given.popleft(), result)


def parse_video(  # noqa: PLR0913 - options, which users pass by name
    parser: Parser,
    path: str | PathLike[str],
    folder: str | PathLike[str],
    *,
    stem: str | None = None,
    save: Sequence[str] = ("labels", "overlay", "json"),
    head: str | None = None,
    smooth: float = 0.0,
    batch_size: int | None = None,
    tell: Tell | None = None,
) -> Film:
    """Parse a video file and write what is asked for into `folder`.

    * labels: `<stem>.labels/000000.png`, ..., one indexed PNG per frame, and `frames.json`, which
      says when each is shown;
    * overlay: `<stem>.overlay.mp4` (AVI where OpenCV cannot write MP4), without sound.  Its rate is
      the video's average; where that varies, frames are repeated or left out so that each is shown
      when it should be;
    * json: `<stem>.json`, with the parts of every frame and the receipt.

    Every file appears whole at the end, or not at all if the work is interrupted.  A video that
    breaks off is written as far as it goes; `Film.problem` says so.

    Args:
        parser: stays open.
        path: video file.
        folder: made if missing.
        stem: name of the outputs, instead of the video's own.
        save: some of "labels", "overlay", "json".
        head: label domain to answer in, instead of the parser's own.
        smooth: share of the scores so far in those of each frame, 0 (none) to below 1; a scene cut
            starts anew.
        batch_size: frames at once, instead of the parser's own number.
        tell: called after each frame with the frames done and all frames (None: not known).

    Raises:
        InputError: the video cannot be decoded.
        ConfigError: an option is not allowed, or the folder cannot be written to.
        BackendError: the runtime failed.
    """
    for kind in save:
        if kind not in _SINKS:
            raise ConfigError(f"save has {kind!r}; allowed are {', '.join(_SINKS)}")
    with ExitStack() as stack:
        video = stack.enter_context(open_video(path))
        target = str(Path(folder) / (stem or Path(path).stem))
        sinks = {kind: stack.enter_context(_SINKS[kind](target, video)) for kind in save}
        frames = parse_frames(parser, video, head=head, smooth=smooth, batch_size=batch_size)
        done = 0
        for done, parsed in enumerate(frames, start=1):
            for sink in sinks.values():
                sink.add(parsed)
            if tell is not None:
                tell(done, video.count)
        if not done:
            raise InputError(f"{video.name} holds no frame that can be decoded; get it again")
    return Film(done, {kind: sink.path for kind, sink in sinks.items()}, video.problem)


class Timeline:
    """Frames at times of their own become frames at a steady rate.

    Each is written as often as the rate asks for until the next one is due, which for a frame much
    shorter than a tick may be never.  `finish` writes the last.
    """

    def __init__(self, write: Callable[[Pixels], object], fps: float) -> None:
        self._write = write
        self._fps = fps
        self._written = 0
        self._start_ms = 0.0
        self._shown: tuple[Pixels, float] | None = None

    def add(self, image: Pixels, time_ms: float) -> None:
        """The next frame, and when it is shown."""
        if self._shown is None:
            self._start_ms = time_ms
        else:
            last, last_ms = self._shown
            jump_ms = time_ms - last_ms - 1e3 * _LONGEST_HOLD_S
            self._start_ms += max(0.0, jump_ms)
            ticks = round((time_ms - self._start_ms) * self._fps / 1e3) - self._written
            self._hold(last, ticks)
        self._shown = image, time_ms

    def finish(self) -> None:
        """No frame follows."""
        if self._shown is not None:
            self._hold(self._shown[0], 1)

    def _hold(self, image: Pixels, ticks: int) -> None:
        for _ in range(ticks):
            self._write(image)
        self._written += max(0, ticks)


class _Sink:
    """Where one kind of output goes, frame after frame; `path` is known at the end."""

    def __init__(self, path: Path, add: Callable[[ParsedFrame], object]) -> None:
        self.path = path
        self.add = add


@contextmanager
def _label_folder(target: str, video: Video) -> Iterator[_Sink]:
    path = Path(f"{target}.labels")
    rows: list[dict[str, Any]] = []
    with write_folder(path, marker=LABELS_INDEX) as folder:

        def add(parsed: ParsedFrame) -> None:
            name = f"{parsed.frame.index:06}.png"
            parsed.result.save(folder / name)
            rows.append({"file": name, "time_ms": round(parsed.frame.time_ms, 3)})

        yield _Sink(path, add)
        _write_json(folder / LABELS_INDEX, {"source": str(video.path), "frames": rows})


@contextmanager
def _overlay_video(target: str, video: Video) -> Iterator[_Sink]:
    fps = min(video.fps or _USUAL_FPS, _LARGEST_FPS)
    with VideoWriter(f"{target}.overlay.mp4", fps=fps) as writer:
        timeline = Timeline(writer.write, fps)
        sink = _Sink(
            writer.path,
            lambda parsed: timeline.add(parsed.result.overlay(), parsed.frame.time_ms),
        )
        yield sink
        timeline.finish()
        sink.path = writer.path  # another where MP4 cannot be written


@contextmanager
def _json_file(target: str, video: Video) -> Iterator[_Sink]:
    path = Path(f"{target}.json")
    rows: list[dict[str, Any]] = []
    last: list[Result] = []

    def add(parsed: ParsedFrame) -> None:
        frame, result = parsed.frame, parsed.result
        time_ms = round(frame.time_ms, 3)
        rows.append({"index": frame.index, "time_ms": time_ms, "areas_px": result.areas()})
        last[:] = [result]

    yield _Sink(path, add)
    _write_json(path, _summary(video, last[0]) | {"frames": rows} if last else {})


def _summary(video: Video, last: Result) -> dict[str, Any]:
    return {
        "source": str(video.path),
        "domain": last.domain.name,
        "size_hw": list(last.labels.shape),
        "fps": video.fps,
        "problem": video.problem,
        "receipt": None if last.receipt is None else asdict(last.receipt),
    }


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_bytes(path, f"{json.dumps(content, indent=1, ensure_ascii=False)}\n".encode())


_SINKS: dict[str, Callable[[str, Video], AbstractContextManager[_Sink]]] = {
    "labels": _label_folder,
    "overlay": _overlay_video,
    "json": _json_file,
}
