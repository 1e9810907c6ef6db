"""hp-doctor: a line for everything, a remedy for every problem, a traceback for nothing."""

import json
import sys
from dataclasses import replace

import pytest

from hp_sdk import doctor, models
from hp_sdk.backends import BACKENDS
from hp_sdk.cli import doctor as command
from hp_sdk.doctor import examine
from hp_sdk.machine import Graphics
from hp_sdk.probe import Outcome
from hp_sdk.testing import make_bundle

GPU = Graphics(source="nvidia-smi", driver="580.1", gpus=("NVIDIA H200, 141 GiB",))


def installed(*devices, listed=None):
    fact = {"version": "9.9", "listed": listed or list(devices), "devices": list(devices)}
    return {"installed": fact}


def works(device="cpu"):
    numbers = {"ready_ms": 200.0, "parse_ms": 30.0}
    return {
        "works": {"device": device, "provider": device.upper(), "precision": "fp32", "notes": []}
        | numbers
    }


def fails(device, error="it did not start"):
    return {"fails": {"device": device, "error": error}}


class Probes:
    """Answers for `run_probe`: one runtime that works, four that are absent, OpenCV, no driver."""

    def __init__(self):
        self.answers = {
            ("module", "cv2"): Outcome([{"version": "5.0"}]),
            ("driver",): Outcome(),
            ("runtime", "tensorrt"): Outcome([{"absent": "TensorRT is not installed; pip"}]),
            ("runtime", "tensorrt-rtx"): Outcome([{"absent": "TensorRT-RTX is not installed"}]),
            ("runtime", "onnxruntime"): Outcome([installed("cpu"), {"trying": "cpu"}, works()]),
            ("runtime", "openvino"): Outcome([{"absent": "OpenVINO is not installed; pip"}]),
            ("runtime", "torch"): Outcome([{"absent": "torch is not installed; pip"}]),
        }
        self.folders = {}

    def __call__(self, probe, *arguments):
        if probe == "runtime":
            name, self.folders[name] = arguments
            arguments = (name,)
        return self.answers[(probe, *arguments)]


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """A package with one good bundle, an HP_HOME to be, no NVIDIA, no rival distributions."""
    monkeypatch.setenv("HP_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HP_OFFLINE", raising=False)
    monkeypatch.setattr(models, "_SHIPPED", tmp_path / "package")
    monkeypatch.setattr(doctor, "find_nvidia", lambda: None)
    monkeypatch.setattr(doctor.metadata, "packages_distributions", dict)
    make_bundle(tmp_path / "package" / "universal", runtime="onnx")


@pytest.fixture
def probes():
    return Probes()


def problems(report):
    return {problem.what: problem.remedy for problem in report.problems}


def the_problem(report):
    (problem,) = report.problems
    return f"{problem.what} -> {problem.remedy}"


def test_where_all_is_well_there_is_no_problem(probes, tmp_path):
    report = examine(probes)

    assert report.works
    assert report.problems == ()
    states = {runtime.name: runtime.state for runtime in report.runtimes}
    assert states.pop("onnxruntime") == "works"
    assert set(states.values()) == {"absent"}
    assert report.opencv == "5.0"
    assert [(bundle.name, bundle.error) for bundle in report.bundles] == [("universal", "")]
    assert probes.folders["onnxruntime"] == str(tmp_path / "package" / "universal")
    assert not (tmp_path / "home").exists()


def test_without_any_runtime_the_extra_is_named(probes):
    probes.answers["runtime", "onnxruntime"] = Outcome([{"absent": "not installed"}])

    report = examine(probes)

    assert not report.works
    assert the_problem(report) == 'no runtime is installed -> pip install "hp-sdk[cpu]"'


def test_cuda_that_is_listed_and_does_not_start_is_a_problem_and_the_cpu_still_works(probes):
    facts = [installed("cpu", "cuda"), {"trying": "cpu"}, works(), {"trying": "cuda"}]
    probes.answers["runtime", "onnxruntime"] = Outcome([*facts, fails("cuda", "libcublas missing")])

    report = examine(probes)

    assert report.works
    assert "onnxruntime lists cuda but runs no model on it: libcublas missing" in problems(report)
    assert "install NVIDIA's driver" in the_problem(report)


