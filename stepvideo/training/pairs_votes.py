"""People's votes on pairs: the table that a closed study of kind `prefer` writes (`stepvideo study pairs`).

A JSON object a line; read here: prompt, winner, loser (sample ids PROMPT-SAMPLE, as `pairs` names its videos), and what
says where a pair is from: study, item, votes, by, simulated. Rows of ties (`outcome` "tie") teach nothing here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.errors import ArtifactError, ConfigError, StepVideoError

TIE = "tie"
KEPT = ("study", "item", "by", "simulated", "votes")


def prompt_id(prompt: int) -> str:
    return f"p{prompt:04d}"


def sample_id(prompt: int, sample: int) -> str:
    """What a sample's video is called: a study takes the file's stem for its name."""
    return f"{prompt_id(prompt)}-{sample}"


def check_digest(path: str, digest: str) -> None:
    """The table is the one that the plan was made with.

    Raises:
        ConfigError: only one of the two is given, or the file is another one.
    """
    if bool(path) != bool(digest):
        found = f"; its sha256 is {storage.sha256_file(Path(path))}" if path and Path(path).exists() else ""
        raise ConfigError(f"pairs: give runtime.votes={path!r} and votes={digest!r} (its sha256) together{found}")
    if not path:
        return
    if not Path(path).is_file():
        raise ConfigError(f"pairs: runtime.votes={path}: there is no such file; close the study, then report it")
    if (found := storage.sha256_file(Path(path))) != digest:
        raise ConfigError(f"pairs: {path} has sha256 {found}, the plan says {digest}; plan again")


def read_votes(path: Path, texts: Sequence[str], samples: int) -> list[tuple[int, dict[str, Any]]]:
    """(prompt number, pair {winner, loser, votes, margin, …}) of every preference, in the table's order.

    Args:
        texts: the stage's prompts by number. samples: of each.

    Raises:
        ArtifactError: names the line that is no JSON object, lacks a key, or names a sample that this stage's settings
            do not make. StepVideoError: no row at all.
    """
    known = {sample_id(n, k): (n, k) for n in range(len(texts)) for k in range(samples)}
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            row = json.loads(line)
            if row.get("outcome") == TIE:  # nobody won: Eq. 8 has no winner and loser to tell apart
                continue
            winner, loser, votes = str(row["winner"]), str(row["loser"]), [int(v) for v in row["votes"]]
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise ArtifactError(f"{where} is no row of a pairs table (winner, loser, prompt, votes): {e!r}") from e
        found.append(_pair(row, known, texts, winner, loser, votes, where))
    if not found:
        raise StepVideoError(f"{path} has no pair: everyone saw ties, or nobody voted; ask about more pairs")
    return found


def _pair(
    row: Mapping[str, Any],
    known: Mapping[str, tuple[int, int]],
    texts: Sequence[str],
    winner: str,
    loser: str,
    votes: list[int],
    where: str,
) -> tuple[int, dict[str, Any]]:
    for role, name in (("winner", winner), ("loser", loser)):
        if name not in known:
            raise ArtifactError(
                f"{where}: {role} {name!r} is no sample of this stage ({min(known)} … {max(known)}); set prompts, "
                "samples and seed as they were when the study's videos were made"
            )
    (n, first), (m, second) = known[winner], known[loser]
    if n != m or first == second:
        raise ArtifactError(f"{where}: winner {winner!r} and loser {loser!r} must be two samples of one prompt")
    if row.get("prompt") != texts[n]:
        raise ArtifactError(
            f"{where}: the study asked {row.get('prompt')!r}, this stage's prompt {n} is {texts[n]!r}; set prompts, "
            "guideline_share and seed as they were when the study's videos were made"
        )
    said = {k: row[k] for k in KEPT if k in row}
    return n, {"winner": first, "loser": second, "margin": abs(sum(votes)), **said}
