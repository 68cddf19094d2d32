"""The graph: order, prefixes, circles, and the wiring of the real cascade."""

from __future__ import annotations

import functools
import sys
import types

import pytest

from flows import curate, table
from flows.compose import ROOT, compose
from flows.graph import Node, Row, build
from stepvideo.curation.tagging_config import BACKENDS
from stepvideo.errors import ConfigError
from stepvideo.stage import KINDS

composed = functools.cache(lambda *overrides: compose(list(overrides)))  # not to be changed


def _nodes(*overrides: str) -> dict[str, Node]:
    return {n.name: n for n in build(composed(*overrides))}


def _graph(monkeypatch: pytest.MonkeyPatch, rows: list[Row]) -> dict:
    module = types.ModuleType("one_graph")
    module.STAGES, module.rows = {"fit": "toy-fit"}, lambda cfg: rows  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "one_graph", module)
    return dict(composed("graph=one_graph", "profile=bare"))  # which asks for no rows


def test_inputs_come_before_users(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        Row("c", "toy-fit", {"x": "b"}, "fit"),
        Row("b", "toy-fit", {"x": "a"}, "fit"),
        Row("a", "toy-fit", {}, "fit"),
    ]
    cfg = _graph(monkeypatch, rows)
    assert [n.name for n in build(cfg)] == ["a", "b", "c"]
    assert [n.name for n in build(cfg, "b")] == ["a", "b"]


def test_rows_of_one_config_differ_by_set_and_only(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Row(f"f.{i}", "toy-fit", {}, "fit", {"steps": i}) for i in (1, 2, 3)]
    cfg = _graph(monkeypatch, rows)
    cfg["only"] = {"f": {2: {"lr": 0.7}}}  # YAML reads the 2 as a number
    nodes = build(cfg)
    assert [n.config["steps"] for n in nodes] == [1, 2, 3]
    assert [n.config["lr"] for n in nodes] == [0.1, 0.7, 0.1]
    assert [n.name for n in build(cfg, "f")] == ["f.1", "f.2", "f.3"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([Row("a", "toy-fit", {"x": "b"}, "fit"), Row("b", "toy-fit", {"x": "a"}, "fit")], "circle among a, b"),
        ([Row("a", "toy-fit", {"x": "bb"}, "fit"), Row("b", "toy-fit", {}, "fit")], "did you mean b"),
        ([Row("a", "toy-fit", {}, "fit"), Row("a", "toy-fit", {}, "fit")], "two rows of one name"),
        ([Row("a", "toy-fti", {}, "fit")], "unknown kind of stage 'toy-fti'"),
    ],
)
def test_a_broken_table_is_an_error(monkeypatch: pytest.MonkeyPatch, rows: list[Row], said: str) -> None:
    cfg = _graph(monkeypatch, rows)
    with pytest.raises(ConfigError, match=said):
        build(cfg)


def test_an_unknown_until_names_near_ones() -> None:
    cfg = compose(["graph=toy_stages", "profile=bare"])
    with pytest.raises(ConfigError, match="did you mean score"):
        build(cfg, "scor")


@pytest.mark.skipif(not (ROOT / "data" / "raw").is_dir(), reason="data/raw is not pulled: dvc pull")
def test_the_cascade_is_whole() -> None:
    cfg = compose(["profile=smoke", "weights.text=train", "weights.vae=train"])
    nodes = {n.name: n for n in build(cfg)}
    further = ["shards=true", "stages.tags.backends.embedding=small", "labels=labels.parquet"]
    alone = _nodes("profile=curate", "graph=flows.curate", "raw=data/raw", *further)
    assert alone["shards"].inputs["captions"] == alone["subsets"].inputs["captions"] == "labels"
    cfg["on_policy_rounds"] = 2
    aligned = {n.name: n for n in build(cfg)}
    kinds = {n.kind for n in [*nodes.values(), *alone.values(), *aligned.values()]}
    assert kinds == set(KINDS) - {"shipped", "given", "produce"}
    assert nodes["t2vi_192.s1"].inputs["init"] == "t2i" and nodes["t2vi_540.s4"].inputs["init"] == "t2vi_192.s3"
    assert nodes["sft.1"].inputs["init"] == nodes["sft.2"].inputs["init"] == "t2vi_540.s6"
    assert [n.name for n in nodes.values() if n.final] == ["turbo"]
    until = [n.name for n in build(cfg, "t2i")]
    assert until[-1] == "t2i" and "vae2" in until and not any(n.startswith(("t2vi", "sft")) for n in until)
    assert set(table.STAGES.values()) | set(curate.STAGES.values()) == set(KINDS) - {"produce"}  # beside a stage


