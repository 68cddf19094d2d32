"""Load balance is measured on two processes, not only computed: benchmarks/balance.py, briefly."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def measured(arguments: list[str]) -> tuple[int, str]:
    """What `benchmarks/balance.py` ends with and prints, as a rank of it."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import balance

    sys.argv[1:] = arguments
    with contextlib.redirect_stdout(io.StringIO()) as said:
        return balance.main(), said.getvalue()


@pytest.fixture(scope="module")
def result(ranks) -> dict:
    (code, said), _ = ranks(2, measured, ["--json", "--steps", "6", "--repeats", "1"])
    assert code == 0
    return json.loads(said)


def test_measured_utilisation_is_the_computed_one(result):
    """The benchmark asks for 5 points over more steps; 10 leave room for a busy machine."""
    rows = {r["method"]: r for r in result["rows"]}
    for row in rows.values():
        assert abs(row["cpu"] - row["computed"]) <= 0.1, row
        assert 0.5 <= row["wall"] <= 1
    assert rows["hybrid"]["computed"] > rows["coarse"]["computed"] > rows["none"]["computed"]
    assert rows["hybrid"]["cpu"] > rows["none"]["cpu"] + 0.05


def test_time_follows_flops(result):
    """Else the comparison would be one of overheads."""
    speeds = result["gflops"].values()
    assert max(speeds) < 2.5 * min(speeds)


def test_its_check_can_fail(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import balance

    rows = [{"method": "none", "computed": 0.78, "cpu": 0.80}, {"method": "hybrid", "computed": 0.97, "cpu": 0.91}]
    assert balance.faults({"rows": rows}) == ["hybrid: 0.910 measured, 0.970 computed; at most 0.05 apart is asked"]
    for name in ("balance", "model_speed", "plain_dit", "plain_vae"):
        sys.modules.pop(name, None)
