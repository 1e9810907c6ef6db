"""What a caller names becomes single photos, in a known order; a bad one does not stop the rest."""

import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from hp_sdk import sources
from hp_sdk.errors import InputError
from hp_sdk.sources import expand, fetch, photo

ORANGE, BLUE = (250, 120, 10), (10, 20, 200)


def coloured(colour=ORANGE, height=6, width=8):
    return np.full((height, width, 3), colour, np.uint8)


def encoded(image, suffix=".png"):
    return cv2.imencode(suffix, image[..., ::-1])[1].tobytes()


def write_photo(path, colour=ORANGE):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(coloured(colour)))
    return path


def write_video(path, count=4):
    fourcc = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, 10, (64, 48))
    rng = np.random.default_rng(0)
    for _ in range(count):
        writer.write(rng.integers(0, 255, (48, 64, 3), np.uint8))
    writer.release()
    return path


def stems(source, **options):
    return [item.stem for item in expand(source, **options)]


def outcome(item):
    try:
        return item.load().shape[:2]
    except InputError as refusal:
        return str(refusal)


def test_a_file_is_one_photo(tmp_path):
    path = write_photo(tmp_path / "me.png")

    for source in (path, str(path)):
        (item,) = expand(source)
        assert (item.name, item.stem, item.time_ms) == (str(path), "me", None)
        np.testing.assert_array_equal(item.load(), coloured())


def test_a_folder_is_its_own_photos_in_natural_order(tmp_path):
    for name in (
        "img10.png",
        "img2.jpg",
        "IMG1.PNG",
        ".hidden.png",
        "deep/img0.png",
        "x.labels.png",
    ):
        write_photo(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no photo")
    (tmp_path / "folder.png").mkdir()
    write_video(tmp_path / "film.mp4")

    assert stems(tmp_path, ignore=[".labels.png"]) == ["IMG1", "img2", "img10"]
    assert stems(str(tmp_path)) == ["IMG1", "img2", "img10", "x.labels"]


def test_a_pattern_is_every_photo_and_video_that_fits(tmp_path):
    for name in ("a1.png", "b/a10.png", "b/c/a2.png", "b/a3.txt"):
        write_photo(tmp_path / name)
    write_video(tmp_path / "z.mp4", 2)

    assert stems(tmp_path / "*") == ["a1", "z-000000", "z-000001"]
    assert stems(str(tmp_path / "**" / "*.png")) == ["a1", "a10", "a2"]
    assert stems(tmp_path / "a?.png") == ["a1"]


def test_a_file_or_folder_with_brackets_in_its_name_is_itself_first(tmp_path):
    write_photo(tmp_path / "me[1].png")
    write_photo(tmp_path / "me1.png")
    write_photo(tmp_path / "in[2]" / "x.png")

    assert stems(tmp_path / "me[1].png") == ["me[1]"]
    assert stems(tmp_path / "in[2]") == ["x"]
    assert stems(tmp_path / "me[0-9].png") == ["me1"]


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("gone.jpg", r"gone\.jpg' does not exist"),
        ("*.jpg", r"\*\.jpg' fits nothing \(.*\.png"),
        ("*.txt", "fits 1 names, no photo"),
        ("empty", r"folder .*empty' holds no photo \(.*\.png"),
        ("x" * 5000, "cannot look for"),
        ("a\0b", "does not exist"),
    ],
)
def test_what_stands_for_nothing_is_refused_at_once_with_what_was_looked_for(
    tmp_path, source, hint
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no photo")

    with pytest.raises(InputError, match=hint) as refusal:
        expand(str(tmp_path / source))
    assert len(str(refusal.value)) < 500
    with pytest.raises(InputError, match="'' does not exist"):
        expand("")


def test_a_video_is_its_frames_with_their_times(tmp_path):
    items = list(expand(write_video(tmp_path / "clip.mp4")))

    assert [item.stem for item in items] == [f"clip-{i:06}" for i in range(4)]
    assert [item.time_ms for item in items] == pytest.approx([0, 100, 200, 300])
    assert items[3].name == f"{tmp_path / 'clip.mp4'} frame 3"
    assert items[3].load().shape == (48, 64, 3)


def test_frames_know_their_colours_whatever_is_said_about_arrays(tmp_path):
    path = write_video(tmp_path / "clip.mp4", 1)

    rgb, bgr = (next(expand(path, color=color)).load() for color in ("rgb", "bgr"))

    np.testing.assert_array_equal(rgb, bgr)


def test_a_truncated_video_ends_with_an_item_that_says_so(tmp_path):
    path = write_video(tmp_path / "a.mkv", 12)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    *frames, last = (outcome(item) for item in expand(path))

    assert frames
    assert set(frames) == {(48, 64)}
    assert f"ends after {len(frames)} " in last


def test_a_list_mixes_everything_and_the_bad_ones_do_not_stop_the_rest(tmp_path):
    path = write_photo(tmp_path / "in" / "me.png")
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "broken.mp4").write_text("hello")
    (tmp_path / "empty").mkdir()
    content = encoded(coloured())
    good = [path, tmp_path / "in", coloured(), content, io.BytesIO(content), photo(path)]
    bad = [tmp_path / name for name in ("text.jpg", "gone.jpg", "empty", "broken.mp4")]
    bad += [None, np.zeros((3, 8, 8), np.uint8)]

    items = list(expand([*good, *bad, path]))
    outcomes = [outcome(item) for item in items]

    assert items[2].stem == "photo-3-of-13"
    assert [*outcomes[:6], outcomes[-1]] == [(6, 8)] * 7
    names = ("text.jpg", "gone.jpg", "empty", "broken.mp4", "photo 11 of 13", "photo 12 of 13")
    for text, name in zip(outcomes[6:-1], names, strict=True):
        assert name in str(text)


