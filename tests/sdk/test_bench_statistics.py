"""hp_sdk.bench.statistics and compare: intervals that hold what they promise."""

import copy
import json

import numpy as np
import pytest

from hp_sdk.bench.compare import Entry, Key, read_base
from hp_sdk.bench.setting import MachineFacts, ModelFacts, Options, PhotoFacts, Setting
from hp_sdk.bench.statistics import RUNS_MIN, mean, percentile, ratio_of_medians
from hp_sdk.errors import InputError


def test_percentiles_are_by_nearest_rank():
    samples = np.random.default_rng(0).permutation(np.arange(1.0, 101.0))

    assert [percentile(samples, p).value for p in (50, 90, 99, 100 - 1)] == [50, 90, 99, 99]
    assert percentile([3.0], 99).value == 3
    assert percentile([2.0, 1.0], 50).value == 1


def test_the_median_of_a_hundred_lies_between_the_40th_and_the_61st():
    """The ranks of every printed table of distribution-free intervals."""
    estimate = percentile(np.arange(1.0, 101.0), 50)

    assert (estimate.low, estimate.high) == (40, 61)


def test_a_bound_that_too_few_samples_cannot_give_is_missing():
    few = percentile(np.arange(RUNS_MIN - 1.0), 50)
    enough = percentile(np.arange(float(RUNS_MIN)), 50)

    assert (few.low, few.high) == (None, None)
    assert (enough.low, enough.high) == (0, RUNS_MIN - 1)
    # All of n samples lie below the 99th percentile with a chance of 0.99**n.
    assert percentile(np.arange(367.0), 99).high is None
    assert percentile(np.arange(368.0), 99).high is not None


@pytest.mark.parametrize("percent", [50, 90])
def test_intervals_of_percentiles_hold_the_truth_as_often_as_they_say(percent):
    random, truth = np.random.default_rng(1), -np.log(1 - percent / 100)
    draws = [percentile(random.exponential(size=80), percent) for _ in range(600)]
    held = [(d.low or 0) <= truth <= (d.high or np.inf) for d in draws]

    assert 0.94 <= np.mean(held) <= 0.995


def test_the_bootstrap_of_a_mean_is_as_wide_as_theory_has_it():
    samples = np.random.default_rng(2).normal(10, 2, 400)
    estimate = mean(samples)

    assert estimate.value == pytest.approx(samples.mean())
    assert estimate.low is not None
    assert estimate.high is not None
    width = 2 * 1.96 * samples.std() / 400**0.5
    assert estimate.high - estimate.low == pytest.approx(width, rel=0.1)
    assert mean(samples) == estimate


def test_throughput_turns_the_interval_round():
    estimate = mean([9.0, 10.0, 11.0] * 4).inverse(1000)

    assert estimate.value == pytest.approx(100)
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.low < 100 < estimate.high


def test_a_ratio_of_equals_is_one_and_of_doubles_two():
    samples = np.random.default_rng(3).gamma(50, 0.2, 200)
    same, double = ratio_of_medians(samples, samples), ratio_of_medians(2 * samples, samples)

    assert same.value == 1
    assert same.low is not None
    assert same.high is not None
    assert same.low < 1 < same.high
    assert double.value == 2
    assert double.low is not None
    assert double.low > 1.8
    assert ratio_of_medians([1.0] * 5, [1.0] * 100).low is None


KEY = Key("onnxruntime", "CPUExecutionProvider", "fp32", "none", None, 1, (64, 48))


def setting(**machine):
    facts = {
        "processor": "abacus",
        "cores": 2,
        "core_quota": 4 / 3,
        "flags": {"avx2": True},
        "memory_bytes": 2**30,
        "system": "",
        "python": "3",
        "gpus": (),
        "driver": "",
        "governor": None,
        "load_average": 0.1,
        "peak_gflops": 100.0,
        "peak_how": "",
        "versions": {"numpy": "2.0"},
    }
    return Setting(
        options=Options(model="cihp"),
        machine=MachineFacts(**(facts | machine)),
        model=ModelFacts(
            name="m", version="1", family="sst", head="cihp", macs=None, artifacts={"a.onnx": "0f"}
        ),
        photos=(PhotoFacts(title="", identity="drawn 1", count=4, size_hw=(64, 48)),),
    )


def noisy(median_ms, count=200):
    return tuple(float(x) for x in np.random.default_rng(4).normal(median_ms, 0.2, count))


