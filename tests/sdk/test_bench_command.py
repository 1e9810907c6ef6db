"""hp-bench: what it prints and writes, and when it fails."""

import io
import json
import re
import sys
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest

import hp_sdk.bench
from hp_sdk.backends import BACKENDS, BackendEntry
from hp_sdk.bench.compare import read_base
from hp_sdk.bench.pictures import photo_sets
from hp_sdk.bench.plot import HEAD_PX, ROW_PX, WIDTH_PX
from hp_sdk.cli.bench import main
from hp_sdk.testing import FAKE, FakeBackend, make_bundle, palette_oracle

FACTS = {"import_ms": 100.0, "load_ms": 50.0}


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """No GPU, a known peak, and no process is started."""
    starts = iter(range(1, 1000))

    def child(task, arguments, environment):
        if task == "peak":
            return {"gflops": 50.0}
        start = next(starts)
        return FACTS | {"first_ms": float(start), "peak_memory_bytes": 10**8 + start}

    monkeypatch.setattr("hp_sdk.bench.fresh._run_child", child)
    monkeypatch.setattr("hp_sdk.bench.setting.find_nvidia", lambda: None)
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0), raising=False)
    monkeypatch.setattr("hp_sdk.bench.measure.WARMUP_S", 0.0)  # a busy machine never settles


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setitem(BACKENDS, "fake", FAKE)
    return make_bundle(tmp_path / "model").root


@pytest.fixture
def run(model, capsys):
    """Run hp-bench on the fake model; exit code, stdout and stderr."""

    def run(*arguments, runs=6):
        texts = [str(argument) for argument in arguments]
        backend = [] if "--backend" in texts else ["--backend", "fake"]
        few = ["--size", "64x48", "--runs", str(runs), "--cold", "0"]
        code = main([str(model), *backend, *few, *texts])
        captured = capsys.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)

    return run


@pytest.fixture
def rival(monkeypatch):
    """Register a second backend, "rival", which answers with `oracle`."""

    def register(oracle):
        module = ModuleType("rival_backend")

        class Rival(FakeBackend):
            name = "rival"

        def open_artifact(bundle, artifact, options):
            return Rival(bundle, oracle)

        vars(module)["open_artifact"] = open_artifact
        monkeypatch.setitem(sys.modules, "rival_backend", module)
        monkeypatch.setitem(BACKENDS, "rival", BackendEntry("rival_backend", "dev", "fake"))

    return register


def test_every_configuration_gets_its_lines(run, rival):
    rival(palette_oracle)
    done = run("--backend", "fake,rival", "--batch", "1,3", "--size", "64x48,32x32")

    assert (done.code, done.err) == (0, "")
    for backend in ("fake", "rival"):
        for batch in (1, 3):
            for size in ("64x48", "32x32"):
                assert done.out.count(f"\n  {backend}, batch {batch}, {size}  ") == 3
    for word in ("p50", "p99", "images/s", "decode", "postprocess", "overhead", "50 GFLOP/s"):
        assert word in done.out


def test_the_report_holds_every_run_and_adds_up(run, tmp_path):
    done = run("--batch", "2", "--tta", "flip", "--threads", "1", "--json", tmp_path / "r.json")
    report = json.loads((tmp_path / "r.json").read_text())

    assert done.code == 0
    assert (report["schema"], report["kind"]) == ("1.0", "hp-bench")
    assert report["setting"]["options"]["threads"] == 1
    assert report["setting"]["model"]["name"] == "fake"
    (row,) = report["configurations"]
    assert len(row["samples_ms"]) == row["runs"] == 6
    assert "flip" in row["tta"]
    ranked = sorted(row["samples_ms"])
    assert row["latency_ms"]["p50"]["value"] == ranked[2]
    assert row["latency_ms"]["p99"]["value"] == ranked[5]
    assert row["latency_ms"]["p99"]["high"] is None  # six runs cannot bound it
    mean = row["latency_ms"]["mean"]["value"]
    assert sum(stage["mean"] for stage in row["stages_ms"].values()) == pytest.approx(
        mean, rel=0.02
    )
    assert row["throughput"]["value"] == pytest.approx(2e3 / mean, rel=0.01)
    assert row["outputs"]["stable"]
    assert row["cold"] is None
    assert report["comparison"] is None


