"""Videos: every frame with its time, what is missing is said, and a file appears whole or not."""

import logging
import struct
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from hp_sdk import video
from hp_sdk.errors import ConfigError, InputError
from hp_sdk.video import Video, VideoWriter, open_camera, open_video

GREEN, ORANGE = (30, 200, 20), (250, 120, 10)


def frame_of(number, height=48, width=64):
    """An orange bar grows from the left over green, from the top half only."""
    image = np.full((height, width, 3), GREEN, np.uint8)
    image[: height // 2, : 4 * (number + 1)] = ORANGE
    return image


def write_video(path, count=12, *, codec="mp4v", fps=10, images=None):
    images = images or [frame_of(number) for number in range(count)]
    height, width = images[0].shape[:2]
    fourcc = cv2.VideoWriter.fourcc(*codec)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, fps, (width, height))
    for image in images:
        writer.write(image[..., ::-1])
    writer.release()
    return path


def noisy(count, height=96, width=128):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (height, width, 3), np.uint8) for _ in range(count)]


def boxes(content):
    """Name and bytes of each box of an MP4 file."""
    at, found = 0, []
    while at < len(content):
        (size,) = struct.unpack_from(">I", content, at)
        found.append((content[at + 4 : at + 8], content[at : at + size]))
        at += size
    return found


def index_first(content):
    """The same MP4 as the web wants it: where the frames lie is said before the frames."""
    parts = boxes(content)
    index = bytearray(next(box for kind, box in parts if kind == b"moov"))
    at = index.index(b"stco") + 8
    (count,) = struct.unpack_from(">I", index, at)
    for place in range(at + 4, at + 4 + 4 * count, 4):
        (offset,) = struct.unpack_from(">I", index, place)
        struct.pack_into(">I", index, place, offset + len(index))
    rest = [box for kind, box in parts if kind not in (b"ftyp", b"moov")]
    return parts[0][1] + bytes(index) + b"".join(rest)


def turned(content):
    """The same MP4, to be shown a quarter turn clockwise, as a phone held upright says it."""
    content = bytearray(content)
    at = content.index(b"tkhd") + 4 + 40
    struct.pack_into(">9i", content, at, 0, 65536, 0, -65536, 0, 0, 48 * 65536, 0, 1 << 30)
    return bytes(content)


class FakeCapture:
    """A device or stream that gives some frames and then no more."""

    def __init__(self, frames=3, *, opened=True, properties=()):
        self.frames, self.opened, self.properties = frames, opened, dict(properties)

    def isOpened(self):
        return self.opened

    def get(self, which):
        return self.properties.get(which, 0.0)

    def read(self):
        self.frames -= 1
        return (True, np.zeros((4, 6, 3), np.uint8)) if self.frames >= 0 else (False, None)

    def release(self):
        self.opened = False


def write_all(path, images, fps=5):
    with VideoWriter(path, fps=fps) as writer:
        for image in images:
            writer.write(image)


def near(image, colour):
    return np.abs(image.astype(int) - colour).max() < 60  # MPEG-4 smears colours


def test_frames_come_in_order_in_rgb_with_their_times(tmp_path):
    with open_video(write_video(tmp_path / "a.mp4")) as opened:
        frames = list(opened)

    assert [frame.index for frame in frames] == list(range(12))
    assert [frame.time_ms for frame in frames] == pytest.approx([100 * i for i in range(12)])
    for number, frame in enumerate(frames):
        bar = 4 * (number + 1)
        assert near(frame.image[4:20, : bar - 3].mean((0, 1)), ORANGE)
        assert near(frame.image[4:20, bar + 3 :].mean((0, 1)), GREEN)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "mp4v"), ("a.avi", "MJPG"), ("a.mkv", "mp4v")]
)
def test_a_video_knows_its_rate_length_and_size(tmp_path, name, codec):
    with open_video(str(write_video(tmp_path / name, codec=codec))) as opened:
        assert (opened.fps, opened.count, opened.size_hw) == (10, 12, (48, 64))
        assert sum(1 for _ in opened) == 12
        assert opened.problem is None


def test_frames_of_changing_length_keep_their_own_times(tmp_path):
    pil = pytest.importorskip("PIL.Image", reason="needs Pillow")
    images = [pil.fromarray(frame_of(number)) for number in range(6)]
    images[0].save(
        tmp_path / "a.gif",
        save_all=True,
        append_images=images[1:],
        duration=[100, 300, 50, 700, 40, 200],
    )

    with open_video(tmp_path / "a.gif") as opened:
        times_ms = [frame.time_ms for frame in opened]
    assert times_ms == pytest.approx([0, 100, 400, 450, 1150, 1190])


