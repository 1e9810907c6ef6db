"""The documentation: its Python runs as printed, its commands exist, the site builds."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import hp_sdk
from hp_sdk.errors import HpError

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
PAGES = [DOCS / "index.md", *sorted((DOCS / "guides").glob("*.md"))]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.S | re.M)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.stem)
def test_the_python_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HP_HOME", str(tmp_path / "home"))
    program = "\n".join(blocks(page, "python"))

    exec(compile(program, page.name, "exec"), {"__name__": "__main__"})

    printed = capsys.readouterr().out
    assert printed or "print(" not in program


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_python_that_is_only_shown_is_python(page: Path):
    for number, block in enumerate(blocks(page, "py")):
        compile(block, f"{page.name} block {number}", "exec")


def test_the_commands_of_the_guides_are_ours():
    lines = [line for page in PAGES for block in blocks(page, "sh") for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    ours = {word for line in words for word in line if re.fullmatch(r"hp-[a-z]+", word)}

    assert "hp-parse" in ours
    assert ours <= set(PROJECT["scripts"])


def test_the_guides_name_examples_that_exist():
    named = {
        name
        for page in PAGES
        for name in re.findall(r"`(examples/[\w./]+)`", page.read_text("utf-8"))
    }

    assert named
    assert {name for name in named if not (REPOSITORY / name).exists()} == set()


def test_the_table_of_errors_is_the_tree_of_errors():
    text = (DOCS / "guides" / "errors.md").read_text("utf-8")
    told = dict(re.findall(r"^\| `(\w+)` \|.*\| (\d+) \|$", text, re.M))
    errors = {
        name: str(error.exit_code)
        for name in hp_sdk.__all__
        if isinstance(error := getattr(hp_sdk, name), type)
        and issubclass(error, HpError)
        and error is not HpError
    }

    assert told == errors


def test_every_public_name_is_in_the_reference():
    text = "\n".join(page.read_text("utf-8") for page in (DOCS / "api").glob("*.md"))
    asked_for = set(re.findall(r"[\w.]+", text))
    modules = {getattr(hp_sdk, name).__module__ for name in hp_sdk.__all__}
    names = {f"{getattr(hp_sdk, name).__module__}.{name}" for name in hp_sdk.__all__}
    whole = {module for module in modules if f"::: {module}\n" in text}

    assert {name for name in names if name.rpartition(".")[0] not in whole} <= asked_for


@pytest.mark.skipif(
    importlib.util.find_spec("mkdocstrings") is None,
    reason='needs mkdocs and mkdocstrings: pip install "hp-sdk[docs]"',
)
def test_the_site_builds_without_a_warning(tmp_path: Path):
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        build,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )

    assert done.returncode == 0, done.stderr
    parser = (tmp_path / "api" / "parser.html").read_text("utf-8")
    assert "hp_sdk.parser.Parser.predict" in parser
    assert "Photos share a run in groups of" in parser  # the docstring of `stream`