def keys_of(data):
    """Every key of a report but those that are names: of files, processor flags and packages."""
    for key, value in data.items():
        yield key
        if isinstance(value, dict) and key not in {"flags", "artifacts", "versions"}:
            yield from keys_of(value)
        for item in value if isinstance(value, list) else ():
            yield from keys_of(item) if isinstance(item, dict) else ()


def test_every_key_of_the_report_is_documented(run, base):
    path = base(1)
    run("--compare", path, "--cold", "1", "--json", path)
    documented = set(re.findall(r"\w+", str(hp_sdk.bench.__doc__)))

    assert set(keys_of(json.loads(path.read_text()))) <= documented


def test_progress_is_told_on_a_terminal_and_wiped_off(run, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)

    assert run().code == 0
    assert "measuring 0 %" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_cold_starts_are_medians_and_the_largest_memory(run, tmp_path):
    done = run("--cold", "3", "--json", tmp_path / "r.json")
    (row,) = json.loads((tmp_path / "r.json").read_text())["configurations"]

    assert row["cold"] == {
        "starts": 3,
        "import_ms": 100,
        "load_ms": 50,
        "first_ms": 2,
        "total_ms": 152,
        "peak_memory_bytes": 10**8 + 3,
    }
    assert "cold start" in done.out
    assert "100 MB" in done.out


def test_macs_of_the_card_give_the_share_of_the_peak(run, model, tmp_path):
    path = model / "bundle.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"card": {"macs": {"cihp": 2_500_000_000}}}))

    done = run("--json", tmp_path / "r.json")

    assert "2.50 GMACs" in done.out
    report = json.loads((tmp_path / "r.json").read_text())
    (row,) = report["configurations"]
    assert row["network_gflops"] == pytest.approx(5e3 / row["stages_ms"]["infer"]["mean"], rel=0.01)


def test_own_photos_are_parsed_in_their_own_size(run, tmp_path, model, capsys):
    (drawn,) = photo_sets((), [(40, 30)])
    (tmp_path / "me.jpg").write_bytes(drawn.files[0])
    few = ["--backend", "fake", "--runs", "1", "--cold", "0"]

    assert main([str(model), "--photo", str(tmp_path / "me.jpg"), *few]) == 0
    out = capsys.readouterr().out
    assert "me.jpg, 40x30" in out
    assert "fake, batch 1, 40x30" in out


def test_labels_that_differ_from_run_to_run_are_exit_6_after_the_report_is_written(
    run, rival, tmp_path
):
    calls = iter(range(10**6))
    rival(lambda batch, head: np.roll(palette_oracle(batch, head), next(calls), axis=1))

    done = run("--backend", "rival", "--json", tmp_path / "r.json", "--plot", tmp_path / "r.png")

    assert done.code == 6
    assert done.err.startswith("hp-bench: rival, batch 1, 64x48: ")
    assert len(done.err.splitlines()) == 1
    assert "FAIL" in done.out
    assert not json.loads((tmp_path / "r.json").read_text())["configurations"][0]["outputs"][
        "stable"
    ]
    assert (tmp_path / "r.png").is_file()


def test_a_backend_that_answers_otherwise_than_the_first_is_exit_6(run, rival):
    rival(lambda batch, head: palette_oracle(batch, head)[:, ::-1])

    done = run("--backend", "fake,rival")

    assert done.code == 6
    assert "rival, batch 1, 64x48: only " in done.err


@pytest.fixture
def base(run, tmp_path):
    """Write a report whose every sample is `factor` times what was measured."""

    def write(factor, **changes):
        path = tmp_path / "base.json"
        run("--json", path, runs=12)
        data = json.loads(path.read_text())
        for row in data["configurations"]:
            row["samples_ms"] = [factor * sample for sample in row["samples_ms"]]
        for section, facts in changes.items():
            data["setting"][section] |= facts
        path.write_text(json.dumps(data))
        return path

    return write