def test_rounds_rank_what_the_policy_of_now_makes(tmp_path) -> None:
    """Rounds add to the cascade and change nothing before them; every round has prompts of its own."""
    (tmp_path / "votes.jsonl").write_text("{}")
    votes = [f"only.fresh.2.runtime.votes={tmp_path / 'votes.jsonl'}", "only.evaluate.dpo.n_train=5"]
    plain, whole = (_nodes("profile=smoke", *o) for o in ([], ["on_policy_rounds=2", *votes]))
    assert plain["dpo"] == whole["dpo"] and plain["pairs"] == whole["pairs"]
    assert whole["ranked.2"].inputs | {"vae": "", "text": ""} == {
        "model": "dpo.2", "reward": "reward.2", "vae": "", "text": ""
    }  # fmt: skip
    assert whole["reward.2"].inputs == {"init": "reward.1", "pairs.1": "pairs", "pairs.2": "fresh.2"}
    assert whole["dpo.3"].inputs == {"init": "dpo.2", "pairs": "ranked.2"}
    assert whole["couplings"].inputs["model"] == whole["turbo"].inputs["init"] == "dpo.3"
    assert len({whole[n].config["seed"] for n in ("pairs", "ranked.1", "fresh.2", "ranked.2")}) == 4
    assert len(whole["fresh.2"].config["votes"]) == 64 and whole["fresh.2"].config["keep_ties"]
    one = ["only.dpo.steps=5", "only.dpo.2.steps=7", "only.evaluate.dpo.2.n_train=9"]
    cfg = compose(["profile=smoke", "on_policy_rounds=2", *votes, *one])
    changed = {n.name: n.config for n in build(cfg)}
    assert [changed[n]["steps"] for n in ("dpo", "dpo.2", "dpo.3")] == [5, 7, whole["dpo.3"].config["steps"]]
    assert [changed[f"evaluate.{n}"]["n_train"] for n in ("dpo", "dpo.2")] == [5, 9]
    assert build(cfg, "dpo")[-1].name == "dpo" and "reward.1" not in {n.name for n in build(cfg, "dpo")}
    assert build(cfg, "dpo.3")[-1].name == "dpo.3" and "dpo.4" not in whole
    with pytest.raises(ConfigError, match="on_policy_rounds is -1; give 0 or more"):
        compose(["profile=smoke", "on_policy_rounds=-1"])


@pytest.mark.skipif(not (ROOT / "data" / "raw").is_dir(), reason="data/raw is not pulled: dvc pull")
def test_a_cascade_can_start_from_a_folder_of_weights(tiny_models) -> None:
    given = [f"weights.{part}={tiny_models}" for part in ("text", "vae", "dit")]
    nodes = _nodes("profile=smoke", *given)
    assert {nodes[part].kind for part in ("text", "vae", "dit")} == {"given"}
    assert nodes["t2i"].inputs["init"] == nodes["latents"].inputs["init"] == "dit"
    assert nodes["dit"].config["runtime"]["path"] == str(tiny_models)


@pytest.mark.skipif(not (ROOT / "data" / "raw").is_dir(), reason="data/raw is not pulled: dvc pull")
def test_weights_of_the_hub_are_another_key_by_their_name() -> None:
    given = ["stages.tags.backends.embedding=clip", "stages.tags.runtime.weights.embedding='hub:a/b'"]
    nodes = _nodes("profile=bare", *given)
    assert nodes["tags"].config["contents"] == {"embedding": "hub:a/b"}
    assert nodes["captions"].config["clip_content"] == "hub:a/b"
    assert nodes["captions"].config["runtime"]["clip"] == "hub:a/b"


