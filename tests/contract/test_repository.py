"""What the repository promises: configs load, commands exist, the wheel is whole."""

import importlib
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDERS = (
    "hp_sdk",
    "trainer",
    "export",
    "tests",
    "examples",
    "scripts",
    "docs",
    "cpp_bindings",
    ".ci",
)
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))
SCRIPTS: dict[str, str] = PROJECT["project"]["scripts"]
CONFIGS = sorted((REPOSITORY / "trainer" / "hp_trainer" / "configs").glob("*.toml"))


def repository_files() -> Iterator[Path]:
    """Every file somebody wrote, without environments, caches and outputs."""
    yield from (path for path in REPOSITORY.iterdir() if path.is_file())
    for folder in FOLDERS:
        for path in (REPOSITORY / folder).rglob("*"):
            if path.is_file() and not any(map(is_made, path.parts)):
                yield path


def is_made(folder: str) -> bool:
    """Whether a part of a path names a cache or a build (`build`, `build-asan`)."""
    return folder == "__pycache__" or folder == "build" or folder.startswith("build-")


def text_of(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        return ""


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_loads(config: Path):
    from hp_trainer.config import load_config

    assert load_config(config).domains


def test_there_are_shipped_configs():
    assert CONFIGS


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_console_script_leads_to_a_function(script: str):
    module, _, attribute = SCRIPTS[script].partition(":")

    assert callable(getattr(importlib.import_module(module), attribute))


def test_every_command_in_the_readme_is_a_console_script():
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    commands = re.findall(r"(?:^\s*(?:\$ )?|`)(hp-[a-z]+) ", readme, re.MULTILINE)

    assert set(commands) <= set(SCRIPTS)
    assert "hp-parse" in commands


def test_every_make_target_in_the_readme_exists():
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    makefile = (REPOSITORY / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))

    assert set(re.findall(r"^\s*(?:\$ )?make ([a-z-]+)", readme, re.MULTILINE)) <= targets


def test_no_file_names_a_path_of_somebodys_machine():
    private = re.compile(r"(?<![\w./-])/(?:home|root|Users|work|tmp)/\w")
    guilty = [path.name for path in repository_files() if private.search(text_of(path))]

    assert guilty == []


def test_no_source_file_is_longer_than_400_lines():
    sources = (path for path in repository_files() if path.suffix in {".py", ".cpp", ".hpp"})
    long_files = [path.name for path in sources if len(text_of(path).splitlines()) > 400]

    assert long_files == []


def test_the_pinned_versions_satisfy_every_dependency_of_the_project():
    pins = re.findall(r"^([\w.-]+)==", (REPOSITORY / "constraints.txt").read_text("utf-8"), re.M)
    pinned = {name.lower() for name in pins}
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *extras["cpu"], *extras["train"]]
    wanted += [*extras["export"], *extras["dev"]]
    names = {re.match(r"[\w.-]+", line)[0].lower() for line in wanted} - {"hp-sdk"}  # pyright: ignore[reportOptionalSubscript]

    assert names <= pinned


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    build = [
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "--target",
        "wheel",
        "--directory",
        str(folder),
    ]
    done = subprocess.run(
        build, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        return set(wheel.namelist())


@pytest.mark.parametrize("root", ["hp_sdk", "trainer/hp_trainer", "export/hp_export"])
def test_the_wheel_holds_every_file_of_the_packages(root: str, wheel_names: set[str]):
    package = REPOSITORY / root
    expected = {
        path.relative_to(package.parent).as_posix()
        for path in package.rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and not path.name.startswith("_native.")  # built in the checkout, for this machine
    }

    assert expected
    assert expected - wheel_names == set()


def test_the_wheel_installs_three_packages_and_no_others(wheel_names: set[str]):
    top = {name.partition("/")[0] for name in wheel_names if ".dist-info/" not in name}

    assert top == {"hp_sdk", "hp_trainer", "hp_export"}
