"""A bundle with a TensorRT engine, from `Parser.load` to the result, on a stand-in driver."""

from __future__ import annotations

import ctypes
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hp_sdk.backends import open_backend, tensorrt, tensorrt_rtx
from hp_sdk.backends.base import Absent
from hp_sdk.bundle import Artifact, Bundle, HeadSpec, InputSpec, read_bundle, write_manifest
from hp_sdk.domains import load_domain
from hp_sdk.errors import (
    BackendError,
    BackendUnavailable,
    ChecksumMismatch,
    ConfigError,
    EngineIncompatible,
    InputError,
    SchemaMismatch,
)
from hp_sdk.gpu import device, driver
from hp_sdk.gpu.device import Gpu
from hp_sdk.parser import Parser
from hp_sdk.planes import View
from hp_sdk.postprocess import label_map, merged_labels
from hp_sdk.preprocess import plan
from tests.gpu.fake_tensorrt import make_trt, plan_of, table_of
from tests.gpu.host_engine import OnDevice, memory_at

SPEC = InputSpec(size_hw=(64, 96))
HEADS = {name: HeadSpec(load_domain(name), f"logits.{name}") for name in ("cihp", "pascal")}
OUTPUTS = {head.output: [head.domain.num_classes, 16, 24] for head in HEADS.values()}
VERSION = {"tensorrt": "10.0.1.6", "tensorrt-rtx": "1.7.1.116"}

Write = Callable[..., Bundle]


