"""The small world's hard cases: does what was asked for happen, and to which objects? (report §10.2, §10.3)"""

from __future__ import annotations

from stepvideo.evaluation.metrics.base import HIGHER, NEITHER, Asked, Computed, Null
from stepvideo.evaluation.metrics.video import Video
from stepvideo.world import oracle
from stepvideo.world.attributes import Attrs
from stepvideo.world.events import Event
from stepvideo.world.hard.oracle import read_event

MIN_FRAMES = 5


class Events(Computed):
    """`event`: 1 if the event is read in the right order, else 0; `event_fit`: R² of its law of motion;
    `objects`: 1 if each of several objects has every attribute, each read by its colour.

    Rows of `stepvideo suite world` have `aux["event"]`, or `aux["objects"]`.
    """

    name, version = "events", "1"
    values = {"event": HIGHER, "event_fit": NEITHER, "objects": HIGHER}
    rates = ("event", "objects")
    needs = ("prompt",)

    def score(self, video: Video, asked: Asked) -> dict[str, float | Null] | Null:
        if "event" in asked.aux:
            if len(video.frames) < MIN_FRAMES:
                return Null(f"{len(video.frames)} frames: an event takes {MIN_FRAMES} or more")
            event, found = Event.from_dict(asked.aux["event"]), read_event(video.frames)
            one = Null("the prompt asks for one object: see the metric oracle")
            return {"event": float(found.event == event), "event_fit": found.fit[event.kind], "objects": one}
        if "objects" in asked.aux:
            told = [Attrs.from_dict(dict(a)) for a in asked.aux["objects"]]
            right = all(oracle.score(oracle.read(video.frames, a.colour), a)["all"] for a in told)
            none = Null("the prompt asks for no event")
            return {"event": none, "event_fit": none, "objects": float(right)}
        return Null("not a hard case of the small world: its row has no aux.event and no aux.objects")