def test_a_broken_video_among_those_that_fit_a_pattern_does_not_stop_the_rest(tmp_path):
    (tmp_path / "a.mp4").write_text("hello")
    write_video(tmp_path / "b.mp4", 1)

    first, second = (outcome(item) for item in expand(tmp_path / "*.mp4"))

    assert "a.mp4" in str(first)
    assert second == (48, 64)


def test_an_iterator_is_asked_only_for_what_is_due():
    asked = []

    def cameras():
        for number in range(1000):
            asked.append(number)
            yield coloured()

    items = expand(cameras())
    assert asked == []
    assert next(items).name == "photo 1"
    assert asked == [0]
    assert stems(iter([])) == []
    assert stems({"a": coloured()}.values()) == ["photo-1"]


def test_arrays_in_a_list_have_the_order_that_is_said():
    for source in ([coloured()[..., ::-1]], coloured()[..., ::-1]):
        (item,) = expand(source, color="bgr")
        np.testing.assert_array_equal(item.load(), coloured())


def test_nothing_is_decoded_before_it_is_loaded(tmp_path):
    path = write_photo(tmp_path / "me.png")
    (item,) = expand(path)
    write_photo(path, BLUE)

    assert tuple(item.load()[0, 0]) == BLUE


def test_a_dash_is_stdin_where_there_is_one(tmp_path, monkeypatch):
    (item,) = expand("-", stdin=io.BytesIO(encoded(coloured())))
    assert item.stem == "stdin"
    np.testing.assert_array_equal(item.load(), coloured())

    (empty,) = expand("-", stdin=io.BytesIO())
    assert "<stdin>" in str(outcome(empty))

    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="'-' does not exist"):
        expand("-")


def test_a_number_is_a_camera(monkeypatch):
    class Capture:
        left = 2

        def isOpened(self):
            return True

        def get(self, which):
            return 0.0

        def read(self):
            self.left -= 1
            return self.left >= 0, coloured(BLUE)[..., ::-1].copy()

        def release(self):
            self.left = -1

    monkeypatch.setattr(cv2, "VideoCapture", lambda number: Capture())

    items = list(expand(3))

    assert [item.stem for item in items] == ["camera-3-000000", "camera-3-000001", "camera-3-end"]
    assert tuple(items[0].load()[0, 0]) == BLUE
    assert "camera 3 gave no more pictures" in str(outcome(items[2]))
    assert "bool is not a photo" in str(outcome(next(expand(True))))


def test_one_photo_is_never_looked_into(tmp_path):
    assert photo(coloured(), name="photo 2 of 3").stem == "photo-2-of-3"
    with pytest.raises(InputError, match="is a folder"):
        photo(tmp_path).load()
    with pytest.raises(InputError, match=r"^photo 2 of 3: array has shape"):
        photo(np.zeros((3, 8, 8), np.uint8), name="photo 2 of 3").load()


