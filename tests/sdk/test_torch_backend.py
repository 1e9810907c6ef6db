"""Exported programs run without our network code, on the device asked for; unsafe ones never."""

import hashlib
import io
import json
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hp_sdk.backends import describe_backend, open_backend
from hp_sdk.backends import torch as torch_backend
from hp_sdk.backends.base import Absent, BackendOptions
from hp_sdk.backends.torch import TorchBackend
from hp_sdk.bundle import read_bundle, write_manifest
from hp_sdk.errors import (
    BackendError,
    BackendUnavailable,
    ConfigError,
    CorruptArtifact,
    EngineIncompatible,
    SchemaMismatch,
)
from hp_sdk.testing import make_bundle

torch = pytest.importorskip("torch", reason="needs torch")

SIZE = 32
NAMES = ("logits.cihp", "logits.atr")


class Means(torch.nn.Module):
    """Class k of a cell is k/10 times the mean of its pixels; one output per domain."""

    def __init__(self):
        super().__init__()
        self.register_buffer("tenths", torch.arange(20.0) / 10)

    def forward(self, image):
        cells = image.to(torch.float32).unflatten(2, (-1, 4)).unflatten(1, (-1, 4)).mean((2, 4, 5))
        logits = cells[:, None] * self.tenths[:, None, None]  # (N, 20, h/4, w/4)
        return logits, logits[:, :18].half()


