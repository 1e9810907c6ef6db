"""What was verified, in lines, tables and pages."""

from pathlib import Path

import pytest

from hp_export.report import agreement_table, write_section
from hp_sdk.errors import ConfigError

PAGE = """Before.
<!-- one: written by a.py -->
old
<!-- end -->
Between.
<!-- two: written by b.py -->
<!-- end -->
After.
"""


def entry(label_agreement: float, **changes: object) -> dict[str, object]:
    return {
        "artifact": "model.fp32.onnx", "runtime": "onnxruntime", "head": "cihp", "batch": 1,
        "images": 8, "max_abs": 1e-6, "largest_logit": 9.5, "label_agreement": label_agreement,
        "boundary_agreement": 1.0, "miou": 1.0, "miou_all": 1.0, "margin": 0.0,
    } | changes  # fmt: skip


def test_the_table_shows_the_worst_batch_of_each_head() -> None:
    entries = [entry(1.0), entry(0.5, batch=16), entry(0.75, head="atr")]
    rows = agreement_table(entries).splitlines()[2:]
    assert [row.split(" | ")[2:4] for row in rows] == [["cihp", "16"], ["atr", "1"]]
    assert "50.000%" in rows[0]


def test_a_section_of_a_page_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    write_section(page, "one", "a.py", "new")
    write_section(page, "two", "b.py", "first")
    write_section(page, "two", "b.py", "second")
    assert page.read_text() == PAGE.replace("a.py -->\nold\n", "a.py -->\n\nnew\n\n").replace(
        "b.py -->\n", "b.py -->\n\nsecond\n\n"
    )


@pytest.mark.parametrize("text", ["", PAGE, "<!-- three: written by c.py -->\nno end"])
def test_a_page_without_the_marks_is_refused_and_untouched(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ConfigError, match=r"three: written by c\.py"):
        write_section(page, "three", "c.py", "new")
    assert page.read_text() == text