PHOTO = encoded(coloured())
PNG = {"Content-Type": "image/png"}
PAGES = {
    "/some%20dir/me.png": (200, PNG, PHOTO),
    "/untyped": (200, {}, PHOTO),
    "/binary": (200, {"Content-Type": "application/octet-stream"}, PHOTO),
    "/page": (200, {"Content-Type": "text/html; charset=utf-8"}, b"<html></html>"),
    "/lies.png": (200, PNG, b"<html></html>"),
    "/empty.png": (200, PNG, b""),
    "/half.png": (200, PNG, PHOTO[: len(PHOTO) // 2]),
    "/breaks": (200, PNG | {"Content-Length": "5000"}, PHOTO),
    "/moved": (302, {"Location": "/untyped"}, b""),
    "/outside": (302, {"Location": Path(__file__).as_uri()}, b""),
    "/ftp": (302, {"Location": "ftp://127.0.0.1/me.png"}, b""),
}


class Answers(BaseHTTPRequestHandler):
    """A server with a photo, and with everything that goes wrong."""

    def do_GET(self):
        if self.path == "/slow":
            self.server.released.wait(10)  # pyright: ignore[reportAttributeAccessIssue]
        elif self.path == "/endless":
            self.endless()
        else:
            status, headers, body = PAGES.get(self.path, (404, {}, b""))
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    def endless(self):
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.end_headers()
        try:
            while True:
                self.wfile.write(bytes(2**16))
        except OSError:
            self.close_connection = True

    def log_message(self, format, *args):
        pass


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads = True
    server.released = threading.Event()  # pyright: ignore[reportAttributeAccessIssue]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.released.set()  # pyright: ignore[reportAttributeAccessIssue]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("HP_OFFLINE", raising=False)


def test_an_address_is_fetched_only_if_allowed(server):
    url = f"{server}/some%20dir/me.png"

    with pytest.raises(InputError, match="allow_url=True"):
        expand(url)
    (item,) = expand(url, allow_url=True)
    assert (item.name, item.stem) == (url, "me")
    np.testing.assert_array_equal(item.load(), coloured())


@pytest.mark.parametrize("page", ["/untyped", "/binary", "/moved"])
def test_a_photo_is_fetched_however_it_is_served(server, page):
    (item,) = expand(server + page, allow_url=True)

    np.testing.assert_array_equal(item.load(), coloured())


@pytest.mark.parametrize(
    ("page", "hint"),
    [
        ("/gone", "answers 404"),
        ("/page", "answers with text/html, not a picture"),
        ("/lies.png", "web page"),
        ("/empty.png", "empty"),
        ("/half.png", "truncated PNG"),
        ("/breaks", "breaks off after .* of 5000 bytes"),
        ("/outside", "answers 302"),
        ("/ftp", "unknown url type"),
    ],
)
def test_an_address_without_a_photo_is_refused_by_name(server, page, hint):
    (item,) = expand(server + page, allow_url=True)

    with pytest.raises(InputError, match=hint) as refusal:
        item.load()
    assert page in str(refusal.value)


def test_size_and_time_are_limited(server, monkeypatch):
    with pytest.raises(InputError, match="larger than 50 bytes"):
        fetch(f"{server}/binary", max_bytes=50)
    with pytest.raises(InputError, match="larger than 300000 bytes"):
        fetch(f"{server}/endless", max_bytes=300_000)
    with pytest.raises(InputError, match="timed out"):
        fetch(f"{server}/slow", timeout_s=0.2)
    monkeypatch.setattr(sources, "monotonic", iter([0.0, 1e9]).__next__)
    with pytest.raises(InputError, match="too slow"):
        fetch(f"{server}/binary")


def test_offline_means_offline(server, monkeypatch):
    monkeypatch.setenv("HP_OFFLINE", "1")

    with pytest.raises(InputError, match="HP_OFFLINE"):
        fetch(f"{server}/binary")


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("file:///etc/hostname", "only http and https"),
        ("rtsp://127.0.0.1/stream", "only http and https"),
        ("http://127.0.0.1:1/me.png", "cannot be fetched"),
        ("http://", "cannot be fetched"),
        ("http://[", "cannot be fetched"),
        ("http://127.0.0.1:port/x", "cannot be fetched"),
    ],
)
def test_other_addresses_are_refused(url, hint):
    with pytest.raises(InputError, match=hint):
        next(expand(url, allow_url=True)).load()
