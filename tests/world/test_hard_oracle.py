"""The oracle of hard scenes against ground truth, blur, cuts of the clip, and videos that only look alike."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from stepvideo.world.attributes import Attrs, all_combinations
from stepvideo.world.config import RenderConfig
from stepvideo.world.events import BOUNCE, FALL, KINDS, SEQUENCE, Event, Fall, Turn, all_events
from stepvideo.world.hard.oracle import gate_events, read_event, score_event, track
from stepvideo.world.hard.scenes import objects, plan_event, render_event
from stepvideo.world.render import draw, render

LOOK = RenderConfig(size=64, frames=17)
RED = Attrs("red", "circle", None, "small", 1)
EVENTS = {k: [e for e in all_events() if e.kind == k] for k in KINDS}


def _truth(n, look, edit=lambda v: v, window=slice(None)):
    rng = np.random.default_rng(3)
    attrs = [objects()[i] for i in rng.integers(36, size=n)]
    events = [EVENTS[k][int(rng.integers(len(EVENTS[k])))] for k in (KINDS * n)[:n]]
    videos = (
        edit(render_event(a, e, [5, i], look, allow_held_out=True)[window])
        for i, (a, e) in enumerate(zip(attrs, events, strict=True))
    )
    return videos, attrs, events


def _blur(v):
    return np.stack([cv2.GaussianBlur(f, (0, 0), 1.5) for f in v])


@pytest.mark.parametrize(("n", "size", "frames", "window"), [(150, 64, 17, slice(None)), (60, 48, 25, slice(3, 20))])
def test_ground_truth_passes_the_gate(n, size, frames, window):
    rows = gate_events(*_truth(n, RenderConfig(size=size, frames=frames), window=window), bar=0.995)
    assert all(rows[k].ok and rows[k].n == n // 3 for k in KINDS), rows


def test_blur_is_survived():
    rows = gate_events(*_truth(60, LOOK, _blur), bar=0.97)
    assert all(rows[k].ok for k in KINDS), rows


def test_ordinary_clips_and_stills_show_no_event():
    for i, a in enumerate(all_combinations()[::9]):
        assert read_event(render(a, [1, i], LOOK, allow_held_out=True)).event is None
        still = np.repeat(render(a.still(), [1, i], RenderConfig(size=64, frames=1)), 17, 0)
        assert read_event(still).event is None


@pytest.mark.parametrize("fill", [0, 128])
def test_nothing_there_is_no_event(fill):
    video = np.full((17, 64, 64, 3), fill, np.uint8)
    assert track(video) is None and read_event(video).event is None
    assert not score_event(video, RED, all_events()[0])["all"]


def test_the_order_of_a_sequence_counts():
    event, back = Event(SEQUENCE, ("right", "up")), Event(SEQUENCE, ("down", "left"))
    video = render_event(RED, event, 1, LOOK, allow_held_out=True)
    assert score_event(video, RED, event)["all"]
    assert not score_event(video, RED, Event(SEQUENCE, ("up", "right")))["event"]
    assert read_event(video[::-1]).event == back


def _moved(event, change):
    """A scene of the event with another path."""
    scene, motion = plan_event(RED, event, 1, LOOK, allow_held_out=True)
    body = replace(scene.bodies[0], path_t2=change(motion, np.arange(17.0)))
    return draw(replace(scene, bodies=(body,)), LOOK)


def test_a_reversal_away_from_the_border_is_no_bounce():
    event = Event(BOUNCE, ("right", "left"))
    assert read_event(_moved(event, lambda m, t: m.position(t))).event == event
    early = read_event(_moved(event, lambda m, t: m.position(t) - [0.15, 0]))
    assert early.event is None and early.measures["gap"] == pytest.approx(0.15, abs=0.02)


def test_a_bounce_that_loses_most_of_its_speed_is_none():
    def slow(m: Turn, t):
        return replace(m, after=(m.after[0] * 0.4, 0.0)).position(t)

    found = read_event(_moved(Event(BOUNCE, ("right", "left")), slow))
    assert found.event is None and found.measures["speeds"] == pytest.approx(0.4, abs=0.05)


def test_a_fall_has_constant_acceleration():
    event = Event(FALL, ("down",))

    def at(power):
        def path(m: Fall, t):
            drop = m.g * 16**2 / 2
            return np.stack([np.full(17, m.start[0]), m.start[1] + drop * (t / 16) ** power], 1)

        return read_event(_moved(event, path))

    falls = at(2)
    _, motion = plan_event(RED, event, 1, LOOK, allow_held_out=True)
    assert falls.event == event and falls.measures["acceleration"] == pytest.approx(motion.g, rel=0.03)
    assert falls.fit[FALL] > 0.999 and falls.measures["accelerated"] == pytest.approx(1, abs=0.05)
    assert at(1).event is None and at(1).measures["accelerated"] == pytest.approx(0, abs=0.05)
    assert at(4).event is None  # the acceleration grows
    assert read_event(_moved(event, lambda m, t: m.position(t)[::-1])).event is None  # thrown up, not falling
