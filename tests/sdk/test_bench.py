"""hp_sdk.bench: what is measured is exact, and how it is measured is fair."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import count

import numpy as np
import pytest

from hp_sdk.bench.measure import WARMUP_S, Plan, Subject, measure
from hp_sdk.bench.pictures import PhotoSet, draw_figure, photo_sets
from hp_sdk.bench.report import make_row
from hp_sdk.bench.setting import MachineFacts, Options, PhotoFacts, Setting, model_facts
from hp_sdk.bench.statistics import RUNS_MIN
from hp_sdk.errors import BackendError, ConfigError, DeviceOutOfMemory, InputError
from hp_sdk.parser import Parser
from hp_sdk.testing import FakeBackend, make_bundle, palette_oracle

DECODE_MS, FIT_MS, LABELS_MS, OTHER_MS = 2.0, 1.0, 3.0, 0.5


class FakeClock:
    """Time passes when somebody says so."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s

    def pass_ms(self, ms):
        self.now_s += ms / 1e3


class SlowParser(Parser):
    """Every step takes its time on the fake clock; the network takes what the backend took."""

    def __init__(self, bundle, backend, clock):
        super().__init__(bundle, backend)
        self.clock = clock

    def predict(self, source, **options):  # pyright: ignore[reportIncompatibleMethodOverride]
        start = self.clock()
        results = super().predict(source, **options)
        if not isinstance(results, list):
            return results
        network_ms = 1e3 * (self.clock() - start)
        self.clock.pass_ms(OTHER_MS + len(results) * (DECODE_MS + FIT_MS + LABELS_MS))
        timing = {"load": DECODE_MS, "fit": FIT_MS, "labels": LABELS_MS}
        timing |= {"network": network_ms / len(results), "total": 1e9}
        return [replace(result, timing=timing) for result in results]


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def photos():
    (drawn,) = photo_sets((), [(32, 24)])
    return drawn


@pytest.fixture
def subject(tmp_path, clock, photos):
    """A maker of subjects whose network takes `cost_ms(batch)` and answers with `oracle`."""
    numbers = count()

    def make(cost_ms, *, batch=1, oracle=palette_oracle):
        bundle = make_bundle(tmp_path / f"bundle{next(numbers)}", size_hw=(32, 32))

        def slow(inputs, head):
            clock.pass_ms(cost_ms(len(inputs)))
            return oracle(inputs, head)

        backend = FakeBackend(bundle, slow)
        receipt = Parser(bundle, FakeBackend(bundle)).predict(photos.files[0]).receipt
        assert receipt is not None
        return Subject(SlowParser(bundle, backend, clock), photos, receipt, batch)

    return make


def setting_of(subject, macs=None):
    machine = MachineFacts(
        processor="abacus",
        cores=2,
        core_quota=None,
        flags=None,
        memory_bytes=None,
        system="",
        python="",
        gpus=(),
        driver="",
        governor=None,
        load_average=0.0,
        peak_gflops=100.0,
        peak_how="",
        versions={},
    )
    photos = subject.photos
    facts = PhotoFacts(title="", identity=photos.identity, count=4, size_hw=photos.size_hw)
    model = replace(model_facts(subject.parser), macs=macs)
    return Setting(options=Options(model="x"), machine=machine, model=model, photos=(facts,))


def row_of(found, first=None, macs=None):
    return make_row(found, None, (first or found).answers, setting_of(found.subject, macs))


@pytest.mark.parametrize("batch", [1, 3])
def test_latency_stages_and_throughput_are_what_the_clock_says(subject, clock, batch):
    (found,) = measure([subject(lambda n: 4.0 + 10.0 * n, batch=batch)], Plan(runs=20), clock=clock)
    row = row_of(found)

    infer = 4.0 + 10.0 * batch
    around = OTHER_MS + batch * (DECODE_MS + FIT_MS + LABELS_MS)
    latency = row.latency_ms
    for estimate in (latency.p50, latency.p90, latency.mean):
        assert estimate.value == pytest.approx(infer + around)
        assert estimate.low == pytest.approx(infer + around)
    assert {stage: each.mean for stage, each in row.stages_ms.items()} == pytest.approx(
        {
            "decode": batch * DECODE_MS,
            "preprocess": batch * FIT_MS,
            "infer": infer,
            "postprocess": batch * LABELS_MS,
            "other": OTHER_MS,
        }
    )
    assert row.overhead_share == pytest.approx(around / infer)
    assert row.throughput.value == pytest.approx(1e3 * batch / (infer + around))
    assert row.runs == len(row.samples_ms) == 20