@pytest.fixture
def gpu(fake_cuda, monkeypatch) -> Gpu:
    monkeypatch.setattr(device, "_is_installed", lambda _library: False)
    gpu = Gpu(memory="driver")
    monkeypatch.setattr(tensorrt, "_runtime", lambda: make_trt(VERSION["tensorrt"], gpu))
    monkeypatch.setattr(tensorrt_rtx, "_runtime", lambda: make_trt(VERSION["tensorrt-rtx"], gpu))
    return gpu


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a bundle with one engine for each set of changes to the plan."""

    def write(
        *plans: dict[str, Any], runtime: str = "tensorrt", spec: InputSpec = SPEC, **changes: Any
    ) -> Bundle:
        found = []
        for number, plan_changes in enumerate(plans or ({},)):
            content = plan_of(**{"outputs": OUTPUTS, "version": VERSION[runtime], **plan_changes})
            artifact = artifact_of(tmp_path / f"{number}.engine", content, runtime)
            found.append(replace(artifact, **changes))
        bundle = Bundle(
            root=tmp_path,
            name="engines",
            family="sst",
            version="1",
            license="CC0-1.0",
            input=spec,
            heads=HEADS,
            artifacts=tuple(found),
        )
        write_manifest(bundle, tmp_path)
        return read_bundle(tmp_path)

    return write


def artifact_of(path: Path, content: bytes, runtime: str) -> Artifact:
    path.write_bytes(content)
    return Artifact(
        runtime=runtime,
        file=path.name,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        heads=tuple(HEADS),
        precision_asked="fp32",
        precision_found="fp32",
        batch_min=1,
        batch_opt=2,
        batch_max=4,
        size_hw=(64, 96),
        outputs=tuple(OUTPUTS),
    )


def beside(bundle: Bundle, number: int, **told: Any) -> None:
    values = {"version": VERSION["tensorrt"], "compute_capabilities": ["9.0"]} | told
    (bundle.root / f"{number}.engine.json").write_text(json.dumps(values))


def expected(head: str, place: int, source_hw: tuple[int, int]) -> np.ndarray:
    scores = table_of(HEADS[head].output, OUTPUTS[HEADS[head].output], place)
    return merged_labels([View(scores, plan(source_hw, SPEC))])


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt-rtx"])
def test_a_bundle_with_an_engine_is_parsed_on_the_gpu(gpu, write, runtime) -> None:
    bundle = write(runtime=runtime)
    with Parser.load(bundle.root) as parser:
        images = [photo(50, 60), photo(90, 40), photo(33, 77)]
        results = parser.predict(images, confidence=True)
    for number, (result, image) in enumerate(zip(results, images, strict=True)):
        assert (result.labels != expected("cihp", number % 2, image.shape[:2])).mean() < 1e-3
        assert result.confidence is not None
        assert result.confidence.shape == image.shape[:2]
        assert np.shares_memory(result.image, image)
        assert set(result.timing) == {
            *("load", "upload", "fit", "network", "labels", "download", "total")
        }
    receipt = results[0].receipt
    assert receipt is not None
    assert receipt.backend == f"{runtime} {VERSION[runtime]}"
    assert receipt.provider == "cuda:0 Host"
    assert receipt.model_sha256 == bundle.artifacts[0].sha256


def test_stream_and_submit_answer_as_predict_does(gpu, write) -> None:
    with Parser.load(write().root, backend="tensorrt") as parser:
        images = [photo(50 + i, 60, seed=i) for i in range(9)]
        streamed = list(parser.stream(images, batch_size=1, domains=["cihp", "pascal"]))
        submitted = [parser.submit(image, domains=["pascal"]) for image in images[:2]]
        for image, answer in zip(images, streamed, strict=True):
            for head, result in answer.items():
                assert (result.labels != expected(head, 0, image.shape[:2])).mean() < 1e-3
        assert [future.result(60)["pascal"].labels.shape for future in submitted] == [
            (50, 60),
            (51, 60),
        ]


def test_a_stream_that_is_left_early_leaves_the_parser_usable(gpu, write) -> None:
    with Parser.load(write().root) as parser:
        for _ in range(3):
            with_rest = parser.stream(photo(40, 40) for _ in range(100))
            next(with_rest)
            with_rest.close()
        assert parser.predict(photo(40, 40)).labels.shape == (40, 40)


def test_a_photo_on_the_gpu_stays_there_and_so_do_its_labels(gpu, write, fake_cuda) -> None:
    with Parser.load(write().root) as parser:
        there: Any = OnDevice(gpu, photo(80, 70), None)
        ups = fake_cuda.fake_copies_up()
        result = parser.predict(there, labels_device=True)
        assert fake_cuda.fake_copies_up() - ups == 2  # the two tables
        about = result.labels_device.__cuda_array_interface__
        on_device = memory_at(about["data"][0], about["shape"], np.uint8)
        assert np.array_equal(on_device, result.labels)
        assert result.image is None
        assert result.remap("pascal").labels_device is None


def test_logits_are_given_when_asked_for_and_are_those_of_the_labels(gpu, write) -> None:
    with Parser.load(write().root) as parser:
        image = photo(70, 90)
        result = parser.predict(image, logits=True)
        assert result.logits is not None
        assert np.array_equal(result.logits, table_of("logits.cihp", OUTPUTS["logits.cihp"], 0))
        assert np.array_equal(result.labels, label_map(result.logits, plan((70, 90), SPEC)))


def test_photos_in_windows_and_others_share_a_call(gpu, write) -> None:
    spec = replace(SPEC, resize="shortest-side")
    with Parser.load(write(spec=spec).root) as parser:
        wide, plain = photo(64, 300), photo(32, 48)
        results = parser.predict([wide, plain, wide[:, ::-1].copy()], batch_size=3)
        assert [result.labels.shape for result in results] == [(64, 300), (32, 48), (64, 300)]
        assert ["upload" in result.timing for result in results] == [False, True, False]
        alone = parser.predict(plain)
        assert np.array_equal(results[1].labels, alone.labels)


def test_what_needs_the_host_refuses_a_photo_on_the_gpu(gpu, write) -> None:
    spec = replace(SPEC, resize="shortest-side")
    with Parser.load(write(spec=spec).root) as parser:
        there: Any = OnDevice(gpu, photo(64, 300), None)
        with pytest.raises(InputError, match=r"64 x 300 px lies on the GPU.*copy it there"):
            parser.predict(there)
        floats: Any = OnDevice(gpu, np.zeros((4, 4, 3), np.float32), None)
        with pytest.raises(InputError, match="photo 2 of 2: a GPU array is <f4"):
            parser.predict([photo(9, 9), floats])


def test_labels_cannot_stay_on_a_gpu_that_is_not_used(gpu, write) -> None:
    with Parser.load(write().root) as parser, pytest.raises(ConfigError, match="without logits"):
        parser.predict(photo(9, 9), labels_device=True, logits=True)


def test_less_memory_shows_on_the_receipt(gpu, write, fake_cuda) -> None:
    with Parser.load(write().root, batch_size=4) as parser:
        images = [photo(300, 300, seed=i) for i in range(4)]
        parser.predict(images[0])
        fake_cuda.fake_limit(fake_cuda.fake_used() + 900_000)
        results = parser.predict(images)
        assert [result.labels.shape for result in results] == [(300, 300)] * 4
        receipt = results[-1].receipt
        assert receipt is not None
        assert "out of device memory: 1 inputs at once since then" in receipt.notes


def test_the_callers_own_gpu_stays_current(gpu, write, fake_cuda) -> None:
    with Parser.load(write().root) as parser:
        own, found = ctypes.c_void_p(4096), ctypes.c_void_p()
        fake_cuda.cuCtxSetCurrent(own)
        parser.predict([photo(40, 40), photo(50, 50)])
        fake_cuda.cuCtxGetCurrent(ctypes.byref(found))
        assert found.value == own.value
        gpu.enter()


def test_a_closed_parser_says_so(gpu, write) -> None:
    parser = Parser.load(write().root)
    parser.close()
    parser.close()
    with pytest.raises(BackendError, match="closed"):
        parser.predict(photo(9, 9))


def test_the_engine_for_this_gpu_is_found_among_several(gpu, write) -> None:
    bundle = write({}, {})
    beside(bundle, 0, compute_capabilities=["8.0"])
    beside(bundle, 1)
    backend = open_backend(bundle, backend="tensorrt")
    assert backend.facts.artifact.startswith("1.engine")
    backend.close()


def test_no_engine_for_this_gpu_names_the_command(gpu, write) -> None:
    bundle = write({}, {})
    for number in range(2):
        rebuild = "python -m hp_export.tensorrt BUNDLE --format tensorrt"
        beside(bundle, number, compute_capabilities=["8.0"], rebuild=rebuild)
    with pytest.raises(EngineIncompatible, match=rf"8\.0.*has 9\.0.*tensorrt {bundle.root}"):
        open_backend(bundle, backend="tensorrt")


def test_without_a_driver_the_backend_is_absent_not_broken(gpu, write, monkeypatch) -> None:
    monkeypatch.setattr(driver, "_LIBRARY", "libno-such-driver.so.1")
    driver.load_driver.cache_clear()
    with pytest.raises(Absent, match="needs an NVIDIA GPU"):
        open_backend(write(), backend="tensorrt")
    assert tensorrt.describe().devices == ()


def test_a_gpu_that_is_not_there_is_refused(gpu, write) -> None:
    with pytest.raises(BackendUnavailable, match="no GPU 4"):
        open_backend(write(), backend="tensorrt", device="cuda:4")
    assert tensorrt.describe().devices == ("cuda:0",)
    assert tensorrt_rtx.describe().version == VERSION["tensorrt-rtx"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outputs": {"logits.cihp": [20, 16, 24]}}, "gives nothing as 'logits.pascal'"),
        ({"outputs": OUTPUTS | {"logits.cihp": [9, 16, 24]}}, "has 20 classes"),
        ({"scores": "INT8"}, "gives int8"),
    ],
)
def test_an_engine_that_is_not_what_the_manifest_says_is_refused(
    gpu, write, changes, message
) -> None:
    with pytest.raises(SchemaMismatch, match=message):
        open_backend(write(changes), backend="tensorrt")


def test_a_damaged_engine_file_is_named(gpu, write) -> None:
    bundle = write()
    (bundle.root / "0.engine").write_bytes(b"{" + (bundle.root / "0.engine").read_bytes()[1:-1])
    with pytest.raises(ChecksumMismatch):
        open_backend(bundle, backend="tensorrt")


def test_options_of_other_runtimes_are_refused(gpu, write) -> None:
    with pytest.raises(ConfigError, match="num_threads is for other runtimes"):
        open_backend(write(), backend="tensorrt", num_threads=2)


def test_auto_goes_to_the_gpu_when_there_is_one(gpu, write) -> None:
    backend = open_backend(write())
    assert backend.name == "tensorrt"
    backend.close()
