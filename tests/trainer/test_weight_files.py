"""Weight files of every common format come out as the same tensors, and nothing in them is run."""

import json
import os
import pickle
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hp_sdk.errors import CorruptArtifact, ModelError, ModelNotFound
from hp_trainer.weight_files import load_any

SAMPLE = {
    "conv1.weight": torch.arange(24.0).view(2, 3, 2, 2),
    "bn1.num_batches_tracked": torch.tensor(7),
}


class Program:
    """Unpickled, it creates a folder: the trace that something was run."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.trace),)


def write_torch(path: Path, content: object) -> None:
    torch.save(content, path)


def write_legacy(path: Path, content: object) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def write_pickle(path: Path, content: object) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


def write_safetensors(path: Path, tensors: dict[str, Tensor]) -> None:
    types = {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64"}
    header: dict[str, object] = {}
    data = b""
    for name, tensor in tensors.items():
        raw = tensor.numpy().tobytes()
        header[name] = {
            "dtype": types[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Parameter(torch.randn(4, 6).t())  # strides of a transposed matrix
        self.layers = nn.Sequential(nn.Linear(2, 3).half(), nn.BatchNorm2d(2))
        self.register_buffer("resolution", torch.tensor(224))
        self.register_buffer("nothing", torch.zeros(0))
        self.sizes = [1, 2]

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.proj


def assert_same(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(tensors) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(tensors[name], tensor), name


def test_a_torch_file_is_read(tmp_path: Path):
    write_torch(tmp_path / "a.pth", SAMPLE)
    file = load_any(tmp_path / "a.pth")
    assert (file.format, file.notes) == ("torch", ())
    assert_same(file.tensors, SAMPLE)


def test_a_safetensors_file_is_read(tmp_path: Path):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    write_safetensors(tmp_path / "a.safetensors", SAMPLE)
    file = load_any(tmp_path / "a.safetensors")
    assert file.format == "safetensors"
    assert_same(dict(sorted(file.tensors.items())), dict(sorted(SAMPLE.items())))


def test_without_its_package_a_safetensors_file_names_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_safetensors(tmp_path / "a.safetensors", SAMPLE)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ModelError, match=r"pip install .hp-sdk\[train\]"):
        load_any(tmp_path / "a.safetensors")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_archive_gives_the_state_dict_of_its_module(tmp_path: Path):
    torch.manual_seed(0)
    module = Block()
    torch.jit.script(module).save(str(tmp_path / "a.pt"))
    file = load_any(tmp_path / "a.pt")
    assert file.format == "torchscript"
    expected = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    assert set(file.tensors) == set(expected)
    for name, tensor in expected.items():
        same_kind = tensor.float() if tensor.is_floating_point() else tensor
        assert torch.equal(file.tensors[name], same_kind), name
    assert "2 tensors cast from float16 to float32" in file.notes


def test_half_precision_becomes_single(tmp_path: Path):
    half = {
        "a": torch.tensor([1.5, -2]).half(),
        "b": torch.ones(2).bfloat16(),
        "n": SAMPLE["bn1.num_batches_tracked"],
    }
    write_torch(tmp_path / "a.pth", half)
    file = load_any(tmp_path / "a.pth")
    assert [str(t.dtype) for t in file.tensors.values()] == [
        "torch.float32",
        "torch.float32",
        "torch.int64",
    ]
    assert file.tensors["a"].tolist() == [1.5, -2]
    assert sorted(file.notes) == [
        "1 tensors cast from bfloat16 to float32",
        "1 tensors cast from float16 to float32",
    ]


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_wrappers_and_prefixes_are_taken_off(tmp_path: Path, wrapper: str):
    inner = {f"module.backbone.{name}": tensor for name, tensor in SAMPLE.items()}
    write_torch(tmp_path / "a.pth", {"epoch": 3, wrapper: inner | {"module.backbone.size": 224}})
    file = load_any(tmp_path / "a.pth")
    assert_same(file.tensors, SAMPLE)
    assert file.notes == (
        f"tensors under {wrapper!r}",
        "1 entries that are no tensors left out",
        "prefix 'module.' dropped",
        "prefix 'backbone.' dropped",
    )


def test_a_prefix_that_only_some_names_have_stays(tmp_path: Path):
    mixed = {"backbone.a": torch.ones(1), "sem_seg_head.b": torch.ones(1)}
    write_torch(tmp_path / "a.pth", mixed)
    assert list(load_any(tmp_path / "a.pth").tensors) == list(mixed)


@pytest.mark.parametrize("write", [write_legacy, write_pickle])
def test_pickles_are_read_only_when_trusted(tmp_path: Path, write: Callable[..., None]):
    arrays = {name: tensor.numpy() for name, tensor in SAMPLE.items()}
    content = arrays if write is write_pickle else SAMPLE
    path = tmp_path / "R-50.pkl"
    write(path, {"model": content, "__author__": "torchvision", "matching_heuristics": True})
    with pytest.raises(ModelError, match=r"R-50\.pkl .* runs whatever program .* trust=True"):
        load_any(path)
    assert_same(load_any(path, trust=True).tensors, SAMPLE)


def test_arrays_of_the_other_byte_order_are_turned_and_texts_left_out(tmp_path: Path):
    arrays = {"w": np.array([1.5, -2], ">f4"), "name": np.array(["x"])}
    write_pickle(tmp_path / "a.pkl", arrays)
    assert_same(load_any(tmp_path / "a.pkl", trust=True).tensors, {"w": torch.tensor([1.5, -2])})


def test_an_archive_of_early_torch_is_refused_without_trust(tmp_path: Path):
    with tarfile.open(tmp_path / "a.pth", "w") as archive:
        info = tarfile.TarInfo("storages")
        archive.addfile(info)
    with pytest.raises(ModelError, match=r"tar archive .* trust=True"):
        load_any(tmp_path / "a.pth")
    with pytest.raises(CorruptArtifact, match="damaged or incomplete"):
        load_any(tmp_path / "a.pth", trust=True)


@pytest.mark.parametrize("write", [write_torch, write_legacy, write_pickle])
def test_a_program_in_a_file_is_not_run(tmp_path: Path, write: Callable[..., None]):
    trace = tmp_path / "it-ran"
    write(tmp_path / "evil.pth", {"w": torch.ones(1), "evil": Program(trace)})
    with pytest.raises(ModelError, match="runs whatever program"):
        load_any(tmp_path / "evil.pth")
    assert not trace.exists()
    load_any(tmp_path / "evil.pth", trust=True)
    assert trace.exists()  # the trap is a real one


def test_the_objects_in_a_torch_file_are_named(tmp_path: Path):
    write_torch(tmp_path / "a.pth", {"w": torch.ones(1), "args": Path("x")})
    with pytest.raises(ModelError, match=r"more than tensors in it \(pathlib\.[\w.]*PosixPath"):
        load_any(tmp_path / "a.pth")


@pytest.mark.parametrize("trust", [False, True])
def test_a_program_in_a_torchscript_archive_is_never_run(tmp_path: Path, trust: bool):
    trace = tmp_path / "it-ran"
    evil = pickle.dumps({"w": Program(trace)}, protocol=2)
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        for member in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"evil/{member}", evil)
    with pytest.raises(CorruptArtifact, match="holds no named tensors"):
        load_any(tmp_path / "evil.pt", trust=trust)
    assert not trace.exists()


@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.parametrize("write", [write_torch, write_safetensors, write_legacy, write_pickle])
def test_half_a_file_is_damaged(tmp_path: Path, write: Callable[..., None], share: float):
    if write is write_safetensors:
        pytest.importorskip("safetensors", reason="safetensors is not installed")
    path = tmp_path / "a.bin"
    write(path, {"w": torch.ones(1000), "v": torch.ones(10)})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CorruptArtifact, match=r"a\.bin .*damaged or incomplete"):
        load_any(path, trust=write in (write_legacy, write_pickle))


def test_a_torchscript_archive_with_a_storage_cut_short_is_damaged(tmp_path: Path):
    source, path = tmp_path / "a.pt", tmp_path / "b.pt"
    write_torch(source, {"w": torch.ones(8)})
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, data[:16] if name == "a/data/0" else data)
        new.writestr("a/constants.pkl", b"")
    with pytest.raises(CorruptArtifact, match="damaged or incomplete"):
        load_any(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no weight file of a known format"),
        (b"epoch,loss\n1,0.5\n", "no weight file of a known format"),
        (b"<!DOCTYPE html><html>quota exceeded", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"PK\x03\x04 and then nothing of a zip", "damaged or incomplete"),
    ],
)
def test_what_is_no_weight_file_is_said_to_be_none(tmp_path: Path, content: bytes, told: str):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(CorruptArtifact, match=rf"a\.pth .*{told}"):
        load_any(tmp_path / "a.pth", trust=True)


def test_a_zip_of_something_else_is_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("photo.jpg", b"")
    with pytest.raises(CorruptArtifact, match=r"no data\.pkl"):
        load_any(tmp_path / "a.zip")


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {}}, {"epoch": 3}, torch.ones(2)])
def test_a_torch_file_without_named_tensors_is_refused(tmp_path: Path, content: object):
    write_torch(tmp_path / "a.pth", content)
    with pytest.raises(CorruptArtifact, match="no named tensors"):
        load_any(tmp_path / "a.pth")


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ModelNotFound, match=r"nothing\.pth"):
        load_any(tmp_path / "nothing.pth")
