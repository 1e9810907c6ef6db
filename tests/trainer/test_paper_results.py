"""The papers' numbers are found by domain, cited, and never taken for ours."""

import csv
from pathlib import Path

import numpy as np
import pytest

import hp_trainer
from hp_sdk.errors import ConfigError
from hp_trainer.metrics import Confusion
from hp_trainer.paper_results import DATA_SETS, NOTE, comparison, paper_entry, paper_rows

TABLE = Path(hp_trainer.__file__).parent / "tables" / "paper_results.csv"


def value(domain, method, metric, *, backbone="ResNet-50", table=None):
    (found,) = (
        row.metrics[metric]
        for row in paper_rows(domain)
        if (row.method, row.backbone) == (method, backbone) and table in (None, row.table)
    )
    return found


def test_rows_say_what_the_papers_print():
    assert value("pascal", "SST Universal", "mIoU", table="T1") == 72.25
    assert value("cihp", "SST Universal", "mean_acc", table="T3") == 73.97
    assert value("lip", "SCHNet", "IoU_hat", backbone="-") == 72.87
    assert value("cihp", "SCHNet (TTA)", "mIoU", backbone="ViT-L") == 72.27


def test_the_mean_of_a_papers_classes_is_the_mean_it_prints():
    (row,) = (r for r in paper_rows("lip") if (r.method, r.table) == ("SCHNet", "T1"))
    parts = [v for name, v in row.metrics.items() if name.startswith("IoU_")]
    assert len(parts) == 20
    assert np.mean(parts) == pytest.approx(row.metrics["mIoU"], abs=0.01)


def test_every_number_about_a_data_set_is_found():
    with TABLE.open(newline="", encoding="utf-8") as file:
        about = [line for line in csv.DictReader(file) if line["dataset"] != "-"]
    found = sum(len(row.metrics) for domain in DATA_SETS for row in paper_rows(domain))
    assert found == len(about) == 369


def test_a_domain_is_found_by_its_other_names():
    assert paper_rows("ppp") == paper_rows("pascal") == paper_rows("pascal_m2fp")


def test_a_domain_without_reported_results_is_refused():
    with pytest.raises(ConfigError, match=r"'ccp'.*pascal, atr, cihp, lip"):
        paper_rows("ccp")


def test_the_comparison_leads_with_the_measured_value_and_ends_with_the_caveat():
    confusion = Confusion(["background", "head"])
    confusion.add(np.array([[0, 1, 1, 1]], np.uint8), np.array([[0, 1, 1, 0]], np.uint8))
    rows = paper_rows("atr")
    head, measured, *others, note, sources = comparison(rows, confusion.scores())
    assert [name for name in ("mIoU", "mean_acc", "pixel_acc") if name in head]
    assert measured.split()[:4] == ["=>", "58.33", "83.33", "75.00"]
    assert len(others) == len(rows)
    assert any(line.split()[0] == "79.97" and "SST Universal" in line for line in others)
    assert note == NOTE
    assert "2304.04140" in sources


def test_the_json_entry_cites_its_papers():
    entry = paper_entry(paper_rows("lip"))
    assert list(entry["citations"]) == ["SCHNet"]
    assert entry["note"] == NOTE
    assert {"method", "backbone", "setting", "metrics"} <= set(entry["rows"][0])
