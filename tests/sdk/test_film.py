"""A video becomes labels of every frame, an overlay video and JSON, whole or not at all."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from hp_sdk import Parser
from hp_sdk.backends import BACKENDS
from hp_sdk.cli import parse
from hp_sdk.cli.progress import progress_text, status_line
from hp_sdk.domains import load_domain
from hp_sdk.errors import BackendError, ConfigError, InputError
from hp_sdk.film import Timeline, parse_frames, parse_video
from hp_sdk.png import read_labels
from hp_sdk.testing import FAKE, FakeBackend, make_bundle
from hp_sdk.video import VideoWriter, open_video

CIHP = load_domain("cihp")
HAIR, DRESS = CIHP.index("hair"), CIHP.index("dress")
FILES = ["clip.json", "clip.labels", "clip.overlay.mp4"]


def frame_of(number, height=64, width=48):
    """Hair that grows from the top over a dress."""
    labels = np.full((height, width), DRESS, np.uint8)
    labels[: 8 * (number + 1)] = HAIR
    return np.array(CIHP.palette, np.uint8)[labels]


def write_clip(path, count=6, *, codec="mp4v", images=None):
    images = images or [frame_of(number) for number in range(count)]
    height, width = images[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, (width, height))
    for image in images:
        writer.write(image[..., ::-1])
    writer.release()
    return path


def truncated(path):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (96, 128, 3), np.uint8) for _ in range(20)]
    content = write_clip(path, images=noise).read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    return path


class Failing(FakeBackend):
    """Fails in its third run."""

    error: type[BaseException] = BackendError

    def run(self, batch, *, outputs=None):
        if len(self.batches) == 2:
            raise self.error("out of order")
        return super().run(batch, outputs=outputs)


@pytest.fixture
def clip(tmp_path):
    return write_clip(tmp_path / "clip.mp4")


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "bundle", domains=("cihp", "atr"))


@pytest.fixture
def parser(bundle):
    return Parser(bundle, FakeBackend(bundle))


@pytest.fixture
def run(bundle, tmp_path, monkeypatch, capsys):
    """Run hp-parse on the fake model; exit code, stdout and stderr."""
    monkeypatch.setitem(BACKENDS, "fake", FAKE)

    def run(*arguments):
        fixed = ["--model", str(bundle.root), "--backend", "fake", "-o", str(tmp_path / "out")]
        code = parse.main([*map(str, arguments), *fixed])
        captured = capsys.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)

    return run


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_every_frame_comes_with_its_time_and_its_parts(parser, clip):
    with open_video(clip) as video:
        parsed = list(parse_frames(parser, video))

    assert [each.frame.index for each in parsed] == list(range(6))
    assert [each.frame.time_ms for each in parsed] == pytest.approx([100 * i for i in range(6)])
    for number, each in enumerate(parsed):
        assert each.result.labels[8 * number + 4, 24] == HAIR
        assert each.result.labels[8 * number + 12, 24] == DRESS


def test_labels_overlay_and_json_are_written(parser, clip, tmp_path):
    film = parse_video(parser, clip, tmp_path / "out")

    assert (film.frames, film.problem) == (6, None)
    assert names_in(tmp_path / "out") == FILES
    assert {kind: path.name for kind, path in film.files.items()} == {
        "labels": "clip.labels",
        "overlay": "clip.overlay.mp4",
        "json": "clip.json",
    }
    assert names_in(film.files["labels"]) == [*(f"{i:06}.png" for i in range(6)), "frames.json"]
    labels = read_labels(film.files["labels"] / "000002.png")
    assert (labels.shape, labels[12, 24], labels[40, 24]) == ((64, 48), HAIR, DRESS)
    listed = json.loads((film.files["labels"] / "frames.json").read_text())["frames"]
    assert listed[3] == {"file": "000003.png", "time_ms": 300}
    told = json.loads(film.files["json"].read_text())
    assert (told["domain"], told["size_hw"], len(told["frames"])) == ("cihp", [64, 48], 6)
    assert list(told["frames"][0]["areas_px"]) == ["dress", "hair"]
    with open_video(film.files["overlay"]) as overlay:
        assert (overlay.fps, len(list(overlay))) == (10, 6)


def test_the_overlay_shows_the_frames_tinted(parser, clip, tmp_path):
    film = parse_video(parser, clip, tmp_path / "out", save=["overlay"])

    with open_video(clip) as video:
        expected = [each.result.overlay() for each in parse_frames(parser, video)]
    with open_video(film.files["overlay"]) as video:
        shown = [frame.image for frame in video]
    for wanted, seen in zip(expected, shown, strict=True):
        assert np.abs(wanted.astype(int) - seen).mean() < 20  # MPEG-4 smears colours


def test_only_what_is_asked_for_is_written_and_another_head_answers(parser, clip, tmp_path):
    film = parse_video(parser, clip, tmp_path / "out", save=["json"], head="atr", stem="film")

    assert names_in(tmp_path / "out") == ["film.json"]
    assert json.loads(film.files["json"].read_text())["domain"] == "atr"


def test_smoothing_reaches_the_frames_and_the_receipt(parser, clip, tmp_path):
    film = parse_video(parser, clip, tmp_path / "out", save=["json"], smooth=0.9)

    told = json.loads(film.files["json"].read_text())
    assert told["receipt"]["notes"] == ["scores smoothed over time with share 0.9"]
    plain = parse_video(parser, clip, tmp_path / "plain", save=["json"])
    frames = json.loads(plain.files["json"].read_text())["frames"]
    assert told["frames"][0] == frames[0]
    assert told["frames"][5] != frames[5]


def test_progress_is_told_frame_by_frame(parser, clip, tmp_path):
    told = []

    parse_video(
        parser, clip, tmp_path, save=["json"], tell=lambda done, total: told.append((done, total))
    )

    assert told == [(i, 6) for i in range(1, 7)]


@pytest.mark.parametrize("error", [BackendError, KeyboardInterrupt])
def test_an_interrupted_run_leaves_nothing_half_done_and_what_was_there(
    bundle, clip, tmp_path, error
):
    whole = parse_video(Parser(bundle, FakeBackend(bundle)), clip, tmp_path / "out")
    before = whole.files["overlay"].read_bytes()
    backend = Failing(bundle)
    backend.error = error

    for folder in ("out", "new"):
        backend.batches.clear()
        with pytest.raises(error):
            parse_video(Parser(bundle, backend), clip, tmp_path / folder, batch_size=1)

    assert names_in(tmp_path / "out") == FILES
    assert whole.files["overlay"].read_bytes() == before
    assert names_in(whole.files["labels"])[-1] == "frames.json"
    assert names_in(tmp_path / "new") == []


def test_a_shorter_video_of_the_same_name_leaves_no_old_labels(parser, tmp_path):
    for count in (6, 2):
        film = parse_video(parser, write_clip(tmp_path / "clip.mp4", count), tmp_path / "out")

    assert names_in(film.files["labels"]) == ["000000.png", "000001.png", "frames.json"]


def test_a_truncated_video_is_written_as_far_as_it_goes_and_says_so(parser, tmp_path):
    film = parse_video(parser, truncated(tmp_path / "clip.mkv"), tmp_path / "out")

    assert 5 <= film.frames <= 15
    assert film.problem
    assert "bytes are missing" in film.problem
    assert json.loads(film.files["json"].read_text())["problem"] == film.problem
    with open_video(film.files["overlay"]) as overlay:
        assert len(list(overlay)) == film.frames


def test_what_is_no_video_and_unknown_kinds_are_refused(parser, clip, tmp_path):
    (tmp_path / "text.mp4").write_text("no film")

    with pytest.raises(InputError, match=r"text\.mp4"):
        parse_video(parser, tmp_path / "text.mp4", tmp_path / "out")
    with pytest.raises(ConfigError, match=r"'masks'.*labels, overlay, json"):
        parse_video(parser, clip, tmp_path / "out", save=["masks"])
    assert not (tmp_path / "out").exists()


def shown(times_ms, fps=10):
    written: list[int] = []
    timeline = Timeline(lambda image: written.append(int(image[0, 0, 0])), fps)
    for number, time_ms in enumerate(times_ms):
        timeline.add(np.full((1, 1, 3), number, np.uint8), time_ms)
    timeline.finish()
    return written


@pytest.mark.parametrize(
    ("times_ms", "expected"),
    [
        ([0, 100, 200, 300], [0, 1, 2, 3]),
        ([0, 96, 203, 299], [0, 1, 2, 3]),  # jitter
        ([0, 300, 400], [0, 0, 0, 1, 2]),  # a long frame
        ([0, 100, 110, 120, 200], [0, 3, 4]),  # frames shorter than a tick
        ([5000, 5100], [0, 1]),  # time starts with the first frame
        ([7], [0]),
        ([], []),
    ],
)
def test_frames_of_changing_length_are_shown_when_they_should_be(times_ms, expected):
    assert shown(times_ms) == expected


def test_a_damaged_time_does_not_fill_the_disk():
    written = shown([0, 100, 3.6e9, 3.6e9 + 100])

    assert len(written) < 400
    assert written[-2:] == [2, 3]


def test_the_overlay_of_frames_of_changing_length_lasts_as_long(parser, tmp_path):
    pil = pytest.importorskip("PIL.Image", reason="Pillow is missing: pip install pillow")
    images = [pil.fromarray(frame_of(number)) for number in range(4)]
    durations_ms = [100, 700, 100, 300]
    images[0].save(
        tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=durations_ms
    )

    film = parse_video(parser, tmp_path / "a.gif", tmp_path / "out")

    assert film.frames == 4
    with open_video(film.files["overlay"]) as overlay:
        frames = list(overlay)
        assert overlay.fps
        assert len(frames) / overlay.fps == pytest.approx(1.2, abs=2 / overlay.fps)


def test_hp_parse_writes_overlay_video_and_labels_per_frame(run, clip, tmp_path):
    done = run(clip)

    assert (done.code, done.err) == (0, "")
    assert names_in(tmp_path / "out") == FILES
    assert f"{clip}  6 frames" in done.out
    assert f"overlay: {tmp_path / 'out' / 'clip.overlay.mp4'}" in done.out


def test_hp_parse_takes_photos_and_videos_in_one_call(run, clip, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), frame_of(1)[..., ::-1])
    cv2.imwrite(str(tmp_path / "clip.png"), frame_of(1)[..., ::-1])

    done = run(tmp_path / "a.png", clip, tmp_path / "clip.png", "--save", "json", "--smooth", "0.5")

    assert done.code == 0
    assert names_in(tmp_path / "out") == ["a.json", "clip-2.json", "clip.json"]


def test_hp_parse_tells_of_a_truncated_video_and_ends_with_7(run, tmp_path):
    done = run(truncated(tmp_path / "clip.mkv"), "--save", "overlay")

    assert done.code == 7
    assert "bytes are missing" in done.err
    assert len(done.err.splitlines()) == 1
    assert names_in(tmp_path / "out") == ["clip.overlay.mp4"]


def test_hp_parse_fails_with_3_where_no_frame_can_be_read(run, tmp_path):
    (tmp_path / "clip.mp4").write_text("no film")

    done = run(tmp_path / "clip.mp4")

    assert done.code == 3
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_hp_parse_refuses_a_wrong_share_before_it_loads(run, clip):
    assert run(clip, "--smooth", "1").code == 2


def test_hp_parse_interrupted_ends_with_130_and_writes_no_half_video(
    run, clip, tmp_path, monkeypatch
):
    write = VideoWriter.write

    def interrupted(self, image):
        if self.frames == 3:
            raise KeyboardInterrupt
        write(self, image)

    monkeypatch.setattr(VideoWriter, "write", interrupted)

    assert run(clip).code == 130
    assert not (tmp_path / "out").exists()


def test_hp_parse_shows_progress_on_a_terminal_only(run, clip, monkeypatch):
    assert run(clip, "--save", "json").err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)

    shown = run(clip, "--save", "json").err

    assert "6 of 6" in shown
    assert "left" in shown
    assert shown.endswith("\r\x1b[K")


def test_progress_tells_share_speed_and_remaining_time():
    assert progress_text("a", 30, 120, 2.5) == (
        "a [#####---------------] 25 %, 30 of 120, 12.0 per second, 0:08 left"
    )
    assert progress_text("a", 10, None, 2.0) == "a 10, 5.0 per second"
    assert progress_text("a", 1, 7200, 1.0).endswith("1:59:59 left")
    assert "100 %" in progress_text("a", 13, 12, 1.0)  # the count of a file is an estimate


def test_a_long_line_is_cut_to_the_width_of_the_terminal(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "20")

    with status_line() as show:
        show("x" * 50)

    assert "x" * 19 in (said := capsys.readouterr().err)
    assert "x" * 20 not in said
