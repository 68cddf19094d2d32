"""Table 3 of the report, and that its check can fail."""

from __future__ import annotations

from stepvideo.emulator import table3
from stepvideo.emulator.table3 import table3 as counted


def test_six_of_seven_rows_to_the_printed_digit():
    result = counted()
    assert result["ok"] and result["exact"] == 6 and result["max_error"] < 0.008
    assert [r["size"] for r in result["rows"] if not r["exact"]] == ["136x256x256"]


def test_another_count_of_text_tokens_misses_the_bar(monkeypatch):
    monkeypatch.setattr(table3, "TEXT", 255)
    result = counted()
    assert not result["ok"] and result["max_error"] > 0.05 and "MISSED" in table3.text(result)