def test_the_whole_stack_on_a_fake_clock_gives_the_costs_it_was_given():
    """The steps of `Result.timing` are the parser's own: its clock is replaced before it loads."""
    program = """
import io, json, time, tempfile, pathlib
now = [0.0]
time.perf_counter = lambda: now[0]
from hp_sdk.bench.measure import Plan, Subject, measure
from hp_sdk.bench.pictures import PhotoSet, photo_sets
from hp_sdk.parser import Parser
from hp_sdk.testing import FakeBackend, make_bundle, palette_oracle

class SlowFile(io.BytesIO):
    def read(self, size=-1):
        if self.tell() == 0:
            now[0] += 0.002
        content = super().read(size)
        if not content:
            self.seek(0)
        return content

def oracle(batch, head):
    now[0] += 0.010 * len(batch)
    return palette_oracle(batch, head)

(drawn,) = photo_sets((), [(32, 24)])
files = tuple(map(SlowFile, drawn.files))
photos = PhotoSet(title="", identity="", size_hw=(32, 24), files=files)
with tempfile.TemporaryDirectory() as folder:
    bundle = make_bundle(pathlib.Path(folder) / "bundle")
    parser = Parser(bundle, FakeBackend(bundle, oracle))
    receipt = parser.predict(drawn.files[0]).receipt
    (found,) = measure([Subject(parser, photos, receipt, 2)], Plan(runs=9), clock=time.perf_counter)
    print(json.dumps([[run.total_ms, dict(run.stages_ms)] for run in found.runs]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    runs = json.loads(done.stdout)

    assert len(runs) == 9
    for total_ms, stages in runs:
        assert total_ms == pytest.approx(24, rel=0.02)
        assert stages["decode"] == pytest.approx(4, rel=0.02)
        assert stages["infer"] == pytest.approx(20, rel=0.02)
        assert stages["preprocess"] + stages["postprocess"] + stages["other"] < 0.02 * 24


def test_percentiles_are_those_of_the_times_that_really_passed(subject, clock):
    random, passed = np.random.default_rng(5), []

    def cost_ms(inputs):
        passed.append(float(random.uniform(9.9, 10.1)))
        return passed[-1]

    (found,) = measure([subject(cost_ms)], Plan(runs=100), clock=clock)
    latency = row_of(found).latency_ms

    ranked = sorted(ms + DECODE_MS + FIT_MS + LABELS_MS + OTHER_MS for ms in passed[-100:])
    assert latency.p50.value == pytest.approx(ranked[49])
    assert latency.p90.value == pytest.approx(ranked[89])
    assert latency.p99.value == pytest.approx(ranked[98])
    assert (latency.min, latency.max) == pytest.approx((ranked[0], ranked[-1]))


def test_warm_up_lasts_until_windows_are_alike(subject, clock):
    runs = count()
    (found,) = measure([subject(lambda n: 10 + 200 * 0.8 ** next(runs))], Plan(runs=5), clock=clock)

    assert found.warmup.settled
    assert found.warmup.runs >= 20
    times = [run.total_ms for run in found.runs]
    assert max(times) / min(times) < 1.05


def test_warm_up_of_what_never_settles_ends_and_is_noted(subject, clock):
    runs = count()
    (found,) = measure(
        [subject(lambda n: 100 if next(runs) // 7 % 2 else 300)], Plan(runs=1), clock=clock
    )

    assert not found.warmup.settled
    assert WARMUP_S <= clock() < WARMUP_S + 4
    assert any("unsteady" in note for note in row_of(found).notes)


def test_drift_hits_all_configurations_alike(subject, clock):
    def cost_ms(inputs):
        return 100 * (1 + clock() / 15)  # the machine gets slower and slower

    found = measure([subject(cost_ms), subject(cost_ms)], Plan(duration_s=30), clock=clock)
    one, other = (np.array([run.total_ms for run in each.runs]) for each in found)

    assert one[-1] > 1.5 * one[0]
    assert one.mean() == pytest.approx(other.mean(), rel=0.02)


def test_turns_are_in_a_random_order_that_the_seed_repeats(subject, clock):
    def order(seed):
        turns = []
        lanes = [subject(lambda n, name=name: turns.append(name) or 10) for name in "abc"]
        measure(lanes, Plan(runs=10, seed=seed), clock=clock)
        return "".join(turns)

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_the_first_run_after_a_change_is_not_counted(subject, clock):
    last = []

    def cost_ms(name):
        changed = last != [name]
        last[:] = [name]
        return 500 if changed else 10

    lanes = [subject(lambda n: cost_ms("a")), subject(lambda n: cost_ms("b"))]
    for each in measure(lanes, Plan(runs=23), clock=clock):
        assert len(each.runs) == 23
        assert max(run.total_ms for run in each.runs) < 20


def test_one_configuration_alone_wastes_no_run(subject, clock):
    calls = []
    (found,) = measure([subject(lambda n: calls.append(n) or 10)], Plan(runs=12), clock=clock)

    assert len(calls) == found.warmup.runs + 12


@pytest.mark.parametrize(("cost_ms", "least"), [(10, 60), (3000, RUNS_MIN)])
def test_duration_bounds_the_time_but_leaves_enough_runs(subject, clock, cost_ms, least):
    started = []

    def progress(what, share):
        if what == "measuring" and not started:
            started.append(clock())

    (found,) = measure(
        [subject(lambda n: cost_ms)], Plan(duration_s=1), clock=clock, progress=progress
    )

    assert len(found.runs) >= least
    assert clock() - started[0] < max(1.1, 11 * (cost_ms + 10) / 1e3)


def test_labels_that_change_while_timed_are_seen(subject, clock):
    calls = count()

    def fickle(inputs, head):
        logits = palette_oracle(inputs, head)
        return logits[:, ::-1] if next(calls) == 30 else logits

    steady, changing = measure(
        [subject(lambda n: 10), subject(lambda n: 10, oracle=fickle)], Plan(runs=40), clock=clock
    )

    assert row_of(steady).outputs.right
    outputs = row_of(changing, steady).outputs
    assert not outputs.stable
    assert not outputs.right
    assert outputs.runs_differing == 1
    assert outputs.differing_px > 0


def test_a_fast_wrong_network_disagrees_with_the_first(subject, clock):
    def wrong(inputs, head):
        return palette_oracle(inputs, head)[:, ::-1]

    first, fast = measure(
        [subject(lambda n: 10), subject(lambda n: 1, oracle=wrong)], Plan(runs=6), clock=clock
    )
    outputs = row_of(fast, first).outputs

    assert outputs.stable
    assert outputs.agreement < 0.5
    assert not outputs.right
    assert row_of(first).outputs.agreement == 1


def test_the_hash_of_the_labels_does_not_hang_on_runs_or_batch(subject, clock):
    hashes = {
        measure([subject(lambda n: 1, batch=batch)], Plan(runs=runs), clock=clock)[
            0
        ].answers.sha256()
        for batch, runs in ((1, 1), (1, 7), (3, 2), (8, 1))
    }

    assert len(hashes) == 1


def test_the_share_of_the_peak_counts_two_operations_per_mac_on_the_cpu_only(subject, clock):
    (found,) = measure([subject(lambda n: 20 * n, batch=2)], Plan(runs=6), clock=clock)
    on_cpu = replace(found, receipt=replace(found.receipt, provider="CPU"))

    row = row_of(on_cpu, macs=10**9)
    assert row.network_gflops == pytest.approx(2 * 2 / 0.040)  # two photos, one GMAC each
    assert row.peak_share == pytest.approx(1.0)
    assert row_of(found, macs=10**9).peak_share is None
    assert row_of(found).network_gflops is None


def test_a_failing_backend_is_named(subject, clock):
    def fail(inputs, head):
        raise BackendError("out of luck")

    with pytest.raises(BackendError, match=r"fake, batch 1, 32x24: out of luck"):
        measure([subject(lambda n: 1, oracle=fail)], Plan(runs=1), clock=clock)


def test_a_batch_that_shrank_for_want_of_memory_is_noted(subject, clock):
    def cramped(inputs, head):
        if len(inputs) > 1:
            raise DeviceOutOfMemory("too much")
        return palette_oracle(inputs, head)

    (found,) = measure([subject(lambda n: 1, batch=2, oracle=cramped)], Plan(runs=1), clock=clock)

    assert any("memory" in note for note in row_of(found).notes)


def test_drawn_pictures_are_varied_and_always_the_same():
    pictures = [draw_figure((96, 64), seed=seed) for seed in range(4)]

    assert {picture.shape for picture in pictures} == {(96, 64, 3)}
    for i, picture in enumerate(pictures):
        assert picture.std() > 20
        np.testing.assert_array_equal(picture, draw_figure((96, 64), seed=i))
        assert all((picture != other).mean() > 0.5 for other in pictures[:i])


def test_photos_keep_their_size_or_get_the_one_asked_for(tmp_path, photos: PhotoSet):
    path = tmp_path / "a.jpg"
    path.write_bytes(photos.files[0])

    (own,) = photo_sets([path])
    small, large = photo_sets([path], [(16, 8), (64, 64)])

    assert own.files == (photos.files[0],)
    assert (own.size_hw, small.size_hw, large.size_hw) == ((32, 24), (16, 8), (64, 64))
    assert own.identity == small.identity != photos.identity


def test_a_photo_that_is_none_is_refused(tmp_path):
    (tmp_path / "a.jpg").write_text("text")

    for name in ("a.jpg", "gone.jpg"):
        with pytest.raises(InputError, match=name):
            photo_sets([tmp_path / name])


@pytest.mark.parametrize(
    "wrong", [{"batches": (1, 0)}, {"runs": 0}, {"duration_s": 0.0}, {"cold_starts": -1}]
)
def test_options_that_measure_nothing_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Options(model="cihp", **wrong)
