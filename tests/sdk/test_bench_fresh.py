"""hp_sdk.bench.fresh and setting: what fresh processes and the machine tell."""

import pytest

from hp_sdk.bench.fresh import cold_start, multiply, peak_memory_bytes
from hp_sdk.bench.pictures import photo_sets
from hp_sdk.bench.setting import read_machine_facts
from hp_sdk.errors import BackendError


def test_the_machine_is_described_with_its_governor_and_peak(tmp_path, monkeypatch):
    monkeypatch.setattr("hp_sdk.bench.setting.measure_peak", lambda threads: 50.0)
    folder = tmp_path / "sys/devices/system/cpu/cpu0/cpufreq"
    folder.mkdir(parents=True)
    (folder / "scaling_governor").write_text("powersave\n")

    facts = read_machine_facts(2, tmp_path)
    assert (facts.governor, facts.peak_gflops) == ("powersave", 50)
    assert "threads: 2" in facts.peak_how
    assert [problem for problem in facts.problems() if "powersave" in problem]


def test_the_peak_of_a_matrix_product_is_positive():
    assert multiply(size=32, products=2)["gflops"] > 0


def test_the_peak_memory_is_the_process_own(tmp_path):
    (tmp_path / "status").write_text("Name:\tpython\nVmPeak:\t 9 kB\nVmHWM:\t  2048 kB\n")

    assert peak_memory_bytes(tmp_path / "status") == 2**21
    assert (peak_memory_bytes() or 0) > 2**20


def test_a_fresh_process_starts_cold_and_survives(tmp_path):
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    (drawn,) = photo_sets((), [(64, 48)])
    photo = tmp_path / "a.jpg"
    photo.write_bytes(drawn.files[0])
    options = {"backend": "onnxruntime", "device": "cpu", "num_threads": 1}

    cold = cold_start("cihp", [str(photo)], starts=1, load_options=options, batch_size=1)

    assert min(cold.import_ms, cold.load_ms, cold.first_ms) > 0
    assert cold.total_ms == pytest.approx(cold.import_ms + cold.load_ms + cold.first_ms)
    assert cold.peak_memory_bytes is not None
    assert 2e7 < cold.peak_memory_bytes < 2e9


def test_a_fresh_process_that_fails_is_one_error(tmp_path):
    with pytest.raises(BackendError, match="nowhere") as failure:
        cold_start(str(tmp_path / "nowhere"), [], starts=1, load_options={}, batch_size=1)
    assert "--cold 0" in str(failure.value)
