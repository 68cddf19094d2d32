"""Stage `captions`: short and dense captions in Chinese and English, and titles, for every row of a catalog (§7.1).

    captions.parquet    one row a caption (columns: `data.captions.caption_schema`), in the catalog's order
    clips.parquet       one row a row of the catalog: its captions, and what was spent on it
    failed.parquet      requests that gave no caption, each with its reason
    checks.parquet      why captions are flagged
    statistics.json     lengths, vocabulary, repetition, flags, tokens, cost
    tables/alignment.parquet    CLIP Score of every clip; empty without a CLIP, and says why

Sources are asked in the order of the config, each for what those before it do not give: the sidecar and the file's name
are read in the catalog, the model is asked over HTTP (`captioning.ask`), and rules word what was measured. Answers are
kept in `ctx.work`, so a killed run goes on without asking twice, to the same bytes. Rank 0 does it all: what limits the
speed is the server.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stepvideo import storage
from stepvideo.config import digest, dump, result_part
from stepvideo.curation.backends import Absent
from stepvideo.curation.captioning import alignment, checks, prompts, rules
from stepvideo.curation.captioning.ask import UNANSWERED, Answer, Journal, Order, ask
from stepvideo.curation.captioning.config import CaptionsConfig, ChecksConfig
from stepvideo.curation.captioning.facts import Facts, facts, read_tags
from stepvideo.curation.captioning.statistics import brief, statistics
from stepvideo.curation.records import Row, write_table
from stepvideo.data.captions import CAPTIONS, CLIPS, caption_schema
from stepvideo.data.clips import CAPTION_KINDS, LANGUAGES, Clip, load_catalog
from stepvideo.errors import Preempted, StepVideoError
from stepvideo.stage import StageContext

if TYPE_CHECKING:
    import pyarrow as pa

Slot = tuple[str, str]  # kind and language
Answers = Mapping[tuple[str, str], Answer]  # by clip id and language


def run(ctx: StageContext) -> dict[str, float]:
    """Caption every row of the input `curate`; the other inputs' `tables/*.parquet` are the tags it may use.

    Returns:
        clips, captioned (share of them), captions, flagged (share of captions), failed (requests), tokens_in,
        tokens_out, cost; what `statistics.brief` makes of the captions.

    Raises:
        ConfigError: a model without an address.
        StepVideoError: the server is gone, or left more than `runtime.max_unanswered` of the requests unanswered.
    """
    import pyarrow.parquet as pq

    if ctx.rank:
        return {}
    config: CaptionsConfig = ctx.config
    root = ctx.inputs["curate"]
    clips = load_catalog(root)
    tags = read_tags(folder for role, folder in ctx.inputs.items() if role != "curate")
    known = {c.clip_id: facts(c, tags.get(c.clip_id, {})) for c in clips}
    answers = _answers(ctx, [Order(c, known[c.clip_id], w) for c in clips if (w := _wanted(c, known, config))])
    rows = [row for clip in clips for row in _rows(clip, known[clip.clip_id], answers, config)]
    backend, absent = _align(ctx, rows)
    flags = _flag(rows, known, _limits(config.checks, backend))
    seen = [_clip_row(clip, rows_of, answers, config) for clip, rows_of in _by_clip(clips, rows)]
    failed = [_failure(a) for a in _in_order(clips, answers) if a.reason]
    write_table(rows, caption_schema(), ctx.out / CAPTIONS)
    write_table(seen, _clips_schema(), ctx.out / CLIPS)
    write_table(failed, _texts("clip_id", "language", "reason", "detail"), ctx.out / "failed.parquet")
    write_table(flags, _texts("clip_id", "kind", "language", "text", "flag", "reason"), ctx.out / "checks.parquet")
    spent = {name: sum(r[name] for r in seen) for name in ("requests", "tokens_in", "tokens_out", "cost")}
    reasons = dict(sorted(Counter(f["reason"] for f in failed).items()))
    made = statistics(rows) | {"spent": spent, "failed": reasons, "without_clip_score": absent}
    storage.write_json(ctx.out / "statistics.json", made)
    (ctx.out / "tables").mkdir()
    aligned = alignment.table([c.clip_id for c in clips], rows, backend, absent)
    pq.write_table(aligned, ctx.out / "tables" / f"{alignment.TABLE}.parquet", compression="zstd")
    return {
        "clips": float(len(seen)),
        "captioned": sum(r["captions"] > 0 for r in seen) / max(len(seen), 1),
        "captions": float(len(rows)),
        "flagged": sum(bool(r["flags"]) for r in rows) / max(len(rows), 1),
        "failed": float(len(failed)),
        **{name: float(spent[name]) for name in ("tokens_in", "tokens_out", "cost")},
        **brief(made),
    }


def _align(ctx: StageContext, rows: Sequence[Row]) -> tuple[str, str]:
    """Write CLIP Scores into the rows; the CLIP's name, and why there are none if there are none."""
    config: CaptionsConfig = ctx.config

    def done(texts: int, total: int) -> None:
        ctx.sink.progress(texts, total, "texts")
        if ctx.should_stop():
            raise Preempted

    found: Sequence[float | None] = [None] * len(rows)
    backend = absent = ""
    try:
        seen = alignment.read_embeddings(folder for role, folder in ctx.inputs.items() if role != "curate")
        backend = seen.backend
        found = alignment.scores(rows, seen, alignment.text_towers(backend, config.runtime.clip), done)
    except Absent as e:
        absent = str(e)
    for row, score in zip(rows, found):
        row["clip_score"] = score
    return backend, absent


