"""Plots: well-formed, inside their box, with readable ticks and hover texts."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from stepvideo.svg import (
    HEIGHT,
    WIDTH,
    Interval,
    Mark,
    Series,
    bar_chart,
    interval_chart,
    line_chart,
    nice_ticks,
    number,
    smooth,
    thin,
)

SVG = "{http://www.w3.org/2000/svg}"


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def test_ticks_are_round_and_inside():
    assert nice_ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert nice_ticks(0, 2029) == [0, 500, 1000, 1500, 2000]
    assert nice_ticks(3, 3) == [3]


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_never_leave_the_range(low, width):
    ticks = nice_ticks(low, low + width)
    assert 1 <= len(ticks) <= 11
    assert all(low - 1e-6 * width <= t <= low + width * (1 + 1e-6) for t in ticks)


def test_line_chart_draws_every_curve_inside_the_box():
    loss = [(i, 1 / (1 + i)) for i in range(500)]
    svg = line_chart(
        "loss <&>", [Series("raw", loss, faint=True), Series("mean", smooth(loss))], marks=[Mark(250, "s2")]
    )
    root = parse(svg)
    assert root.get("aria-label") == "loss <&>"
    lines = root.findall(f"{SVG}polyline")
    assert len(lines) == 2
    for line in lines:
        for x, y in (map(float, p.split(",")) for p in line.get("points").split()):
            assert 0 <= x <= WIDTH and 0 <= y <= HEIGHT
    titles = [t.text for t in root.iter(f"{SVG}title")]
    assert titles and titles[-1].startswith("mean, step 499: ")
    assert any(t.text == "s2" for t in root.findall(f"{SVG}text"))


def test_curves_that_cannot_be_drawn_leave_nothing():
    assert line_chart("x", []) == ""
    assert line_chart("x", [Series("a", [(0, math.nan)])]) == ""
    assert line_chart("x", [Series("a", [(0, 0.0)])], log=True) == ""
    parse(line_chart("one point", [Series("a", [(0, 2.0)])]))
    parse(line_chart("constant", [Series("a", [(0, 2.0), (9, 2.0)])], log=True))


def test_log_axis_keeps_order():
    svg = line_chart("x", [Series("a", [(0, 100.0), (1, 1.0), (2, 0.01)])], log=True)
    ys = [float(p.split(",")[1]) for p in parse(svg).find(f"{SVG}polyline").get("points").split()]
    assert ys == sorted(ys)
    assert abs((ys[1] - ys[0]) - (ys[2] - ys[1])) < 0.1  # equal ratios, equal distances


def test_thinning_keeps_the_mean_and_the_end():
    points = [(i, float(i % 7)) for i in range(700)]
    thinned = thin(points, 100)
    assert len(thinned) == 100 and thinned[-1][0] == 699
    assert abs(sum(y for _, y in thinned) / 100 - 3) < 1e-9
    assert thin(points[:5]) == points[:5]


def test_interval_chart_says_untestable():
    svg = interval_chart("colour", [Interval("SFT", 0.9, 0.8, 0.95), Interval("DPO", None)], reference=1 / 6)
    root = parse(svg)
    assert len(root.findall(f".//{SVG}circle")) == 1
    assert "untestable" in [t.text for t in root.findall(f"{SVG}text")]
    assert "SFT: 90.0 % (80.0 to 95.0 %)" in [t.text for t in root.iter(f"{SVG}title")]


def test_bars_are_proportional():
    root = parse(bar_chart("funnel", [("raw", 200), ("cut", 100), ("none", 0)]))
    widths = [float(r.get("width")) for r in root.iter(f"{SVG}rect")]
    assert abs(widths[0] - 2 * widths[1]) < 0.02 and widths[2] == 1
    assert bar_chart("empty", []) == ""


def test_numbers_are_short():
    assert [number(v) for v in (0, 0.00123456, 0.5, 12.345, 1234.5, 25_300)] == [
        "0", "0.00123", "0.5", "12.3", "1234", "25.3k",
    ]  # fmt: skip
    assert all(re.fullmatch(r"[-\d.ek+]{1,9}", number(v)) for v in (1e-9, -0.04, 3.0, 1e8))