def test_with_a_gpu_the_remedy_is_the_cuda_libraries(probes, monkeypatch):
    monkeypatch.setattr(doctor, "find_nvidia", lambda: GPU)
    facts = [installed("cpu", "cuda"), works(), fails("cuda")]
    probes.answers["runtime", "onnxruntime"] = Outcome(facts)

    assert "onnxruntime-gpu[cuda,cudnn]" in the_problem(examine(probes))


def test_a_gpu_that_no_runtime_uses_is_told(probes, monkeypatch):
    monkeypatch.setattr(doctor, "find_nvidia", lambda: GPU)

    assert 'NVIDIA H200, 141 GiB) -> pip uninstall -y onnxruntime; pip install "hp-sdk[gpu]"' in (
        the_problem(examine(probes))
    )


def test_a_runtime_that_crashes_is_a_line_and_the_others_are_still_tried(probes):
    crash = "crashed with SIGSEGV"
    probes.answers["runtime", "openvino"] = Outcome([], crash)
    probes.answers["runtime", "torch"] = Outcome([installed("cpu"), {"trying": "cpu"}], crash)

    report = examine(probes)

    assert report.works
    states = {runtime.name: runtime.state for runtime in report.runtimes}
    assert states["onnxruntime"] == "works"
    assert (states["openvino"], states["torch"]) == ("broken", "fails")
    assert any("openvino crashed with SIGSEGV" in what for what in problems(report))
    assert any("torch lists cpu" in what and crash in what for what in problems(report))

    probes.answers["runtime", "torch"] = Outcome([installed("cpu")], crash)
    assert examine(probes).runtimes[-1].state == "broken"


def test_a_runtime_without_a_model_of_its_kind_is_untried_not_broken(probes):
    probes.answers["runtime", "torch"] = Outcome([installed("cpu")])

    report = examine(probes)

    assert probes.folders["torch"] == ""
    assert report.runtimes[-1].state == "untried"
    assert "kind 'torch'" in report.runtimes[-1].message
    assert report.problems == ()


def test_an_opencv_that_cannot_be_imported_is_the_one_problem(probes):
    probes.answers["module", "cv2"] = Outcome([], "ended with exit code 1: libGL.so.1 not found")
    probes.answers["runtime", "onnxruntime"] = Outcome([installed("cpu"), fails("cpu", "libGL")])

    report = examine(probes)

    assert not report.works
    assert "libGL.so.1" in the_problem(report)
    assert "opencv-python-headless" in the_problem(report)