def _answers(ctx: StageContext, orders: Sequence[Order]) -> Answers:
    config: CaptionsConfig = ctx.config
    if not orders:
        return {}
    asked = digest([prompts.VERSION, result_part(dump(config))])[:16]
    journal = Journal(ctx.work / f"answers-{asked}.jsonl")
    try:
        ask(
            orders,
            ctx.inputs["curate"],
            config,
            journal,
            ctx.should_stop,
            lambda done, total: ctx.sink.progress(done, total, "captions"),
        )
    finally:
        journal.close()
    answers = journal.answers
    silent = [a for a in answers.values() if a.reason == UNANSWERED]
    if len(silent) > config.runtime.max_unanswered * len(answers):
        raise StepVideoError(
            f"captions: {len(silent)} of {len(answers)} requests were not answered, more than runtime.max_unanswered "
            f"{config.runtime.max_unanswered:g} allows (the last: {silent[-1].detail}); run it again: the others' "
            "answers are kept"
        )
    for answer in answers.values():
        if answer.reason:
            ctx.sink.event("not_captioned", **_failure(answer))
    return answers


def _wanted(clip: Clip, known: Mapping[str, Facts], config: CaptionsConfig) -> dict[str, list[str]]:
    """language → kinds that the model is asked for: those that no source before it gives."""
    if not config.model.name or "vlm" not in config.order:
        return {}
    before = config.order[: config.order.index("vlm")]
    have = _filled(clip, known[clip.clip_id], {}, config, before)
    wanted = {lang: [k for k in CAPTION_KINDS if k in config.kinds and (k, lang) not in have] for lang in LANGUAGES}
    return {lang: kinds for lang, kinds in wanted.items() if kinds and lang in config.languages}


def _rows(clip: Clip, known: Facts, answers: Answers, config: CaptionsConfig) -> list[Row]:
    filled = _filled(clip, known, answers, config, config.order)
    return [row for kind in CAPTION_KINDS for lang in LANGUAGES for row in filled.get((kind, lang), [])]


def _filled(
    clip: Clip, known: Facts, answers: Answers, config: CaptionsConfig, order: Sequence[str]
) -> dict[Slot, list[Row]]:
    """The rows of every slot, from the first source in `order` that has something for it."""
    filled: dict[Slot, list[Row]] = {}
    for source in order:
        if source == "vlm":
            found = _told(clip, answers, config)
        elif source == "rule":
            found = _by_rule(clip, known, config)
        elif source == clip.caption_source:
            found = {
                (kind, lang): [_row(clip, kind, lang, text, source) for text in texts]
                for kind, by_language in clip.captions.items()
                for lang, texts in by_language.items()
            }
        else:
            found = {}
        filled = found | filled
    return filled


def _told(clip: Clip, answers: Answers, config: CaptionsConfig) -> dict[Slot, list[Row]]:
    """The model's captions; the tokens of a request are divided among its captions."""
    found: dict[Slot, list[Row]] = {}
    for lang in LANGUAGES:
        answer = answers.get((clip.clip_id, lang))
        if answer is None:
            continue
        for i, (kind, text) in enumerate(answer.texts.items()):
            tokens = [_part(n, i, len(answer.texts)) for n in (answer.tokens_in, answer.tokens_out)]
            row = _row(clip, kind, lang, text, "vlm", config.model.name, prompts.VERSION)
            spent = {"tokens_in": tokens[0], "tokens_out": tokens[1], "cost": _cost(tokens[0], tokens[1], config)}
            found[kind, lang] = [row | spent]
    return found


