"""The engine cache: keeps what is used, survives damage and dead processes, is never too large."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hp_export.tensorrt.cache import EngineCache
from hp_export.tensorrt.lock import locked, locked_if_free
from hp_sdk.errors import ConfigError, ExportError

HOLD = """
import sys, time
from pathlib import Path
from hp_export.tensorrt.lock import locked
with locked(Path(sys.argv[1]), waiting=print):
    print("held", flush=True)
    time.sleep(60)
"""


def builder(content: bytes, count: list[int]) -> Callable[[Path], dict[str, Any]]:
    def build(path: Path) -> dict[str, Any]:
        count.append(1)
        path.write_bytes(content)
        return {"layers": 3}

    return build


def fetch(cache: EngineCache, key: str, content: bytes = b"engine") -> tuple[bytes, bool, int]:
    """Content, whether it was there, and how often it was built."""
    count: list[int] = []
    found, facts, hit = cache.fetch(key, builder(content, count), waiting=lambda _text: None)
    assert facts["layers"] == 3
    return found, hit, len(count)


def entries(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()}


def test_an_engine_is_built_once_and_then_found(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, 1000)
    assert fetch(cache, "a") == (b"engine", False, 1)
    assert fetch(cache, "a") == (b"engine", True, 0)
    assert fetch(cache, "b", b"other") == (b"other", False, 1)
    assert entries(tmp_path) == {"a", "b"}


@pytest.mark.parametrize("damage", ["changed", "truncated", "no facts", "no engine", "facts"])
def test_a_damaged_engine_is_built_again(damage: str, tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, 1000)
    fetch(cache, "a")
    engine, facts = tmp_path / "a" / "model.engine", tmp_path / "a" / "facts.json"
    {
        "changed": lambda: engine.write_bytes(b"enginE"),
        "truncated": lambda: engine.write_bytes(b"eng"),
        "no facts": facts.unlink,
        "no engine": engine.unlink,
        "facts": lambda: facts.write_text("{"),
    }[damage]()
    assert fetch(cache, "a") == (b"engine", False, 1)
    assert fetch(cache, "a")[1]


def test_the_engine_unused_for_longest_goes_first(tmp_path: Path) -> None:
    one = 100_000
    cache = EngineCache(tmp_path, 3 * one)
    for age, key in enumerate("abc"):
        fetch(cache, key, bytes(one - 1000))
        os.utime(tmp_path / key / "facts.json", (1000 + age, 1000 + age))
    fetch(cache, "a")  # used now
    fetch(cache, "d", bytes(one - 1000))
    assert entries(tmp_path) == {"a", "c", "d"}


def test_an_engine_in_use_is_not_deleted(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, 1500)
    fetch(cache, "a", bytes(1000))
    with locked(tmp_path / "a.lock", waiting=print):
        fetch(cache, "b", bytes(1000))
        assert entries(tmp_path) == {"a", "a.lock", "b"}


def test_an_engine_larger_than_the_cache_is_still_given(tmp_path: Path) -> None:
    assert fetch(EngineCache(tmp_path, 10), "a", bytes(1000))[0] == bytes(1000)
    assert fetch(EngineCache(tmp_path, 0), "b", bytes(1000))[0] == bytes(1000)
    assert entries(tmp_path) == set()


def test_a_build_that_fails_leaves_nothing_and_no_lock(tmp_path: Path) -> None:
    def fails(path: Path) -> dict[str, Any]:
        path.write_bytes(b"half an eng")
        raise ExportError("crashed")

    with pytest.raises(ExportError):
        EngineCache(tmp_path, 1000).fetch("a", fails, waiting=print)
    assert entries(tmp_path) == set()


def test_what_a_killed_build_left_behind_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".a.x1.tmp").mkdir()
    (tmp_path / ".a.x1.tmp" / "model.engine").write_bytes(b"half")
    fetch(EngineCache(tmp_path, 1000), "a")
    assert entries(tmp_path) == {"a"}


def test_the_lock_of_a_dead_process_is_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    path.write_text("process 999999")
    waited: list[str] = []
    with locked(path, waiting=waited.append):
        assert path.read_text() == f"process {os.getpid()}"
    assert waited == []
    assert not path.exists()


def test_a_lock_is_released_when_its_holder_is_killed(tmp_path: Path) -> None:
    path, waited = tmp_path / "a.lock", []
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with locked_if_free(path) as free:
            assert not free

        def kill(text: str) -> None:
            waited.append(text)
            holder.kill()

        with locked(path, waiting=kill):
            assert waited[0] == f"process {holder.pid}"


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(ConfigError, match="cannot write"),
        locked(tmp_path / "file" / "a.lock", waiting=print),
    ):
        pass
