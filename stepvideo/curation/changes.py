"""What changed between two catalogs, in the words of who curates: clips in and out by reason, drift of tags, concepts.

A clip is known by its id, which is the content of its raw file and the frames of it: a file under another name is the
same, a file that was cut elsewhere gives others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from stepvideo.curation import shift
from stepvideo.curation.fates import Fates
from stepvideo.curation.funnel import SUBSETS
from stepvideo.curation.views import connect
from stepvideo.errors import StepVideoError

EXAMPLES = 5  # clips that a reason names
LISTED = 20  # raw files, concepts or words that are named
FAR = 0.8  # cosine to the nearest old centre below which a concept is new


def changes(a: Fates, b: Fates, group: str = "", threshold: float = 0.2) -> dict[str, Any]:
    """What `b` has that `a` had not, and the other way round.

    Args:
        group: set whose tags, concepts and words are compared: s1 … s6 or "all"; "": s1 where both have subsets.
        threshold: see `shift.column`.

    Returns:
        raw, clips, sets (by name), tags, concepts, words; `docs/data-versions.md` has the fields.

    Raises:
        StepVideoError: `group` is no set of both.
    """
    both = a.config is not None and b.config is not None
    group = group or ("s1" if both else "all")
    if group not in (*SUBSETS, "all") or (group != "all" and not both):
        have = ", ".join([*SUBSETS, "all"]) if both else "all, as one of the sides has no subsets"
        raise StepVideoError(f"there is no set {group!r} to compare; give one of {have}")
    shared = np.intersect1d(a.ids, b.ids)
    gone, come = _absent(a, b), _absent(b, a)
    found: dict[str, Any] = {"raw": _raw(a, b), "group": group, "threshold": threshold}
    found["clips"] = {
        **{"a": len(a.ids), "b": len(b.ids), "both": len(shared)},
        "out": _reasons(gone.items(), a),
        "in": _reasons(((i, _turned(why)) for i, why in come.items()), b),
    }
    found["sets"] = {s: _set(a, b, s, gone, come) for s in SUBSETS} if both else {}
    in_a, in_b = a.members(group), b.members(group)
    columns = [c for c in a.numbers if c in b.numbers]
    rows = [shift.column(c, a.numbers[c][in_a], b.numbers[c][in_b], threshold) for c in columns]
    found["tags"] = sorted((r for r in rows if r), key=lambda r: r["chance"] - r["psi"])
    found["only_a"], found["only_b"] = sorted(set(a.numbers) - set(b.numbers)), sorted(set(b.numbers) - set(a.numbers))
    found["concepts"] = _concepts(a, b, a.ids[in_a], b.ids[in_b], threshold)
    found["words"] = _words(a, b, a.ids[in_a], b.ids[in_b])
    return found


def _absent(here: Fates, there: Fates) -> dict[str, str]:
    """{clip of `here` that is not `there`: why}, as the raw files tell."""
    known = {sha: said for sha, said in there.files.values() if sha}
    missing = np.flatnonzero(~np.isin(here.ids, there.ids))
    why = {}
    for i in missing:
        role, file, sha = here.sources[i]
        if sha in known:
            why[here.ids[i]] = "cut differently" if known[sha] == "accepted" else f"quarantined: {known[sha]}"
        elif (role, file) in there.files:
            why[here.ids[i]] = "changed raw file"
        else:
            why[here.ids[i]] = "removed raw file"
    return why


def _turned(why: str) -> str:
    """A reason for being out of the old catalog, said of a clip that is new."""
    if why.startswith("quarantined"):
        return f"was {why}"
    return {"removed raw file": "added raw file"}.get(why, why)


def _set(a: Fates, b: Fates, name: str, gone: dict[str, str], come: dict[str, str]) -> dict[str, Any]:
    """Clips of a set in and out; `gone` and `come` say why of those that only one catalog has."""
    in_a, in_b = a.ids[a.members(name)], b.ids[b.members(name)]
    left, new = np.setdiff1d(in_a, in_b), np.setdiff1d(in_b, in_a)
    return {
        **{"a": len(in_a), "b": len(in_b), "both": len(in_a) - len(left)},
        "out": _reasons(((i, gone.get(i) or f"dropped: {b.stopped[b.at(i)]}") for i in left), a),
        "in": _reasons(((i, _turned(come[i]) if i in come else f"was dropped: {a.stopped[a.at(i)]}") for i in new), b),
    }


def _reasons(why: Iterable[tuple[str, str]], side: Fates) -> list[dict[str, Any]]:
    """[{reason, clips, examples: [raw files]}], the most frequent first."""
    groups: dict[str, list[str]] = {}
    for i, reason in why:
        groups.setdefault(reason, []).append(i)

    def named(members: list[str]) -> list[str]:
        at = np.searchsorted(side.ids, sorted(members)[:EXAMPLES])  # ids are sorted
        return [str(f) for f in side.sources[at, 1]]

    ordered = sorted(groups.items(), key=lambda g: (-len(g[1]), g[0]))
    return [{"reason": reason, "clips": len(members), "examples": named(members)} for reason, members in ordered]


def _raw(a: Fates, b: Fates) -> dict[str, Any]:
    """Raw files by what became of them; a file that only has another name is neither added nor removed."""
    had, has = ({sha for sha, _ in side.files.values() if sha} for side in (a, b))
    added = sorted(f for (r, f), (sha, _) in b.files.items() if sha not in had and (r, f) not in a.files)
    removed = sorted(f for (r, f), (sha, _) in a.files.items() if sha not in has and (r, f) not in b.files)
    changed = sorted(f for (r, f), (sha, _) in b.files.items() if (r, f) in a.files and a.files[r, f][0] != sha)
    lists = {"added": added, "removed": removed, "changed": changed}
    bad = [Counter(said for _, said in side.files.values() if said != "accepted") for side in (a, b)]
    return {
        **{"a": len(a.files), "b": len(b.files)},
        **{name: len(found) for name, found in lists.items()},
        "examples": {name: found[:LISTED] for name, found in lists.items()},
        "quarantined": {r: [bad[0][r], bad[1][r]] for r in sorted(bad[0] | bad[1])},
    }


def _concepts(a: Fates, b: Fates, ids_a: np.ndarray, ids_b: np.ndarray, threshold: float) -> dict[str, Any] | None:
    """Shares of the clusters of `a`; each cluster of `b` counts for the nearest one. None without clusters."""
    sides = []
    for side, ids in ((a, ids_a), (b, ids_b)):
        folder = next((t for t in side.places.get("tables", ()) if (t / "centres.npy").exists()), None)
        if folder is None:
            return None
        db = connect(**side.places)
        rows = dict(db.execute("SELECT clip_id, cluster FROM concepts WHERE cluster IS NOT NULL").fetchall())
        sides.append((np.load(folder / "centres.npy"), np.array([rows[i] for i in ids if i in rows], np.int64)))
    (old, own), (new, others) = sides
    if old.shape[1] != new.shape[1]:
        return None  # embeddings of another network
    at, sim = shift.matched(old, new)
    fresh = sim < FAR
    counts_a = np.append(np.bincount(own, minlength=len(old)), 0)
    counts_b = np.append(np.bincount(at[others[~fresh[others]]], minlength=len(old)), fresh[others].sum())
    index, chance = shift.psi(counts_a, counts_b)
    z = shift.z_score(counts_a, len(own), counts_b, len(others))
    order = sorted(np.flatnonzero(counts_a + counts_b).tolist(), key=lambda k: -abs(z[k]))[:LISTED]
    names = _names(a, order, len(old))
    rows = [
        {
            "concept": "new" if k == len(old) else int(k),
            "words": names.get(int(k), ""),
            "share_a": counts_a[k] / max(len(own), 1),
            "share_b": counts_b[k] / max(len(others), 1),
            "z": float(z[k]),
        }
        for k in order
    ]
    drifted = index - chance >= threshold
    return {
        "clusters_a": len(old),
        "clusters_b": len(new),
        "psi": index,
        "chance": chance,
        "drifted": drifted,
        "rows": rows,
    }


def _names(side: Fates, wanted: list[int], new: int) -> dict[int, str]:
    """Words of the captions of a few clusters, the most frequent of three letters and more."""
    if not side.places.get("captions") or not wanted:
        return {}
    which = ", ".join(str(k) for k in wanted if k != new) or "-1"
    rows = connect(**side.places).execute(
        f"""SELECT cluster, word, count(DISTINCT clip_id) AS n FROM (
            SELECT clip_id, cluster, unnest(regexp_extract_all(lower(text), '[a-z]{{4,}}')) AS word
            FROM captions JOIN concepts USING (clip_id) WHERE cluster IN ({which}))
        GROUP BY ALL ORDER BY cluster, n DESC, word"""
    )
    found: dict[int, list[str]] = {}
    for cluster, word, _ in rows.fetchall():
        found.setdefault(cluster, []).append(word)
    return {k: ", ".join(words[:3]) for k, words in found.items()}


def _words(a: Fates, b: Fates, ids_a: np.ndarray, ids_b: np.ndarray) -> dict[str, Any] | None:
    """Shares of clips whose captions have a word (of Chinese, two characters), those that moved most."""
    if not (a.places.get("captions") and b.places.get("captions")):
        return None
    counts = [_clips_with(side, ids) for side, ids in ((a, ids_a), (b, ids_b))]
    words = sorted(set(counts[0]) | set(counts[1]))
    n = np.array([[c.get(w, 0) for w in words] for c in counts], float).reshape(2, len(words))
    z = shift.z_score(n[0], len(ids_a), n[1], len(ids_b))
    order = [i for i in np.argsort(-np.abs(z), kind="stable")[:LISTED] if abs(z[i]) >= shift.SURE]
    rows = [
        {
            "word": words[i],
            "share_a": n[0, i] / max(len(ids_a), 1),
            "share_b": n[1, i] / max(len(ids_b), 1),
            "z": float(z[i]),
        }
        for i in order
    ]
    return {"words_a": len(counts[0]), "words_b": len(counts[1]), "rows": rows}


def _clips_with(side: Fates, ids: np.ndarray) -> dict[str, int]:
    import pandas as pd

    db = connect(**side.places)
    db.register("wanted", pd.DataFrame({"clip_id": ids}))
    rows = db.execute(
        r"""WITH said AS (SELECT clip_id, lower(text) AS text, language FROM captions SEMI JOIN wanted USING (clip_id))
        SELECT word, count(DISTINCT clip_id) FROM (
            SELECT clip_id, unnest(regexp_extract_all(text, '\w+')) AS word FROM said WHERE language <> 'zh'
            UNION ALL
            SELECT clip_id, substr(text, i, 2) AS word
            FROM (SELECT clip_id, text, unnest(range(1, length(text))) AS i FROM said WHERE language = 'zh')
            WHERE regexp_full_match(substr(text, i, 2), '[\x{3400}-\x{9fff}]{2}')
        ) GROUP BY word"""
    )
    return dict(rows.fetchall())