def test_a_video_of_a_phone_stands_upright(tmp_path):
    path = write_video(tmp_path / "a.mp4")
    path.write_bytes(turned(path.read_bytes()))

    with open_video(path) as opened:
        frames = list(opened)

    assert opened.size_hw == (64, 48)
    assert frames[-1].image.shape == (64, 48, 3)
    assert near(frames[-1].image[4:40, 30:44].mean((0, 1)), ORANGE)  # the top is on the right now
    assert near(frames[-1].image[4:40, 4:18].mean((0, 1)), GREEN)


@pytest.mark.parametrize("name", ["a.mkv", "a.avi", "a.mp4"])
def test_a_truncated_video_gives_what_it_has_and_then_says_so(tmp_path, name, caplog):
    codec = "MJPG" if name == "a.avi" else "mp4v"
    path = write_video(tmp_path / name, codec=codec, images=noisy(20))
    content = index_first(path.read_bytes()) if name == "a.mp4" else path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])

    with open_video(path) as opened, caplog.at_level(logging.WARNING, "hp_sdk"):
        frames = list(opened)

    assert 5 <= len(frames) <= 15
    assert opened.problem
    assert name in opened.problem
    assert f"ends after {len(frames)} " in opened.problem
    assert "bytes are missing" in opened.problem
    assert [record.message for record in caplog.records] == [opened.problem]


def test_putting_the_index_first_makes_no_video_truncated(tmp_path):
    path = write_video(tmp_path / "a.mp4")
    path.write_bytes(index_first(path.read_bytes()))

    with open_video(path) as opened:
        assert len(list(opened)) == 12
        assert opened.problem is None


def test_a_video_whose_index_is_cut_off_is_called_truncated(tmp_path):
    path = write_video(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes()[:-300])

    with pytest.raises(InputError, match=r"a\.mp4.*truncated \(the last 300 bytes"):
        open_video(path)


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"", "empty"),
        (b"no film", "text file"),
        (b"<!doctype html><html></html>", "web page"),
        (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2", "damaged"),
        (b"\x1a\x45\xdf\xa3", "damaged"),
        (b"RIFF", "text file"),
    ],
)
def test_what_is_no_video_is_named_with_what_it_is(tmp_path, content, hint):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)

    with pytest.raises(InputError, match=rf"clip\.mp4.*{hint}"):
        open_video(path)


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        open_video(tmp_path / "nowhere.mp4")
    with pytest.raises(InputError, match="cannot read"):
        open_video(tmp_path)


def test_a_numbered_picture_is_not_the_first_of_a_series(tmp_path):
    for number in (1, 2, 3):
        cv2.imwrite(str(tmp_path / f"shot{number}.png"), frame_of(number))

    with open_video(tmp_path / "shot1.png") as opened:
        assert len(list(opened)) == 1


def test_a_closed_video_says_so(tmp_path):
    with open_video(write_video(tmp_path / "a.mp4")) as opened:
        assert opened.read()

    with pytest.raises(InputError, match="closed"):
        opened.read()


def test_without_timestamps_the_rate_tells_the_time(tmp_path):
    capture = FakeCapture(4, properties={cv2.CAP_PROP_FPS: 50.0})
    path = write_video(tmp_path / "a.mp4", 1)

    times_ms = [frame.time_ms for frame in Video(capture, "stream", path=path)]  # pyright: ignore[reportArgumentType]

    assert times_ms == pytest.approx([0, 20, 40, 60])


def test_a_camera_runs_until_it_is_unplugged(monkeypatch, caplog):
    capture = FakeCapture(3)
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: capture)

    with open_camera(1) as camera, caplog.at_level(logging.WARNING, "hp_sdk"):
        frames = list(camera)

    assert (camera.count, camera.fps) == (None, None)
    assert len(frames) == 3
    assert 0 <= frames[0].time_ms <= frames[1].time_ms <= frames[2].time_ms
    assert "camera 1 gave no more pictures after 3" in caplog.text
    assert not capture.isOpened()


def test_a_camera_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: FakeCapture(opened=False))

    with pytest.raises(InputError, match="camera 7"):
        open_camera(7)


@pytest.mark.parametrize("fps", [10, 29.97, 1])
def test_what_is_written_is_read_back(tmp_path, fps):
    with VideoWriter(tmp_path / "new" / "out.mp4", fps=fps) as writer:
        for number in range(5):
            writer.write(frame_of(number))

    with open_video(tmp_path / "new" / "out.mp4") as opened:
        assert opened.fps == pytest.approx(fps, rel=1e-3)
        images = [frame.image for frame in opened]
    assert len(images) == 5
    assert near(images[4][4:20, :16].mean((0, 1)), ORANGE)
    assert near(images[4][4:20, 24:].mean((0, 1)), GREEN)


