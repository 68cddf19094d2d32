"""The gate stands between the catalog and whoever uses it. What it checks is tested in tests/tasks/test_gates.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks import gates
from tasks.gates import Finding, GateReport


@pytest.fixture
def gated(mini, monkeypatch: pytest.MonkeyPatch):
    import toy_gated

    monkeypatch.setenv("STEPVIDEO_KINDS", toy_gated.KINDS)
    asked: list[tuple[Path, Path, int]] = []

    def gate(*failed: Finding, warnings: tuple[Finding, ...] = ()) -> list[tuple[Path, Path, int]]:
        def check(catalog: Path, docs: Path, min_frames: int, last: Path | None) -> GateReport:
            asked.append((catalog, docs, min_frames))
            report = GateReport(not failed, list(warnings), list(failed), docs / "index.html", 3)
            if failed:
                raise gates.GateFailed("the catalog fails 1 of 3 expectations", report)
            return report

        monkeypatch.setattr(gates, "check_catalog", check)
        return asked

    return gate


def test_a_catalog_that_fails_stops_the_run(mini, gated) -> None:
    asked = gated(Finding("clips", "no clip is empty", "critical", "2 are"))
    said = mini.fails("graph=toy_gated", "stages.clips.segment.min_frames=9")
    assert "fails 1 of 3 expectations" in said
    (catalog, docs, min_frames) = asked[0]
    assert (catalog / "values.json").exists() and min_frames == 9 and docs.parent == catalog.parent
    assert not list(mini.store.root.glob("fit/*"))
    assert mini.ran("graph=toy_gated", "stages.clips.segment.min_frames=9", "gate=false") == ["fit"]


def test_warnings_let_it_pass_and_are_told(mini, gated) -> None:
    gated(warnings=(Finding("clips", "most are captioned", "warning", "40 % are"),))
    code, out, _ = mini.cli("run", *mini.args("graph=toy_gated"))
    assert code == 0 and "warning: [clips] most are captioned: 40 % are" in out and "data docs:" in out


def test_status_says_where_the_data_docs_are(mini, gated) -> None:
    gated(warnings=(Finding("clips", "most are captioned", "warning", "40 % are"),))
    mini.cli("run", *mini.args("graph=toy_gated"))
    code, out, _ = mini.cli("status", "--store", str(mini.store.root))
    docs = next(mini.store.root.glob("clips/*")) / "gate" / "index.html"
    assert code == 0 and f"gate of clips passed, 1 warning: data docs {docs}" in out
    _, out, _ = mini.cli("status", "--json", "--store", str(mini.store.root))
    (row, _) = json.loads(out)["stages"]
    assert row["gate"] == {"passed": True, "warnings": 1, "docs": str(docs)}
    gated(Finding("clips", "no clip is empty", "critical", "2 are"))
    mini.fails("graph=toy_gated")
    assert f"gate of clips FAILED: data docs {docs}" in mini.cli("status", "--store", str(mini.store.root))[1]
