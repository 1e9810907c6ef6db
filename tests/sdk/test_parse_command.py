"""hp-parse: what it writes, what it prints, how it fails."""

import io
import json
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from hp_sdk.backends import BACKENDS
from hp_sdk.cli.parse import main
from hp_sdk.domains import load_domain
from hp_sdk.image import load_image
from hp_sdk.png import read_labels
from hp_sdk.testing import FAKE, make_bundle

CIHP = load_domain("cihp")
HAIR = CIHP.index("hair")


def write_photo(path, height=64, width=48):
    """The middle half painted as hair."""
    labels = np.zeros((height, width), np.uint8)
    labels[height // 4 : 3 * height // 4] = HAIR
    cv2.imwrite(str(path), np.array(CIHP.palette, np.uint8)[labels][..., ::-1])
    return path


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setitem(BACKENDS, "fake", FAKE)
    return make_bundle(tmp_path / "model", domains=("cihp", "atr")).root


@pytest.fixture
def photo(tmp_path):
    return write_photo(tmp_path / "street.png")


@pytest.fixture
def run(model, tmp_path, capsys):
    """Run hp-parse on the fake model; exit code, stdout and stderr."""

    def run(*arguments, output=tmp_path / "out"):
        texts = [str(argument) for argument in arguments]
        code = main([*texts, "--model", str(model), "--backend", "fake", "-o", str(output)])
        captured = capsys.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)

    return run


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_photo_becomes_labels_an_overlay_and_json(run, photo, tmp_path):
    done = run(photo)

    assert (done.code, done.err) == (0, "")
    out = tmp_path / "out"
    assert names_in(out) == ["street.json", "street.labels.png", "street.overlay.png"]
    labels = read_labels(out / "street.labels.png")
    assert labels.shape == (64, 48)
    assert labels[32, 24] == HAIR
    assert json.loads((out / "street.json").read_text())["parts"][0]["name"] == "hair"
    assert load_image(out / "street.overlay.png").shape == (64, 48, 3)


def test_the_parts_their_share_and_the_overlay_are_printed(run, photo, tmp_path):
    printed = run(photo).out

    assert str(photo) in printed
    assert "48 x 64 px" in printed
    assert "hair 50.0 %" in printed
    assert f"overlay: {tmp_path / 'out' / 'street.overlay.png'}" in printed


def test_the_overlay_shows_the_photos_own_colours(run, photo, tmp_path):
    run(photo)

    overlay = load_image(tmp_path / "out" / "street.overlay.png")
    np.testing.assert_array_equal(overlay[2, 2], load_image(photo)[2, 2])


def test_only_what_is_asked_for_is_saved(run, photo, tmp_path):
    done = run(photo, "--save", "labels")

    assert names_in(tmp_path / "out") == ["street.labels.png"]
    assert "street.labels.png" in done.out


def test_folders_patterns_and_files_mix_and_each_photo_is_parsed_once(run, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("b.png", "a.jpg", "c.JPG"):
        write_photo(folder / name)
    (folder / "notes.txt").write_text("no photo")

    done = run(folder, folder / "*.png", folder / "a.jpg", "--save", "json")

    assert done.code == 0
    assert names_in(tmp_path / "out") == ["a.json", "b.json", "c.json"]


def test_earlier_output_in_the_same_folder_is_not_parsed_again(run, photo, tmp_path):
    run(photo, output=tmp_path)
    done = run(tmp_path, output=tmp_path)

    assert done.out.count(" px,") == 1


def test_photos_of_the_same_name_do_not_replace_each_other(run, tmp_path):
    paths = []
    for folder in ("one", "two", "three"):
        (tmp_path / folder).mkdir()
        paths.append(write_photo(tmp_path / folder / "x.png"))

    run(*paths, "--save", "json")

    assert names_in(tmp_path / "out") == ["x-2.json", "x-3.json", "x.json"]


def test_a_name_with_brackets_is_a_file_first(run, tmp_path):
    assert run(write_photo(tmp_path / "me[1].png"), "--save", "json").code == 0


def test_stdin_is_a_photo(run, photo, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(photo.read_bytes())))

    assert run("-").code == 0
    assert (tmp_path / "out" / "stdin.labels.png").is_file()