@pytest.mark.parametrize("size", [(47, 63), (1, 1), (2, 301), (301, 2)])
def test_odd_sizes_lose_nothing(tmp_path, size):
    image = np.full((*size, 3), GREEN, np.uint8)
    image[-1] = image[:, -1] = ORANGE
    with VideoWriter(tmp_path / "out.mp4", fps=5) as writer:
        writer.write(image)

    with open_video(tmp_path / "out.mp4") as opened:
        assert opened.size_hw == (size[0] + size[0] % 2, size[1] + size[1] % 2)
        frame = opened.read()
    assert frame
    assert near(frame.image[-1, -1], ORANGE)


def test_nothing_is_seen_of_a_video_before_its_end(tmp_path):
    with VideoWriter(tmp_path / "out.mp4", fps=5) as writer:
        writer.write(frame_of(0))
        assert not (tmp_path / "out.mp4").exists()

    (tmp_path / "other").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out.mp4"]
    assert (tmp_path / "out.mp4").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_failure_leaves_no_half_video_and_the_old_one(tmp_path):
    (tmp_path / "old.mp4").write_bytes(b"old")

    for name in ("new.mp4", "old.mp4"):
        with pytest.raises(InputError, match="uint8"):
            write_all(tmp_path / name, [frame_of(0), np.zeros((48, 64, 3))])

    assert [path.name for path in tmp_path.iterdir()] == ["old.mp4"]
    assert (tmp_path / "old.mp4").read_bytes() == b"old"


def test_a_full_disk_is_an_error(tmp_path, monkeypatch):
    temporary = []

    def cut(path, *args, **options):
        temporary.append(path)
        path.write_bytes(path.read_bytes()[:-200])
        return open_video(path, *args, **options)

    monkeypatch.setattr(video, "open_video", cut)

    with pytest.raises(ConfigError, match=r"out\.mp4.*space"):
        write_all(tmp_path / "out.mp4", [frame_of(0)] * 5)
    assert temporary
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("image", "hint"),
    [
        (frame_of(0, height=50), "frame 1 is 64 x 50 px, the first was 64 x 48"),
        (frame_of(0)[..., 0], r"\(48, 64\)"),
        (frame_of(0) / 255, "float64"),
        (frame_of(0)[:0], r"\(0, 64, 3\)"),
    ],
)
def test_all_frames_have_one_size_and_type(tmp_path, image, hint):
    with pytest.raises(InputError, match=hint):
        write_all(tmp_path / "out.mp4", [frame_of(0), image])
    assert list(tmp_path.iterdir()) == []


def test_a_video_without_frames_is_refused(tmp_path):
    with pytest.raises(InputError, match="no frame"), VideoWriter(tmp_path / "out.mp4", fps=5):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), None])
def test_an_impossible_rate_is_refused(tmp_path, fps):
    with pytest.raises(ConfigError, match="fps"):
        VideoWriter(tmp_path / "out.mp4", fps=fps)


class WithoutMp4:
    """OpenCV's writer where there is no encoder for MP4."""

    opencv = cv2.VideoWriter
    fourcc = opencv.fourcc

    def __call__(self, path, *arguments):
        if path.endswith(".mp4"):
            return SimpleNamespace(isOpened=bool)
        return self.opencv(path, *arguments)


def test_where_mp4_cannot_be_written_an_avi_is_and_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(cv2, "VideoWriter", WithoutMp4())

    with VideoWriter(tmp_path / "out.mp4", fps=5) as writer:
        writer.write(frame_of(3))

    assert [path.name for path in tmp_path.iterdir()] == ["out.avi"]
    assert (writer.path, writer.codec) == (tmp_path / "out.avi", "MJPG")
    assert "cannot write out.mp4 here; out.avi" in caplog.text
    with open_video(writer.path) as opened:
        (frame,) = opened
    assert near(frame.image[4:20, :12].mean((0, 1)), ORANGE)


def test_an_avi_is_written_where_one_is_asked_for(tmp_path, caplog):
    write_all(tmp_path / "out.avi", [frame_of(0)] * 3)

    with open_video(tmp_path / "out.avi") as opened:
        assert len(list(opened)) == 3
    assert caplog.text == ""


def test_only_mp4_and_avi_are_written_and_only_where_one_may(tmp_path):
    with pytest.raises(ConfigError, match=r"\.mp4 or \.avi"):
        VideoWriter(tmp_path / "out.mov", fps=5)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write"):
        VideoWriter(tmp_path / "file" / "out.mp4", fps=5).__enter__()
    with pytest.raises(ConfigError, match="with VideoWriter"):
        VideoWriter(tmp_path / "out.mp4", fps=5).write(frame_of(0))