@pytest.fixture
def distributions(tmp_path, monkeypatch):
    """Install distributions that own a module, as far as their metadata goes."""
    site = tmp_path / "site"

    def install(module, *names):
        for name in names:
            folder = site / f"{name.replace('-', '_')}-1.0.dist-info"
            folder.mkdir(parents=True)
            (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            (folder / "top_level.txt").write_text(f"{module}\n")

    monkeypatch.undo()
    monkeypatch.setenv("HP_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(doctor, "find_nvidia", lambda: None)
    monkeypatch.setattr(sys, "path", [str(site)])
    return install


@pytest.mark.parametrize(
    ("module", "names", "keep"),
    [
        ("cv2", ("opencv-python", "opencv-python-headless"), "opencv-python-headless"),
        ("cv2", ("opencv_contrib_python", "opencv-python"), "opencv-contrib-python"),
        ("onnxruntime", ("onnxruntime", "onnxruntime-gpu"), "onnxruntime"),
    ],
)
def test_two_distributions_of_one_module_are_told(probes, distributions, module, names, keep):
    distributions(module, *names)
    both = sorted(name.replace("_", "-") for name in names)

    what, remedy = next(iter(problems(examine(probes)).items()))

    assert what.startswith(f"{both[0]} and {both[1]} both install the module '{module}'")
    assert remedy == f"pip uninstall -y {' '.join(both)}; pip install {keep}"


def test_with_a_gpu_the_gpu_build_is_kept(probes, distributions, monkeypatch):
    distributions("onnxruntime", "onnxruntime", "onnxruntime-gpu")
    monkeypatch.setattr(doctor, "find_nvidia", lambda: GPU)

    assert any(
        remedy.endswith("pip install onnxruntime-gpu")
        for remedy in problems(examine(probes)).values()
    )


def test_one_distribution_seen_twice_is_one(probes, distributions):
    distributions("cv2", "opencv-python")
    sys.path.append(f"{sys.path[0]}/.")

    assert problems(examine(probes)) == {}


def test_an_hp_home_that_cannot_be_written_to_is_told(probes, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HP_HOME", str(tmp_path / "file" / "home"))

    report = examine(probes)

    assert report.works
    assert str(tmp_path / "file" / "home") in the_problem(report)
    assert "set HP_HOME" in the_problem(report)


def test_a_damaged_model_is_told_and_another_one_is_tried(probes, tmp_path):
    make_bundle(tmp_path / "home" / "models" / "mine", runtime="onnx")
    damaged = tmp_path / "package" / "universal" / "model.onnx"
    damaged.write_bytes(b"x" + damaged.read_bytes()[1:])

    report = examine(probes)

    assert "damaged" in the_problem(report)
    assert "reinstall" in the_problem(report)
    assert probes.folders["onnxruntime"] == str(tmp_path / "home" / "models" / "mine")


def test_a_damaged_model_of_the_users_own_is_to_be_added_again(probes, tmp_path):
    mine = make_bundle(tmp_path / "home" / "models" / "mine").root
    (mine / "bundle.json").write_text("{")

    assert "hp-models add mine BUNDLE" in the_problem(examine(probes))


def test_json_holds_the_whole_report(probes, monkeypatch, capsys):
    monkeypatch.setenv("HP_OFFLINE", "1")
    monkeypatch.setattr(command, "examine", lambda: examine(probes))

    assert command.main(["--json"]) == 0

    told = json.loads(capsys.readouterr().out)
    assert told["works"] is True
    assert told["offline"] == "1"
    assert told["runtimes"][2]["trials"][0]["parse_ms"] == 30.0
    assert told["machine"]["cores"] >= 1
    assert {"version", "graphics", "opencv", "bundles", "home", "problems"} <= set(told)


def test_the_text_says_what_runs_what_is_wrong_and_what_to_do(probes, monkeypatch, capsys):
    facts = [installed("cpu", "cuda"), works(), fails("cuda", "no driver")]
    probes.answers["runtime", "onnxruntime"] = Outcome(facts)
    monkeypatch.setattr(command, "examine", lambda: examine(probes))

    assert command.main([]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert "runtime   onnxruntime 9.9 lists cpu, cuda" in lines
    assert any(line.split()[:3] == ["cpu", "works:", "CPU"] for line in lines)
    assert any(line.split()[:2] == ["cuda", "fails:"] for line in lines)
    assert 'runtime   openvino is not installed; pip install "hp-sdk[openvino]"' in lines
    assert any(line.startswith("problem   onnxruntime lists cuda") for line in lines)
    assert any(line.startswith("  remedy  install NVIDIA's driver") for line in lines)
    assert lines[-1] == "verdict   models can be parsed with onnxruntime on cpu"


def test_where_nothing_can_be_parsed_the_exit_code_is_5(probes, monkeypatch, capsys):
    report = replace(examine(probes), runtimes=())
    monkeypatch.setattr(command, "examine", lambda: report)

    assert command.main([]) == 5
    assert capsys.readouterr().out.splitlines()[-1] == "verdict   no model can be parsed here"


def test_the_drivers_own_library_is_asked_where_there_is_no_nvidia_smi(probes):
    fact = {"driver": "CUDA 13.0", "gpus": ["NVIDIA H200"]}
    probes.answers["driver",] = Outcome([fact])
    assert examine(probes).graphics == Graphics(
        source="CUDA driver library", driver="CUDA 13.0", gpus=("NVIDIA H200",)
    )

    probes.answers["driver",] = Outcome([], "crashed with SIGSEGV")
    assert "the CUDA driver library crashed with SIGSEGV" in the_problem(examine(probes))


def test_every_backend_is_in_the_report(probes):
    assert [runtime.name for runtime in examine(probes).runtimes] == list(BACKENDS)