def _by_rule(clip: Clip, known: Facts, config: CaptionsConfig) -> dict[Slot, list[Row]]:
    slots = [(kind, lang) for kind in config.kinds for lang in config.languages]
    texts = {(kind, lang): rules.caption(clip.clip_id, kind, lang, known) for kind, lang in slots}
    return {
        (kind, lang): [_row(clip, kind, lang, text, "rule", version=rules.VERSION)]
        for (kind, lang), text in texts.items()
        if text
    }


def _row(clip: Clip, kind: str, lang: str, text: str, source: str, model: str = "", version: str = "") -> Row:
    said = {"clip_id": clip.clip_id, "kind": kind, "language": lang, "text": text}
    made = {"source": source, "model": model, "prompt_version": version}
    return said | made | {"tokens_in": 0, "tokens_out": 0, "cost": 0.0, "flags": [], "clip_score": None}


def _part(total: int, i: int, n: int) -> int:
    """The i-th of n parts of a whole number; they add up to it."""
    return total // n + (i < total % n)


def _cost(tokens_in: int, tokens_out: int, config: CaptionsConfig) -> float:
    return (tokens_in * config.model.price_in + tokens_out * config.model.price_out) / 1e6


def _limits(config: ChecksConfig, backend: str) -> ChecksConfig:
    """The threshold of CLIP Scores is one of released CLIPs; what the small one says of clips of the world outside is
    kept, and doubts nothing."""
    return config if backend == "clip" else replace(config, clip_score=-1.0)


def _flag(rows: Sequence[Row], known: Mapping[str, Facts], config: ChecksConfig) -> list[Row]:
    """Write the flags into the rows; returns one row a flag, with its reason."""
    often = checks.repeated(rows, config)
    why = []
    for row in rows:
        found = checks.check(row, known[row["clip_id"]], config)
        if row["source"] == "vlm" and row["text"] in often:
            found.append(("repeated", f"{often[row['text']]} clips have it"))
        row["flags"] = list(dict.fromkeys(flag for flag, _ in found))
        said = {name: row[name] for name in ("clip_id", "kind", "language", "text")}
        why += [said | {"flag": flag, "reason": reason} for flag, reason in found]
    return why


def _by_clip(clips: Sequence[Clip], rows: Sequence[Row]) -> list[tuple[Clip, list[Row]]]:
    grouped: dict[str, list[Row]] = {clip.clip_id: [] for clip in clips}
    for row in rows:
        grouped[row["clip_id"]].append(row)
    return [(clip, grouped[clip.clip_id]) for clip in clips]


def _clip_row(clip: Clip, rows: Sequence[Row], answers: Answers, config: CaptionsConfig) -> Row:
    asked = [a for lang in LANGUAGES if (a := answers.get((clip.clip_id, lang)))]
    tokens = [sum(a.tokens_in for a in asked), sum(a.tokens_out for a in asked)]
    return {
        "clip_id": clip.clip_id,
        "kind": clip.kind,
        "captions": len(rows),
        "sources": sorted({r["source"] for r in rows}),
        "requests": sum(a.requests for a in asked),
        "tokens_in": tokens[0],
        "tokens_out": tokens[1],
        "cost": _cost(tokens[0], tokens[1], config),
    }


def _in_order(clips: Sequence[Clip], answers: Answers) -> list[Answer]:
    return [a for clip in clips for lang in LANGUAGES if (a := answers.get((clip.clip_id, lang)))]


def _failure(answer: Answer) -> dict[str, Any]:
    names = ("clip_id", "language", "reason", "detail")
    return {name: getattr(answer, name) for name in names}


def _clips_schema() -> pa.Schema:
    import pyarrow as pa

    counts = [(n, pa.int64()) for n in ("requests", "tokens_in", "tokens_out")]
    texts = [("clip_id", pa.string()), ("kind", pa.string())]
    return pa.schema(
        [*texts, ("captions", pa.int32()), ("sources", pa.list_(pa.string())), *counts, ("cost", pa.float64())]
    )


def _texts(*names: str) -> pa.Schema:
    import pyarrow as pa

    return pa.schema([(name, pa.string()) for name in names])
