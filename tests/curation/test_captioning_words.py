"""Prompts, answers, rules and checks: everything about captions that needs no server."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from stepvideo.config import dump, load
from stepvideo.curation.captioning import checks, prompts, reply, rules
from stepvideo.curation.captioning.camera import BY_NAME, MOVEMENTS, movement, named
from stepvideo.curation.captioning.config import CaptionsConfig, CaptionsRuntime, ChecksConfig, ModelConfig
from stepvideo.curation.captioning.facts import Facts
from stepvideo.curation.captioning.statistics import brief, distinct, statistics
from stepvideo.errors import ConfigError
from stepvideo.world.attributes import Attrs, all_combinations
from stepvideo.world.captions import Setting, captions

CONFIG = ChecksConfig()
KNOWN = Facts(
    seconds=3.2,
    camera=BY_NAME["pan_left"],
    motion=5.0,
    saturation=5.0,
    brightness=40.0,
    text="HELLO world",
    frozen=False,
)


def row(text: str, kind: str = "short", language: str = "en", source: str = "vlm", clip: str = "c") -> dict[str, Any]:
    return {"clip_id": clip, "kind": kind, "language": language, "text": text, "source": source, "flags": []} | {
        "clip_score": None
    }


def flags(text: str, facts: Facts, clip_score: float | None = None, **what: str) -> list[str]:
    return [flag for flag, _ in checks.check(row(text, **what) | {"clip_score": clip_score}, facts, CONFIG)]


@pytest.mark.parametrize("move", MOVEMENTS, ids=lambda m: m.name)
def test_a_movement_is_recognised_in_the_words_that_are_used_for_it(move: Any) -> None:
    for phrase in (move.zh, move.en):
        assert move in named(phrase) and {m.seen for m in named(phrase)} == {move.seen}
    assert movement(move.name.replace("_", "-").upper()) is move


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("The camera slowly pans from left to right across the hall.", ["pan_right"]),
        ("panning right to left over the sea", ["pan_left"]),
        ("the camera does not pan left", []),
        ("The camera remains completely still while a boat moves left", ["static"]),
        ("a view of still water, the sun rises to the right", []),
        ("a static shot; the dog moves forward", ["static"]),
        ("The camera moves slowly forward and zooms in", ["zoom_in", "dolly_in"]),
        ("there is no camera movement", ["static"]),
        ("镜头从左到右缓慢摇过大厅", ["pan_right"]),
        ("镜头没有向左移动", []),
        ("镜头中的小船静止不动", []),
        ("镜头先向右摇，再向上摇", ["pan_right", "tilt_up"]),
        ("固定镜头，一个球向左移动", ["static"]),
    ],
)
def test_movements_in_captions(text: str, names: list[str]) -> None:
    assert [m.name for m in named(text)] == names


def test_prompts_ask_for_what_is_wanted_in_the_language_wanted() -> None:
    said = {lang: prompts.instruction(["short", "dense"], lang, KNOWN, 8, True) for lang in ("en", "zh")}
    assert "8 frames of one video clip of 3.2 seconds" in said["en"] and "keys short, dense," in said["en"]
    assert all(m.en in said["en"] and m.zh in said["zh"] for m in MOVEMENTS)
    assert "Measured: the camera pans left." in said["en"] and '"HELLO world"' in said["zh"]
    still = prompts.instruction(["short"], "en", replace(KNOWN, still=True), 1, True)
    assert "one picture" in still and "camera" not in still and "dense" not in still
    assert not any("{" in text for text in (*said.values(), still))


def test_the_prompts_version_follows_their_words(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    before = prompts.VERSION
    monkeypatch.setattr("stepvideo.curation.captioning.camera.SIZES", {"wide shot": "全景"})
    changed = importlib.reload(prompts).VERSION
    monkeypatch.undo()
    assert changed != before == importlib.reload(prompts).VERSION


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"short": " a  b\\nc ", "dense": "圆🎈"}', ""),
        ('```json\n{"short": "x", "dense": "y"}\n```', ""),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('["x"]', "JSON list"),
        ('{"short": "x"}', "dense"),
        ('{"short": "x", "dense": "y", "mood": "z"}', "mood"),
        ('{"short": "x", "dense": ["y"]}', "'dense' is not a text"),
        ('{"short": "  ", "dense": "y"}', "'short' is not a text"),
        ('{"short": "\\ud800", "dense": "y"}', "half a Unicode character"),
    ],
)
def test_answers_are_checked(text: str, fault: str) -> None:
    texts, found = reply.parse(text, ["short", "dense"])
    assert fault in found and bool(texts) == (not fault)
    assert texts.get("short") in (None, "a b c", "x") and list(texts) in ([], ["short", "dense"])


def test_rules_say_what_was_measured_and_nothing_else() -> None:
    dense = rules.caption("c1", "dense", "en", KNOWN)
    for part in ("dark, black-and-white", "The camera pans left.", "slow", "“HELLO world”", "3.2 seconds"):
        assert part in dense
    zh = rules.caption("c1", "dense", "zh", KNOWN)
    for part in ("昏暗、黑白的", "镜头向左摇", "“HELLO world”", "3.2秒"):
        assert part in zh
    nothing = Facts(seconds=2.0)
    assert [rules.caption("c1", kind, "en", nothing) for kind in ("short", "dense", "title")] == ["", "", ""]
    frozen = rules.caption("c1", "dense", "en", replace(KNOWN, frozen=True))
    assert "camera" not in frozen and "motion" not in frozen


def test_rules_word_the_same_clip_in_the_same_way_and_others_differently() -> None:
    said = {i: rules.caption(str(i), "dense", "en", KNOWN) for i in range(50)}
    assert said == {i: rules.caption(str(i), "dense", "en", KNOWN) for i in range(50)} and len(set(said.values())) > 5


@pytest.mark.parametrize("language", ["zh", "en"])
def test_rules_say_of_the_world_what_is_in_it_and_no_more(language: str) -> None:
    for i, attrs in enumerate(all_combinations()[::7]):
        facts = replace(KNOWN, objects=(attrs,), saturation=80.0, camera=BY_NAME["tilt_up"])
        for kind in ("short", "dense", "title"):
            text = rules.caption(str(i), kind, language, facts)
            assert text and set(flags(text, facts, kind=kind, language=language)) <= {"length"}
            assert not named(text) and "HELLO" not in text  # what is measured is not added to what is known


def test_the_worlds_own_captions_raise_no_doubt_and_those_of_others_do() -> None:
    draw = np.random.default_rng(0)
    for attrs in all_combinations()[::11]:
        facts = Facts(objects=(attrs,), saturation=80.0, camera=BY_NAME["static"])
        for kind, by_language in captions(attrs, Setting(), draw).items():
            for lang, texts in by_language.items():
                for text in texts:
                    assert set(flags(text, facts, kind=kind, language=lang, source="sidecar")) <= {"length"}, text
    facts = Facts(objects=(Attrs("red", "circle", "left", "small", 1),))
    for wrong in ("a small blue circle moves left", "a small red square moves left", "a small red circle moves right"):
        assert flags(wrong, facts) == ["objects"]
    for wrong in ("一个蓝色的小圆向左移动", "一个红色的小三角形向左移动", "一个红色的小圆向上移动"):
        assert flags(wrong, facts, language="zh") == ["objects"]


@pytest.mark.parametrize(
    ("text", "flag", "facts"),
    [
        ("the camera pans right over a field", "camera", KNOWN),
        ("a field, and the camera is static", "camera", KNOWN),
        ("the camera tracks a car and pans left", "", KNOWN),
        ("the camera follows a running dog", "", KNOWN),  # flow cannot tell
        ("the camera pans right over a field", "", Facts()),  # nobody measured
        ("a field, and the camera is static", "camera", Facts(camera=BY_NAME["handheld"])),
        ("the camera pans right over a field", "", Facts(camera=BY_NAME["handheld"])),
        ("the camera pans right over a field", "camera", Facts(still=True)),
        ("a sign that says “hello, world”", "", KNOWN),
        ("a sign that says “goodbye”", "quotation", KNOWN),
        ('a sign that says "HELL0 world"', "", KNOWN),  # one character misread
        ("a man with subtitles under him", "text", Facts(text="")),
        ("a red car on a road", "colour", KNOWN),
        ("a red car on a road", "", Facts(saturation=80.0)),
        ("a red car on a road", "", Facts(saturation=5.0, grey=False)),  # pale, not grey
        ("a red car on a road", "colour", Facts(grey=True)),
        ("a black-and-white photograph of a road", "colour", Facts(saturation=80.0)),
        ("a black and white cat on a road", "", Facts(saturation=80.0)),
        ("一只猫在草地上跑 on grass", "language", Facts()),
        ("I'm sorry, I can't describe this", "refusal", Facts()),
        ("The video shows a cat on a road", "boilerplate", Facts()),
        ("Short: **a cat** on a road", "markup", Facts()),
        ("cat", "length", Facts()),
        ("a cat on a road " * 4, "loop", Facts()),
    ],
)
def test_doubts(text: str, flag: str, facts: Facts) -> None:
    assert flags(text.strip(), facts) == [flag] * bool(flag)


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ("A cat sits on a mat", "language"),
        ("抱歉，我无法识别这段视频", "refusal"),
        ("这段视频展示了一只猫在睡觉", "boilerplate"),
        ("牌子上写着“欢迎光临”的小店", "quotation"),
        ("镜头向右摇过一片田野", "camera"),
        ("一只红色的猫在路上走", "colour"),
        ("一只猫在路上慢慢地走", ""),
    ],
)
def test_doubts_in_chinese(text: str, flag: str) -> None:
    assert flags(text, KNOWN, language="zh") == [flag] * bool(flag)


def test_what_a_model_says_of_many_clips_is_repeated() -> None:
    same = [row("a cat sits", clip=str(i)) for i in range(5)]
    assert checks.repeated(same, CONFIG) == {"a cat sits": 5}
    assert checks.repeated(same[:4], CONFIG) == {}
    assert checks.repeated([r | {"source": "rule"} for r in same], CONFIG) == {}


def test_a_caption_that_a_clip_sees_nothing_of_is_flagged() -> None:
    said = "a cat walks along a road"
    assert [flags(said, KNOWN, clip_score=score) for score in (None, 0.16, 0.14)] == [[], [], ["clip_score"]]


def test_statistics_by_kind_language_and_source() -> None:
    rows = [
        row("a cat sits"),
        row("a cat sits", clip="d"),
        row("一只猫", language="zh"),
        row("a dog runs far", clip="e"),
    ]
    rows[0]["flags"] = ["camera"]
    rows[0]["clip_score"], rows[3]["clip_score"] = 0.2, 0.4
    found = statistics(rows)
    english = found["groups"]["short/en/vlm"]
    assert found["captions"] == 4 and found["clips"] == 3 and found["flags"] == {"camera": 1} and found["flagged"] == 1
    assert english["length"]["p0"] == 3 and english["length"]["p100"] == 4 and english["repeated"] == {"a cat sits": 2}
    assert english["distinct_1"] == pytest.approx(6 / 10) and found["groups"]["short/zh/vlm"]["length"]["mean"] == 3
    assert distinct([["a"], ["b"]], 2) is None and json.dumps(found)
    assert found["languages"]["en"]["vocabulary"] == 6 and found["languages"]["en"]["lengths"] == {3: 2, 4: 1}
    assert brief(found) == {
        **{"length_en": pytest.approx(10 / 3), "vocabulary_en": 6.0, "duplicates_en": pytest.approx(1 / 3)},
        **{"clip_score_en": pytest.approx(0.3), "length_zh": 3.0, "vocabulary_zh": 3.0, "duplicates_zh": 0.0},
    }


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"order": ["vlm", "vlm"]}, "none twice"),
        ({"kinds": ["haiku"]}, "short, dense, title"),
        ({"languages": []}, "zh, en"),
        ({"model": {"response_format": "xml"}}, "json_schema"),
        ({"model": {"frames": 0}}, "model.frames=0"),
        ({"runtime": {"url": "node7:8000"}}, "http://"),
        ({"runtime": {"in_flight": 0}}, "runtime.in_flight=0"),
        ({"runtime": {"max_unanswered": 2}}, "max_unanswered"),
    ],
)
def test_configs_that_cannot_be_meant_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=message):
        load(CaptionsConfig, config)


def test_the_config_makes_the_round_trip() -> None:
    config = CaptionsConfig(model=ModelConfig(name="x"), runtime=CaptionsRuntime(url="http://h/v1"))
    assert load(CaptionsConfig, dump(config)) == config