def data_of(samples):
    row = {
        "backend": KEY.backend,
        "version": "1.20",
        "provider": KEY.provider,
        "precision": KEY.precision,
        "tta": KEY.tta,
        "batch": KEY.batch,
        "size_hw": [64, 48],
        "outputs": {"sha256": "aa"},
        "samples_ms": samples,
    }
    return {
        "schema": "1.0",
        "kind": "hp-bench",
        "setting": setting().to_dict(),
        "configurations": [row],
    }


@pytest.fixture
def base_of(tmp_path):
    def write(data):
        path = tmp_path / "base.json"
        path.write_text(data if isinstance(data, str) else json.dumps(data))
        return read_base(path)

    return write


@pytest.mark.parametrize(
    ("now_ms", "verdict"),
    [(10.0, "same"), (10.3, "same"), (11.0, "slower"), (9.0, "faster")],
)
def test_a_change_beyond_the_tolerance_is_told(base_of, now_ms, verdict):
    now = {KEY: Entry("1.20", "aa", noisy(now_ms))}
    comparison = base_of(data_of(noisy(10.0))).compare(now, tolerance=0.05)

    (change,) = comparison.changes
    assert change.verdict == verdict
    assert change.ratio.value == pytest.approx(now_ms / 10, rel=0.01)
    assert bool(comparison.slower) == (verdict == "slower")


def test_what_may_be_chance_does_not_fail(base_of):
    wide = [10.0 + 4 * (i % 7) for i in range(14)]
    now = {KEY: Entry("1.20", "aa", tuple(1.1 * ms for ms in wide))}
    comparison = base_of(data_of(wide)).compare(now, tolerance=0.05)

    assert comparison.changes[0].verdict == "perhaps slower"
    assert not comparison.slower


def test_too_few_runs_decide_nothing(base_of):
    now = {KEY: Entry("1.20", "aa", (30.0,))}

    assert base_of(data_of([10.0])).compare(now).changes[0].verdict == "too few runs"


def test_other_labels_and_other_versions_are_remarked(base_of):
    base = base_of(data_of([10.0] * 9))
    notes = base.check(setting(versions={"numpy": "2.1"}), [KEY])
    comparison = base.compare({KEY: Entry("1.21", "bb", (10.0,) * 9)}, notes=notes)

    told = "\n".join(comparison.notes)
    assert "numpy was 2.0 and is 2.1" in told
    assert "onnxruntime was 1.20 and is 1.21" in told
    assert "not every label" in told
    assert comparison.changes[0].verdict == "same"


def test_the_same_machine_and_model_are_accepted_without_a_word(base_of):
    assert base_of(data_of([10.0] * 9)).check(setting(), [KEY]) == []


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("machine", "processor"), "slide rule", "processor was 'slide rule' and is 'abacus'"),
        (("machine", "gpus"), ["H100"], "gpus"),
        (("model", "name"), "other", "model name was 'other'"),
        (("model", "artifacts"), {"a.onnx": "1e"}, "a.onnx was another file"),
        (("model", "artifacts"), {"b.plan": "1e"}, "files were b.plan"),
        (("photos",), [{"identity": "drawn 0"}], "photos"),
    ],
)
def test_another_machine_model_or_photo_is_refused_unless_forced(base_of, path, value, told):
    data = copy.deepcopy(data_of([10.0] * 9))
    place = data["setting"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    base = base_of(data)

    with pytest.raises(InputError, match=r"--force") as refusal:
        base.check(setting(), [KEY])
    assert told in str(refusal.value)
    assert any(told in note for note in base.check(setting(), [KEY], force=True))


def test_configurations_without_a_partner_are_named_and_without_any_refused(base_of):
    base = base_of(data_of([10.0] * 9))

    (note,) = base.check(setting(), [KEY, KEY._replace(batch=8)])
    assert "batch 8" in note
    with pytest.raises(InputError, match="nothing to compare"):
        base.check(setting(), [KEY._replace(threads=1)], force=True)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda data: "{", "as JSON"),
        (lambda data: [1], "kind"),
        (lambda data: data | {"kind": "other"}, "kind"),
        (lambda data: data | {"schema": "2.0"}, "schema is 2.0"),
        (lambda data: data | {"configurations": [{}]}, "lacks"),
        (lambda data: data | {"setting": {}}, "lacks 'options'"),
        (lambda data: data_of([]), "samples"),
        (lambda data: data_of([0.0]), "samples"),
        (lambda data: data_of(["fast"]), "fast"),
        (lambda data: data_of([float("nan")]), "samples"),
    ],
)
def test_a_base_that_is_no_report_is_refused(base_of, spoil, told):
    with pytest.raises(InputError, match=told):
        base_of(spoil(data_of([10.0])))