def test_flip_and_batches_are_recorded(run, photo, tmp_path):
    other = write_photo(tmp_path / "other.png", 30, 90)

    assert run(photo, other, "--tta", "flip", "--batch-size", "2").code == 0
    receipt = json.loads((tmp_path / "out" / "other.json").read_text())["receipt"]
    assert "flip" in receipt["tta"]


def test_another_head_answers_if_asked(run, photo, tmp_path):
    run(photo, "--domain", "atr", "--save", "json")

    assert json.loads((tmp_path / "out" / "street.json").read_text())["domain"] == "atr"


def test_some_bad_photos_cost_one_line_each_and_exit_7(run, photo, tmp_path):
    text = tmp_path / "text.jpg"
    text.write_text("hello")
    (tmp_path / "empty").mkdir()

    done = run(text, photo, tmp_path / "gone.jpg", tmp_path / "empty", tmp_path / "*.webp")

    assert done.code == 7
    lines = done.err.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("hp-parse: ") for line in lines)
    assert {"text.jpg", "gone.jpg", "empty", "*.webp"} == {
        name
        for name in ("text.jpg", "gone.jpg", "empty", "*.webp")
        for line in lines
        if f"{name}'" in line
    }
    assert names_in(tmp_path / "out") == [
        "street.json",
        "street.labels.png",
        "street.overlay.png",
    ]


@pytest.mark.parametrize("content", [b"", b"text", b"\xff\xd8\xff\xda half a photo"])
def test_only_bad_photos_are_exit_3_and_leave_nothing(run, tmp_path, content):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(content)

    done = run(bad, output=tmp_path / "deep" / "out")

    assert done.code == 3
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "deep").exists()


def test_an_unwritable_output_folder_is_exit_3_before_any_work(run, photo, tmp_path, monkeypatch):
    def never(*args, **options):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("hp_sdk.cli.parse.Parser.load", never)
    (tmp_path / "file").write_text("in the way")

    for output in (tmp_path / "file", tmp_path / "file" / "out"):
        done = run(photo, output=output)
        assert done.code == 3
        assert len(done.err.splitlines()) == 1
        assert "-o" in done.err
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_file_in_the_way_of_one_output_fails_that_photo_only(run, photo, tmp_path):
    other = write_photo(tmp_path / "other.png")
    (tmp_path / "out" / "street.json").mkdir(parents=True)

    done = run(photo, other)

    assert done.code == 7
    assert "street.json" in done.err
    assert (tmp_path / "out" / "other.json").is_file()


def test_a_missing_model_is_exit_4_and_leaves_no_folder(photo, tmp_path, capsys):
    code = main([str(photo), "--model", str(tmp_path / "nowhere"), "-o", str(tmp_path / "out")])

    assert code == 4
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_unknown_head_is_exit_4(run, photo):
    done = run(photo, "--domain", "legs")

    assert done.code == 4
    assert "cihp, atr" in done.err


def test_a_truncated_network_is_exit_4(run, photo, model):
    (model / "model.fake").write_bytes(b"fak")

    assert run(photo).code == 4


def test_an_unknown_backend_or_tta_is_exit_2(photo, model, capsys):
    for wrong in (["--backend", "magic"], ["--tta", "flop"], ["--batch-size", "0"]):
        assert main([str(photo), "--model", str(model), *wrong, "-o", str(model / "out")]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_unknown_kind_of_output_is_usage(photo, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(photo), "--save", "labels,video"])

    assert stop.value.code == 2
    assert "'video'" in capsys.readouterr().err


def test_a_cuda_device_that_is_not_there_is_exit_5(photo, tmp_path, capsys):
    ort = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip(
            "a machine without CUDA is missing: install onnxruntime in place of onnxruntime-gpu"
        )
    model = make_bundle(tmp_path / "onnx", runtime="onnx").root

    code = main(
        [str(photo), "--model", str(model), "--device", "cuda:0", "-o", str(tmp_path / "o")]
    )

    assert code == 5
    assert "hp-sdk[gpu]" in capsys.readouterr().err
