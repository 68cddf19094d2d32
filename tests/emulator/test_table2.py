"""Table 2 by the emulator's own cost functions: the bars, that they can be missed, and the fit itself."""

from __future__ import annotations

import argparse
import json

import pytest

from stepvideo.emulator import table2, table2_report, table_command


@pytest.fixture(scope="module")
def result():
    return table2_report.table2_report()


def test_every_bar_is_met_with_five_constants(result):
    assert result["ok"], result["met"]
    assert len(result["constants"]) + 1 <= 5  # and the reserve of memory
    assert all(low < result["constants"][n] < high for n, (low, high) in result["ranges"].items())
    assert result["found"]["mae"] < result["baseline_mean"]["mae"] / 5


def test_checkpointing_misses_only_the_row_that_is_no_number_of_layers(result):
    wrong = [r["row"] for r in result["rows"] if abs(r["recompute"] - r["recompute_predicted"]) > 1e-3]
    assert wrong == [9]


def test_both_the_estimate_and_what_was_reached_are_said(result):
    text = table2_report.text(result)
    assert "the report says 35.59 % estimated, 32 % actual" in text and "113 (prototype" in text
    assert "known miss: row 9" in text and "MISSED" not in text


def test_without_exchanges_between_nodes_the_bars_are_missed(monkeypatch, capsys):
    """A cost model that lacks a part cannot be fitted: rows of CP differ by what it costs."""
    monkeypatch.setitem(table2.FITTED, "inter_efficiency", (0.899, 0.9))
    monkeypatch.setitem(table2.FITTED, "tensor_overlap", (0.949, 0.95))
    assert table_command.table2(argparse.Namespace(check=True, json=True)) == 1
    assert not json.loads(capsys.readouterr().out)["ok"]
