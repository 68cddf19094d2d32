"""The choice `latents=streamed`: what stages then read, and what it leaves as it was."""

from __future__ import annotations

from flows.compose import compose
from flows.graph import build
from stepvideo.config import result_part


def test_streamed_stages_get_the_encoders_and_nothing_of_their_result_changes():
    cached, streamed, only = (
        {n.name: n for n in build(compose(["profile=smoke", *more]))}
        for more in (
            [],
            ["latents=streamed"],
            ["stages.latents.on_the_fly=true", "only.t2vi_540.s6.runtime.data=streamed"],
        )
    )
    trained = [name for name, node in cached.items() if node.kind == "train"]
    for name in trained:
        assert result_part(streamed[name].config) == result_part(cached[name].config)
        assert {"curate", "vae", "text"} <= set(streamed[name].inputs) and "vae" not in cached[name].inputs
        assert ("text" in only[name].inputs) == (name == "t2vi_540.s6")
    assert streamed["latents"].config["on_the_fly"] and not cached["latents"].config["on_the_fly"]
