"""Files of a hub come only when the user asks; the package is stood in for, nothing is fetched."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from hp_sdk.errors import ConfigError, ModelNotFound
from hp_trainer.hub import locate


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str]]:
    """A hub that notes what it is asked for, and knows no repository called `nothing`."""
    calls: list[tuple[str, str]] = []

    def hf_hub_download(repository: str, file: str) -> str:
        calls.append((repository, file))
        if repository.endswith("nothing"):
            raise ConnectionError("no route")
        return str(tmp_path / file)

    hub = ModuleType("huggingface_hub")
    setattr(hub, "hf_hub_download", hf_hub_download)  # noqa: B010 - the type has no such attribute
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.delenv("HP_OFFLINE", raising=False)
    return calls


def test_a_path_stays_a_path(asked: list[tuple[str, str]]):
    assert locate("weights/sam.pth") == Path("weights/sam.pth")
    assert locate("~/sam.pth", download=True) == Path.home() / "sam.pth"
    assert asked == []


def test_an_id_is_fetched_when_asked_for(asked: list[tuple[str, str]], tmp_path: Path):
    assert locate("hf:facebook/sam-vit-large", download=True) == tmp_path / "model.safetensors"
    locate("hf:openai/clip/onnx/merges.txt", download=True)
    assert asked == [
        ("facebook/sam-vit-large", "model.safetensors"),
        ("openai/clip", "onnx/merges.txt"),
    ]


def test_an_id_is_not_fetched_unasked_or_offline(
    asked: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(ConfigError, match=r"foundation\.download is not true; .* path"):
        locate("hf:facebook/sam-vit-large")
    monkeypatch.setenv("HP_OFFLINE", "1")
    with pytest.raises(ConfigError, match="HP_OFFLINE is set"):
        locate("hf:facebook/sam-vit-large", download=True)
    assert asked == []


def test_an_id_without_a_repository_is_refused(asked: list[tuple[str, str]]):
    with pytest.raises(ConfigError, match="write hf:<owner>/<repository>"):
        locate("hf:sam", download=True)


def test_a_hub_that_cannot_be_reached_is_one_clear_error(asked: list[tuple[str, str]]):
    with pytest.raises(ModelNotFound, match=r"hf:a/nothing cannot be fetched \(ConnectionError\)"):
        locate("hf:a/nothing", download=True)


def test_without_the_package_the_error_names_it(
    asked: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match="pip install huggingface_hub"):
        locate("hf:facebook/sam-vit-large", download=True)
