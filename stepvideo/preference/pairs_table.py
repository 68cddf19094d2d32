"""Preference pairs for Video-DPO, from the decisions of a closed study of kind `prefer` (report §4.4).

A JSON object a line:

    study, item, prompt_id, prompt, lang    of the pair
    winner, loser                           sample ids, as the study was given them: the source file's stem
    winner_file, loser_file                 the source files
    seed_winner, seed_loser                 null where they are not known
    votes                                   those that count, seen from the winner: 1 for it, 0 tie, -1 against it
    by                                      majority or adjudicated
    simulated                               true if any of the votes, or who adjudicated, is

A pair that was decided to be a tie has a row, too: `outcome` "tie", `samples` (ids of a and b) in place of winner and
loser, votes seen from the first. Video-DPO learns from preferences alone and passes over these rows. Undecided pairs
are left out and counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.errors import StepVideoError
from stepvideo.preference.adjudicate import UNDECIDED, Decision
from stepvideo.preference.study import Item, Side, Study

PAIRS = "pairs.jsonl"
TIE = "tie"


def pairs(study: Study, decisions: Iterable[Decision]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The rows, in order of the items' names; and how many pairs are no preference: ties, undecided.

    Raises:
        StepVideoError: the study compares models, whose pairs are no samples of one policy.
    """
    if study.kind != "prefer":
        raise StepVideoError(f"{study.name} is of kind {study.kind}; pairs for DPO come from a study of kind prefer")
    rows, left_out = [], {"ties": 0, "undecided": 0}
    for decision in decisions:
        if not decision.outcome:
            left_out["undecided" if decision.by == UNDECIDED else "ties"] += 1
        if decision.by != UNDECIDED:
            rows.append(_row(study, study.by_id[decision.item], decision))
    return rows, left_out


def write_pairs(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    storage.write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _row(study: Study, item: Item, decision: Decision) -> dict[str, Any]:
    assert item.b is not None and decision.outcome is not None
    first, second = (item.a, item.b) if decision.outcome >= 0 else (item.b, item.a)
    if decision.outcome:
        sides: dict[str, Any] = {
            **{"winner": sample_id(first), "loser": sample_id(second)},
            **{"winner_file": first.source, "loser_file": second.source},
            **{"seed_winner": first.seed, "seed_loser": second.seed},
        }
    else:
        sides = {"outcome": TIE, "samples": [sample_id(first), sample_id(second)]}
        sides |= {"files": [first.source, second.source], "seeds": [first.seed, second.seed]}
    return {
        **{"study": study.name, "item": item.item, "prompt_id": item.prompt_id},
        **{"prompt": item.prompt.get("zh") or item.prompt.get("en", ""), "lang": _language(item)},
        **sides,
        "votes": [int(v.outcome or 0) * (decision.outcome or 1) for v in decision.votes],
        "by": decision.by,
        "simulated": study.config.simulated or any(v.simulated for v in decision.votes),
    }


def sample_id(side: Side) -> str:
    return Path(side.source).stem


def _language(item: Item) -> str:
    return "zh" if item.prompt.get("zh") else "en"
