"""Rounds of preference training on the policy's own samples (report §4.4): rank, train, label anew, refresh.

    pairs ─► reward.1 ─► ranked.1 ─► dpo.2 ─► fresh.2 ─► reward.2 ─► ranked.2 ─► dpo.3 ─► …

`fresh.R` is judged by annotators, as `pairs` is: by simulated ones, or by people (docs/alignment.md). Every reward
model goes on from the one before, and sees all votes so far.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flows.graph import Row

STAGES = {"fresh": "pairs", "reward": "reward", "ranked": "ranked"}


def policy(done: int) -> str:
    """The row of the aligned model after `done` rounds."""
    return f"dpo.{done + 1}" if done else "dpo"


def rows(
    cfg: Mapping[str, Any], start: str, judged: Mapping[str, str], votes: Callable[[str, str], dict[str, Any]]
) -> list[Row]:
    """The rows of `cfg["on_policy_rounds"]` rounds after the stage `dpo`.

    Args:
        start: the model that `dpo` starts from; its blocks are the first reward model's.
        judged: roles of what samples are decoded and prompts encoded with.
        votes: settings of a row, of a family of configs, whose pairs people have judged.
    """
    table: list[Row] = []
    labelled, reward = {"pairs.1": "pairs"}, start
    for r in range(1, cfg["on_policy_rounds"] + 1):
        now = policy(r - 1)
        if r > 1:
            fresh = f"fresh.{r}"
            fixed = {**_seed(cfg, "fresh", r), "keep_ties": True, **votes("fresh", fresh)}
            table.append(Row(fresh, "pairs", {"model": now, **judged}, "fresh", fixed))
            labelled = {**labelled, f"pairs.{r}": fresh}
        table.append(Row(f"reward.{r}", "reward", {"init": reward, **labelled}, "reward"))
        reward = f"reward.{r}"
        ranked = Row(
            f"ranked.{r}", "ranked", {"model": now, "reward": reward, **judged}, "ranked", _seed(cfg, "ranked", r)
        )
        table += [ranked, Row(policy(r), "dpo", {"init": now, "pairs": ranked.name}, "dpo")]
    return table


def judged_stages(cfg: Mapping[str, Any]) -> list[str]:
    """The rows whose pairs annotators judge, in the order in which they are due."""
    return ["pairs", *(f"fresh.{r}" for r in range(2, cfg["on_policy_rounds"] + 1))]


def _seed(cfg: Mapping[str, Any], stage: str, r: int) -> dict[str, int]:
    """Prompts and noise of its own for every stage of every round: nothing is ranked that was labelled."""
    return {"seed": cfg["stages"][stage]["seed"] + 1000 * r + 100 * list(STAGES).index(stage)}
