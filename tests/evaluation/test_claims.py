"""Claims: verdicts follow the intervals, and absent effects and absent runs are told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stepvideo.config import load
from stepvideo.errors import ConfigError
from stepvideo.evaluation.claims import claims
from stepvideo.evaluation.collect import Run, collect, label
from stepvideo.evaluation.config import ReportConfig


def runs_of(**folders: Path) -> dict[str, Run]:
    return collect(load(ReportConfig, {}), {f"evaluate.{n}": p for n, p in folders.items()}).runs


def verdicts(runs: dict[str, Run], **config) -> list[str]:
    cfg = load(ReportConfig, {"targets": [], "comparisons": []} | config)
    return [c.verdict for c in claims(cfg, runs)]


def test_targets(evaluation, tmp_path):
    runs = runs_of(good=evaluation(tmp_path / "a", 0.95, videos=0))
    target = {"run": "good", "split": "train", "attribute": "colour"}
    assert verdicts(runs, targets=[target | {"value": 0.8}]) == ["met"]
    assert verdicts(runs, targets=[target | {"value": 0.999}]) == ["not met"]
    assert verdicts(runs, targets=[target | {"value": 0.9, "bound": "low"}]) == ["not met"]
    assert verdicts(runs, targets=[target | {"run": "none"}]) == ["not measured"]
    cfg = load(ReportConfig, {"targets": [target | {"value": 0.9}], "comparisons": []})
    assert "interval includes the bar" in claims(cfg, runs)[0].text
    with pytest.raises(ConfigError, match="split='test'"):
        verdicts(runs, targets=[target | {"split": "test"}])


def test_untestable_is_no_result(evaluation, tmp_path):
    runs = runs_of(sft=evaluation(tmp_path / "a", 0.99, untestable=("shape",), videos=0))
    target = {"run": "sft", "split": "heldout", "value": 0.1}
    both = [target | {"attribute": "shape"}, target | {"attribute": "all"}, target | {"attribute": "colour"}]
    assert verdicts(runs, targets=both) == ["untestable", "untestable", "met"]


def test_preference_and_its_absence(evaluation, tmp_path):
    runs = runs_of(
        a=evaluation(tmp_path / "a", 0.95, videos=0, seed=1),
        b=evaluation(tmp_path / "b", 0.6, videos=0, seed=1),
        same=evaluation(tmp_path / "c", 0.95, videos=0, seed=1),
    )
    pairs = [{"a": "a", "b": "b"}, {"a": "b", "b": "a"}, {"a": "a", "b": "same"}, {"a": "a", "b": "none"}]
    assert verdicts(runs, comparisons=pairs) == [
        "preferred", "not preferred", "no difference shown", "not measured",
    ]  # fmt: skip
    cfg = load(ReportConfig, {"targets": [], "comparisons": pairs})
    found = claims(cfg, runs)
    assert "0 wins, 80 ties, 0 losses" in found[2].text and "p = 1" in found[2].text
    assert found[3].text == "There is no evaluation of none."
    assert found[0].figures["differences"]["all"]["difference"]["low"] > 0


def test_distillation_needs_a_base_that_loses(evaluation, tmp_path):
    """notes/eval.md, NFE trap: a base as good at 8 steps as at 50 makes every Turbo look good."""
    slow_only = evaluation(
        tmp_path / "base", 0.97, {"main": (16, 32), "steps8": (8, 16), "steps50": (50, 100)}, videos=0
    )
    good, bad = evaluation(tmp_path / "good", 0.99, videos=0), evaluation(tmp_path / "bad", 0.6, videos=0)
    runs = runs_of(base=slow_only, good=good, bad=bad)
    question = {"b": "base/steps50", "kind": "distillation", "control": "base/steps8"}
    assert verdicts(runs, comparisons=[question | {"a": "good"}]) == ["supported"]
    assert verdicts(runs, comparisons=[question | {"a": "bad"}]) == ["contradicted"]
    assert verdicts(runs, comparisons=[question | {"a": "good", "control": "base/steps50"}]) == ["untestable"]
    assert verdicts(runs, comparisons=[question | {"a": "base/steps50", "margin": 0.0}]) == ["inconclusive"]
    cfg = load(ReportConfig, {"targets": [], "comparisons": [question | {"a": "good"}]})
    claim = claims(cfg, runs)[0]
    assert claim.figures["nfe"] == {"student": 32, "teacher": 100, "control": 16}
    assert claim.figures["end_points"]["student_minus_control"]["high"] < 0
    assert "good is nearer" in claim.text.lower()
    with pytest.raises(ConfigError, match="control is empty"):
        verdicts(runs, comparisons=[{"a": "good", "b": "base", "kind": "distillation"}])


def test_different_prompts_are_not_compared(evaluation, tmp_path):
    from stepvideo.errors import ArtifactError

    runs = runs_of(a=evaluation(tmp_path / "a", 0.9, videos=0), b=evaluation(tmp_path / "b", 0.9, videos=0))
    runs["b"] = replace(runs["b"], rows=[replace(r, seed=99) for r in runs["b"].rows])
    with pytest.raises(ArtifactError, match="same prompt_seed"):
        verdicts(runs, comparisons=[{"a": "a", "b": "b"}])


def test_labels_are_for_people():
    assert [label(n) for n in ("t2vi_192.s3", "sft.1", "dpo", "turbo", "vae2", "t2i", "average")] == [
        "T2VI 192 s3", "SFT 1", "DPO", "Turbo", "VAE2", "T2I", "Average",
    ]  # fmt: skip


def test_the_default_comparisons_name_rows_of_the_cascade():
    """A row renamed in flows/table.py would silently turn findings into "not measured"."""
    from flows.table import STAGES

    cfg = load(ReportConfig, {})
    named = {c.a for c in cfg.comparisons} | {c.b for c in cfg.comparisons} | {t.run for t in cfg.targets}
    assert {n.partition("/")[0].partition(".")[0] for n in named} <= set(STAGES)
