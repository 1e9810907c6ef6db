"""Frames out of a video or a camera, with the time of each; frames into a video."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike, fsdecode
from pathlib import Path
from time import perf_counter
from typing import Any, Self, cast

import cv2

from hp_sdk.errors import ConfigError, InputError
from hp_sdk.image import Pixels, looks_like
from hp_sdk.video_header import missing_bytes

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of a video: (H, W, 3) uint8 RGB, its number from 0, and when it is shown."""

    image: Pixels
    index: int
    time_ms: float


class Video:
    """An open video or camera.  Iterate over it, or `read` frame by frame; it is read once.

    `fps` is frames per second on average, `count` about how many frames there are; both are None
    where the file does not say.  A video that breaks off gives every frame it has; `problem` then
    says so (None before, and for a whole video).  Frames stand upright, as a phone shows them.
    """

    def __init__(self, capture: cv2.VideoCapture, name: str, *, path: Path | None) -> None:
        self.name = name
        self.path = path
        self.fps = _positive(capture.get(cv2.CAP_PROP_FPS))
        count = _positive(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if path else None
        self.count = round(count) if count else None
        self.size_hw = (
            int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
            int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
        )
        self.problem: str | None = None
        self._capture = capture
        self._frames = 0
        self._time_ms = -1.0
        self._start = perf_counter()

    def read(self) -> Frame | None:
        """The next frame; None at the end, where `problem` tells a whole video from a cut one.

        Raises:
            InputError: the video is closed.
        """
        if not self._capture.isOpened():
            raise InputError(f"{self.name} is closed; open it again")
        found, pixels = self._capture.read()
        if not found:
            self.problem = self._why_it_ended()
            return None
        self._time_ms = self._time_of_this_frame()
        self._frames += 1
        image = cast("Pixels", cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
        return Frame(image, self._frames - 1, self._time_ms)

    def __iter__(self) -> Iterator[Frame]:
        """Every frame from here on; a video that breaks off is logged as a warning."""
        while frame := self.read():
            yield frame
        if self.problem:
            _log.warning("%s", self.problem)

    def close(self) -> None:
        """Let go of the file or the camera."""
        self._capture.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        height, width = self.size_hw
        return f"Video({self.name}, {width} x {height} px, {self.fps} fps, {self.count} frames)"

    def _time_of_this_frame(self) -> float:
        if self.path is None:
            return 1e3 * (perf_counter() - self._start)
        time_ms = self._capture.get(cv2.CAP_PROP_POS_MSEC)
        # Streams without timestamps stand still.
        return time_ms if time_ms > self._time_ms else self._time_ms + 1e3 / (self.fps or 25.0)

    def _why_it_ended(self) -> str | None:
        if self.path is None:
            return f"{self.name} gave no more pictures after {self._frames}; is it plugged in?"
        missing = missing_bytes(self.path)
        if not missing:
            return None
        frames = f"{self._frames} of about {self.count}" if self.count else f"{self._frames}"
        return f"{self.name} ends after {frames} frames: the last {missing} bytes are missing"


def open_video(path: str | PathLike[str]) -> Video:
    """A video file; close it, or use it in a `with` statement.

    Raises:
        InputError: no such file, or no video that can be decoded.
    """
    file = Path(fsdecode(path))
    name = repr(str(file))
    try:
        with file.open("rb") as opened:
            head = opened.read(64)
    except FileNotFoundError as exc:
        raise InputError(f"{name} does not exist; check the path") from exc
    except (OSError, ValueError) as exc:
        raise InputError(f"cannot read {name}: {getattr(exc, 'strerror', exc) or exc}") from exc
    capture = cv2.VideoCapture(str(file.absolute()), _file_api())
    if not capture.isOpened():
        raise InputError(f"{name} cannot be opened as a video: {_why_not(file, head)}")
    return Video(capture, name, path=file)


def open_camera(number: int) -> Video:
    """A camera, by its number from 0; times count from now, and the end is a `problem`.

    Raises:
        InputError: there is no such camera, or another program holds it.
    """
    capture = cv2.VideoCapture(number)
    if not capture.isOpened():
        raise InputError(
            f"camera {number} cannot be opened; plug it in, close other programs that use it, or "
            "give another number from 0"
        )
    return Video(capture, f"camera {number}", path=None)


class VideoWriter:
    """Writes RGB frames as a video file, which appears whole at the end of the `with` block.

        with VideoWriter("out.mp4", fps=25) as video:
            video.write(frame)

    MP4 holds MPEG-4 part 2 and AVI Motion JPEG.  Where OpenCV cannot write MP4, an AVI of the same
    name is written and a warning logged; `path` is the file that is written and `codec` its codec.
    All frames have the size of the first and the same duration.  The codecs know only even sizes;
    a last row or column is repeated where one is missing.  An exception inside the block leaves no
    file and an older one as it was.

    Raises:
        ConfigError: the path ends neither in .mp4 nor in .avi, `fps` is not positive, or the
            folder cannot be written to.
        InputError: a frame of another size or type, a size no codec takes, or no frame at all.
    """

    def __init__(self, path: str | PathLike[str], *, fps: float) -> None:
        self.path = Path(fsdecode(path))
        if self.path.suffix.lower() not in _CODECS:
            raise ConfigError(
                f"{str(self.path)!r} does not end in {' or '.join(_CODECS)}, which are written"
            )
        if not isinstance(fps, (int, float)) or not 0 < fps < 1000:  # also false for NaN
            raise ConfigError(f"fps is {fps!r}; give frames per second, above 0 and below 1000")
        self.fps = fps
        self.frames = 0
        self.codec = ""
        self._size_hw = (0, 0)
        self._stack = ExitStack()
        self._temporary: Path | None = None
        self._writer: cv2.VideoWriter | None = None

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            folder = self._stack.enter_context(
                tempfile.TemporaryDirectory(dir=self.path.parent, prefix=f".{self.path.name}.")
            )
        except OSError as exc:
            raise self._unwritable(exc.strerror or str(exc)) from exc
        self._temporary = Path(folder) / f"video{self.path.suffix.lower()}"
        return self

    def write(self, image: Pixels) -> None:
        """Append one frame (H, W, 3) uint8 RGB."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != "uint8" or not image.size:
            raise InputError(f"frame is {image.dtype} {image.shape}; give (H, W, 3) uint8 RGB")
        height, width = image.shape[:2]
        if self._writer is None:
            self._writer = self._open(height, width)
        if (height, width) != self._size_hw:
            raise InputError(
                f"frame {self.frames} is {width} x {height} px, the first was "
                f"{self._size_hw[1]} x {self._size_hw[0]}; all frames have one size"
            )
        even = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        self._writer.write(cv2.cvtColor(even, cv2.COLOR_RGB2BGR))
        self.frames += 1

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with self._stack:
            if self._writer is not None:
                self._writer.release()
            if kind is None and self._temporary is not None:
                self._publish(self._temporary)

    def _open(self, height: int, width: int) -> cv2.VideoWriter:
        if self._temporary is None:
            raise ConfigError("the writer is not open; use it as `with VideoWriter(...) as video:`")
        size = (width + width % 2, height + height % 2)
        for suffix in dict.fromkeys([self._temporary.suffix, *_CODECS]):
            self._temporary, self.codec = self._temporary.with_suffix(suffix), _CODECS[suffix]
            fourcc = cv2.VideoWriter.fourcc(*self.codec)
            writer = cv2.VideoWriter(str(self._temporary), _file_api(), fourcc, self.fps, size)
            if writer.isOpened():
                self._settle_on(suffix)
                self._size_hw = (height, width)
                return writer
        raise InputError(
            f"OpenCV cannot write {width} x {height} px at {self.fps} fps as "
            f"{' or '.join(_CODECS)}; make the frames smaller"
        )

    def _settle_on(self, suffix: str) -> None:
        if suffix != self.path.suffix.lower():
            wanted, self.path = self.path, self.path.with_suffix(suffix)
            _log.warning(
                "OpenCV cannot write %s here; %s with codec %s is written instead",
                wanted.name,
                self.path.name,
                self.codec,
            )

    def _publish(self, temporary: Path) -> None:
        if not self.frames:
            raise InputError(f"no frame was written to {str(self.path)!r}; write at least one")
        # OpenCV does not tell of a full disk.
        try:
            with open_video(temporary) as written:
                whole = written.count == self.frames and not missing_bytes(temporary)
        except InputError:
            whole = False
        if not whole:
            raise self._unwritable("not everything arrived there")
        try:
            temporary.replace(self.path)
        except OSError as exc:
            raise self._unwritable(exc.strerror or str(exc)) from exc

    def _unwritable(self, reason: str) -> ConfigError:
        return ConfigError(
            f"cannot write {str(self.path)!r}: {reason}; choose a folder with space that you may "
            "write to"
        )


_CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
"""Ending → codec, the preferred one first."""


def _positive(value: float) -> float | None:
    return value if 0 < value < 2**53 else None


def _file_api() -> int:
    # Other interfaces would take clip1.mp4 for the first picture of a numbered series.
    backends: Any = cv2.videoio_registry.getBackends()
    return cv2.CAP_FFMPEG if cv2.CAP_FFMPEG in backends else cv2.CAP_ANY


def _why_not(file: Path, head: bytes) -> str:
    if not head:
        return "it is empty (0 bytes)"
    missing = missing_bytes(file)
    if missing:
        return f"it is truncated (the last {missing} bytes are missing); get it again"
    what = looks_like(head)
    return "it is damaged, or of a sort OpenCV does not read" if "video" in what else what