@pytest.mark.skipif(not (ROOT / "data" / "raw").is_dir(), reason="data/raw is not pulled: dvc pull")
def test_the_shipped_vae_can_be_tuned() -> None:
    nodes = _nodes("profile=micro", "weights.vae=tune")
    assert nodes["vae"].kind == "shipped" and nodes["vae_tuned"].inputs["init"] == "vae"
    assert nodes["latents"].inputs["vae"] == nodes["evaluate.turbo"].inputs["vae"] == "vae_tuned"


@pytest.mark.skipif(not (ROOT / "data" / "raw").is_dir(), reason="data/raw is not pulled: dvc pull")
@pytest.mark.parametrize(
    "chosen", [[], ["stages.tags.backends.embedding=small"], [f"stages.tags.backends.{t}=" for t in BACKENDS]]
)
def test_the_curation_alone_is_the_head_of_the_cascade(chosen: list[str]) -> None:
    whole = _nodes("profile=bare", *chosen)
    alone = _nodes("profile=bare", "graph=flows.curate", "raw=data/raw", *chosen)
    same = [n for n in alone if n in ("tags", "concepts", "captions", "subsets")]
    assert [(whole[n].kind, whole[n].inputs, whole[n].config) for n in same] == [
        (alone[n].kind, alone[n].inputs, alone[n].config) for n in same
    ]
    assert ("concepts" in same) == any("embedding=small" in c for c in chosen) and ("tags" in same) == (len(chosen) < 2)


def test_captions_reach_what_trains_on_them_and_nothing_else() -> None:
    nodes = _nodes("profile=smoke")
    assert {n.name for n in nodes.values() if "captions" in n.inputs} == {"subsets", "text", "latents"}
    before = {n.name for n in build(composed("profile=smoke"), "captions")}
    assert before == {"raw", "world", "curate", "tags", "captions"}
    assert nodes["vae2"].inputs.keys() == {"init", "curate", "subsets", "text"}


def test_large_profiles_have_every_tag_of_the_report() -> None:
    for profile in ("4b", "30b"):
        nodes = _nodes(f"profile={profile}")
        assert all(nodes["tags"].config["backends"].values()) and "concepts" in nodes["subsets"].inputs
        assert {f["tag"] for f in nodes["subsets"].config["filters"]} >= {
            "aesthetic",
            "nsfw",
            "watermark",
            "clip_score",
        }
        assert nodes["subsets"].config["written_text"]["share"] > 0 and "t2i.2" in nodes


@pytest.mark.parametrize(
    ("settings", "sampling"),
    [
        (["only.sft.1.samples={every: 5, prompts: [red]}"], {"sft.1"}),
        (["only.t2vi_540.s6.samples={every: 5, prompts: [red]}"], {"t2vi_540.s6"}),
        (["stages.sft.samples={every: 5, prompts: [red]}"], {"sft.1", "sft.2"}),
        (["stages.sft.samples={every: 5, prompts: [red]}", "only.sft.2.samples.every=0"], {"sft.1"}),
    ],
)
def test_stages_that_sample_along_the_way_read_the_other_networks(settings: list[str], sampling: set[str]) -> None:
    nodes = _nodes("profile=smoke", *settings).values()
    assert {n.name for n in nodes if n.kind == "train" and "text" in n.inputs} == sampling


def test_t2i_may_have_two_data_sets() -> None:
    nodes = _nodes("profile=smoke", "t2i_sets=2", "only.t2i.2.steps=3")
    assert [nodes[n].config["images"] for n in ("t2i.1", "t2i.2")] == ["images", "images_2"]
    assert [nodes[n].config["steps"] for n in ("t2i.1", "t2i.2")] == [8, 3]
    assert "init" not in nodes["t2i.1"].inputs and nodes["t2i.2"].inputs["init"] == "t2i.1"
    assert nodes["t2vi_192.s1"].inputs["init"] == "t2i.2"
