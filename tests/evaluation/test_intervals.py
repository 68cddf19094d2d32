"""The search for means without an interval, which the tests of every summary and page use, finds them."""

from __future__ import annotations

import pytest
from intervals import bare, bare_cells

from stepvideo.evaluation.stats import wilson

WHOLE = wilson(9, 10).as_dict()


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ({"a": WHOLE}, []),
        ({"a": {"value": 0.9, "n": 10}}, [".a.value"]),
        ({"a": [{"rate": 0.9, "low": 0.91, "high": 1.0}]}, [".a[0].rate"]),  # an interval that does not hold it
        ({"train/all": 0.9, "n": 10.0, "bar": 0.95, "design": {"score": 0.55}}, [".train/all"]),
        (wilson(9, 10).named("train/all"), []),
        ({"train/all": 0.9, "train/all_low": 0.6}, [".train/all"]),
        ({"ties": 3, "strength": [WHOLE], "against": [[0.5, 0.7], [0.3, 0.5]]}, [".against"]),
        ({"all": {"mean": 1.0, "low": None, "high": None, "prompts": 1}}, []),
        ({"all": {"mean": 1.0, "low": None, "high": None, "prompts": 2}}, [".all.mean"]),
        ({"means": {"psnr": {"value": 1.0, "low": None}}, "reasons": {"psnr": "one clip"}}, []),
        ({"means": {"psnr": {"value": 1.0, "low": None}}, "reasons": {}}, [".means.psnr.value"]),
    ],
)
def test_in_json(data, found):
    assert bare(data) == found


def test_in_pages():
    row = "<tr><td>x</td><td>90.0 %{}</td></tr>"
    good = ("<small>55.5–99.8</small>", "<small>55.5–99.8, of 9, bar 95 %</small>", " (55.5 to 99.8 %)", " (56–100)")
    assert bare_cells("".join(map(row.format, good))) == []
    assert bare_cells(row.format("<small>of 96, bar 95 %</small>")) == ["90.0 % of 96, bar 95 %"]
    assert bare_cells("<tr class='none'><td>chance</td><td>25.0 %</td></tr><p>at least 90 %</p>") == []