def test_slower_than_the_base_is_exit_6_and_says_by_how_much(run, base):
    path = base(0.01)
    done = run("--compare", path, "--json", path, runs=12)

    assert done.code == 6
    assert f"% slower than {path}" in done.err
    assert len(done.err.splitlines()) == 1
    (change,) = json.loads(path.read_text())["comparison"]["changes"]
    assert change["verdict"] == "slower"
    assert change["ratio"]["low"] > 1


def test_faster_than_the_base_or_within_the_tolerance_is_fine(run, base):
    done = run("--compare", base(100), runs=12)
    assert done.code == 0
    assert "faster" in done.out

    assert run("--compare", base(0.5), "--tolerance", "1000", runs=12).code == 0


def test_a_base_of_another_machine_is_exit_3_before_anything_is_measured(run, base, monkeypatch):
    path = base(0.01, machine={"processor": "abacus"})

    def never(*args, **options):
        raise AssertionError("it was measured")

    with monkeypatch.context() as patch:
        patch.setattr("hp_sdk.bench.session.measure", never)
        done = run("--compare", path)
    assert done.code == 3
    assert "abacus" in done.err
    assert "--force" in done.err

    forced = run("--compare", path, "--force", runs=12)
    assert forced.code == 6
    assert "note: processor was 'abacus'" in forced.out


def test_what_is_written_can_be_read_as_a_base(run, tmp_path):
    run("--batch", "1,2", "--json", tmp_path / "r.json")

    keys = list(read_base(tmp_path / "r.json").entries)
    assert [key.batch for key in keys] == [1, 2]
    assert {key.size_hw for key in keys} == {(64, 48)}


def test_the_picture_has_a_band_for_each_configuration(run, tmp_path):
    run("--batch", "1,4", "--plot", tmp_path / "p.png")
    one_band = run("--plot", tmp_path / "one.png")
    picture, single = (cv2.imread(str(tmp_path / name)) for name in ("p.png", "one.png"))

    assert one_band.code == 0
    assert picture is not None
    assert single is not None
    assert picture.shape[1] == WIDTH_PX
    assert picture.shape[0] - single.shape[0] == ROW_PX
    for top in (HEAD_PX, HEAD_PX + ROW_PX):
        assert (picture[top : top + ROW_PX].min(axis=2) < 128).mean() > 0.005  # ink in every band


@pytest.mark.parametrize(
    "wrong",
    [
        ["--batch", "0"],
        ["--batch", "1,x"],
        ["--size", "64"],
        ["--runs", "0"],
        ["--duration", "-1"],
        ["--duration", "5", "--runs", "5"],
        ["--tolerance", "-0.1"],
        ["--threads", "none"],
        ["--backend", ","],
        ["--cold", "-1"],
    ],
)
def test_a_malformed_option_is_usage(wrong, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["cihp", *wrong])

    assert stop.value.code == 2
    assert wrong[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (["--backend", "magic"], 2),
        (["--tta", "flop"], 2),
        (["--plot", "p.jpg"], 2),
        (["--photo", "gone.jpg"], 3),
        (["--compare", "gone.json"], 3),
    ],
)
def test_bad_input_is_one_line_and_its_exit_code(run, wrong, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(*wrong)

    assert done.code == code
    assert len(done.err.splitlines()) == 1
    assert wrong[1] in done.err
    assert done.out == ""


def test_a_place_that_cannot_be_written_to_is_said_before_measuring(run, tmp_path):
    (tmp_path / "file").write_text("in the way")

    for option in ("--json", "--plot"):
        for place in (tmp_path, tmp_path / "file" / "r.png"):
            done = run(option, place)
            assert (done.code, done.out) == (2, "")
            assert len(done.err.splitlines()) == 1


def test_a_missing_model_is_exit_4(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 4
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_busy_machine_is_noted(run, monkeypatch):
    monkeypatch.setattr("os.getloadavg", lambda: (99.0, 9.0, 9.0), raising=False)

    assert "note: other programs were busy" in run().out