class AsMapping(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.means = Means()

    def forward(self, image):
        return dict(zip(NAMES, self.means(image), strict=True))


def program(module=None, *, dtype=torch.uint8, batch="batch"):
    """An exported program as the bytes of its file."""
    image = torch.zeros(2, SIZE, SIZE, 3, dtype=dtype)
    sizes = {0: torch.export.Dim("batch", min=1, max=16)} if batch == "batch" else None
    exported = torch.export.export(module or Means(), (image,), dynamic_shapes=(sizes,))
    file = io.BytesIO()
    torch.export.save(exported, file)
    return file.getvalue()


@pytest.fixture(scope="module")
def content():
    return program()


@pytest.fixture
def bundle(tmp_path, content):
    return make_bundle(
        tmp_path / "b",
        domains=("cihp", "atr"),
        size_hw=(SIZE, SIZE),
        runtime="torch",
        content=content,
    )


@pytest.fixture
def path(tmp_path, content):
    path = tmp_path / "model.pt2"
    path.write_bytes(content)
    return path


def batch_of(count, value=100):
    return np.full((count, SIZE, SIZE, 3), value, np.uint8)


def rewritten(content, changes):
    """The archive with some members replaced or added; names are below the root folder."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        root = old.namelist()[0].partition("/")[0]
        members = {name.partition("/")[2]: old.read(name) for name in old.namelist()}
        for name, value in (members | changes).items():
            new.writestr(f"{root}/{name}", value)
    return out.getvalue()


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_program_in_a_bundle_gives_its_logits_by_name(bundle):
    backend = open_backend(bundle)

    outputs = backend.run(batch_of(3))

    assert (backend.name, backend.provider) == ("torch", "cpu")
    assert backend.facts.version == torch.__version__
    assert backend.facts.artifact.startswith("model.torch sha256:")
    assert {name: (logits.shape, logits.dtype) for name, logits in outputs.items()} == {
        "logits.cihp": ((3, 20, 8, 8), np.float32),
        "logits.atr": ((3, 18, 8, 8), np.float16),
    }
    np.testing.assert_allclose(outputs["logits.cihp"][2, :, 5, 5], np.arange(20) * 10, rtol=1e-5)


def test_batches_of_any_size_and_memory_that_is_read_only_are_fine(bundle):
    batch = np.random.default_rng(0).integers(0, 256, (11, SIZE, SIZE, 3)).astype(np.uint8)
    batch.flags.writeable = False
    backend = open_backend(bundle)

    at_once = backend.run(batch[:, ::-1], outputs=["logits.cihp"])

    one_by_one = [backend.run(photo[None, ::-1])["logits.cihp"] for photo in batch]
    assert list(at_once) == ["logits.cihp"]
    np.testing.assert_allclose(at_once["logits.cihp"], np.concatenate(one_by_one), rtol=1e-5)


def test_a_fixed_batch_is_filled_up(tmp_path):
    path = tmp_path / "fixed.pt2"
    path.write_bytes(program(batch="fixed"))

    backend = TorchBackend(path, NAMES)

    assert backend.facts.batch_min == backend.facts.batch_max == 2
    assert len(backend.run(batch_of(5))["logits.cihp"]) == 5


def test_threads_are_set_and_the_receipt_says_how_far_that_reaches(path):
    before = torch.get_num_threads()
    try:
        backend = TorchBackend(path, NAMES, BackendOptions(num_threads=before + 1))
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    assert "whole process" in backend.facts.notes[0]


@pytest.mark.parametrize("options", [{"providers": []}, {"session_options": {}}])
def test_options_of_other_runtimes_are_refused(path, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        TorchBackend(path, NAMES, BackendOptions(**options))


def test_a_closed_backend_says_so(bundle):
    backend = open_backend(bundle)
    backend.close()
    backend.close()

    with pytest.raises(BackendError, match="closed"):
        backend.run(batch_of(1))


def test_a_program_of_another_kind_is_refused(tmp_path, path):
    floats, mapping = tmp_path / "floats.pt2", tmp_path / "mapping.pt2"
    floats.write_bytes(program(dtype=torch.float32))
    mapping.write_bytes(program(AsMapping()))

    with pytest.raises(SchemaMismatch, match=r"torch\.float32.*uint8 input"):
        TorchBackend(floats, NAMES)
    with pytest.raises(SchemaMismatch, match="a tuple"):
        TorchBackend(mapping, NAMES)
    with pytest.raises(SchemaMismatch, match="2 tensors; 1 are named"):
        TorchBackend(path, NAMES[:1])


def test_a_manifest_that_promises_another_output_is_refused(bundle, content):
    artifact = replace(bundle.artifacts[0], outputs=("logits.cihp", "logits.lip"))
    assert artifact.sha256 == hashlib.sha256(content).hexdigest()
    write_manifest(replace(bundle, artifacts=(artifact,)), bundle.root)

    with pytest.raises(SchemaMismatch, match=r"logits\.atr"):
        open_backend(read_bundle(bundle.root))


@pytest.mark.parametrize("damage", [lambda _: b"", lambda _: b"no program", lambda c: c[:600]])
def test_a_file_that_is_no_program_is_corrupt(tmp_path, content, damage, caplog):
    path = tmp_path / "bad.pt2"
    path.write_bytes(damage(content))

    with pytest.raises(CorruptArtifact, match=r"bad\.pt2"):
        TorchBackend(path, NAMES)
    assert caplog.text == ""


def test_a_program_of_another_torch_is_incompatible(tmp_path, content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        name = next(name for name in archive.namelist() if "/models/" in name)
        model = json.loads(archive.read(name))
    model["schema_version"]["major"] += 900
    path = tmp_path / "new.pt2"
    path.write_bytes(rewritten(content, {name.partition("/")[2]: json.dumps(model).encode()}))

    with pytest.raises(EngineIncompatible, match=r"schema version.*export it again"):
        TorchBackend(path, NAMES)


def test_no_pickle_of_a_program_is_ever_run(tmp_path, content):
    trap = Trap(tmp_path / "trapped")
    sample = io.BytesIO()
    torch.save((trap,), sample)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        name = next(name for name in archive.namelist() if "constants_config" in name)
        config = json.loads(archive.read(name))
    config["config"]["trap"] = {"path_name": "opaque_obj_0", "use_pickle": False}
    dangers = [
        {"data/sample_inputs/model.pt": sample.getvalue()},
        {"data/constants/opaque_obj_0": pickle.dumps(trap)},
        {"data/weights/model.pt": sample.getvalue()},
        {"data/aotinductor/model/wrapper.so": b"library"},
        {name.partition("/")[2]: json.dumps(config).encode()},
    ]
    path = tmp_path / "trap.pt2"
    for danger in dangers:
        path.write_bytes(rewritten(content, danger))
        with pytest.raises(CorruptArtifact):
            TorchBackend(path, NAMES)
    assert not trap.path.exists()


def fake_torch(monkeypatch, *, built, count):
    cuda = SimpleNamespace(is_available=lambda: count > 0, device_count=lambda: count)
    fake = SimpleNamespace(
        __version__="9.9",
        cuda=cuda,
        backends=SimpleNamespace(cuda=SimpleNamespace(is_built=lambda: built)),
    )
    monkeypatch.setattr(torch_backend, "_runtime", lambda: fake)
    return fake


def test_a_device_that_is_not_there_is_told_from_a_torch_without_cuda(monkeypatch):
    fake_torch(monkeypatch, built=False, count=0)
    with pytest.raises(Absent, match="without CUDA"):
        TorchBackend("m.pt2", NAMES, BackendOptions(device="cuda"))

    fake_torch(monkeypatch, built=True, count=1)
    with pytest.raises(BackendUnavailable, match="1 CUDA devices, not cuda:1") as refusal:
        TorchBackend("m.pt2", NAMES, BackendOptions(device="cuda:1"))
    assert not isinstance(refusal.value, Absent)


def test_torch_tells_its_devices(monkeypatch):
    fake_torch(monkeypatch, built=True, count=2)

    assert describe_backend("torch").devices == ("cpu", "cuda:0", "cuda:1")


@pytest.mark.gpu
def test_a_gpu_gives_the_same_logits(bundle):
    on_cpu = open_backend(bundle, device="cpu").run(batch_of(3))
    on_gpu = open_backend(bundle, device="cuda:0").run(batch_of(3))

    for name in NAMES:
        np.testing.assert_allclose(on_gpu[name], on_cpu[name], rtol=1e-3)
