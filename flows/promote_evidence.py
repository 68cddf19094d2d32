"""Evidence: what a comparison of challenger and champion showed, kept in the store for whoever decides.

<store>/_decisions/<id>/decision.json   figures with intervals, both models, what differs, the decision in words
                        evidence.html   the same as a page, with videos of the same prompts
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flows.lineage import ancestors
from flows.plan import config_changes
from stepvideo import storage
from stepvideo.artifact import Artifact, Store
from stepvideo.config import digest, result_part
from stepvideo.errors import ArtifactError
from tasks.registry import Version

SCHEMA = 1
FOLDER, FILE, PAGE = "_decisions", "decision.json", "evidence.html"


@dataclass(frozen=True)
class Evidence:
    """A comparison that was made. `data` is the content of decision.json."""

    folder: Path
    data: Mapping[str, Any]

    @property
    def files(self) -> list[Path]:
        return [self.folder / FILE, self.folder / PAGE]

    @property
    def page(self) -> Path:
        return self.folder / PAGE

    @property
    def promote(self) -> bool:
        return bool(self.data["decision"]["promote"])

    @property
    def why(self) -> str:
        return self.data["decision"]["why"]

    def about(self, challenger: str, champion: str) -> bool:
        """Whether it compares these two contents."""
        return (self.data["challenger"]["digest"], self.data["champion"]["digest"]) == (challenger, champion)


def judge(
    store: Store,
    challenger: tuple[Version, Artifact, Artifact],
    champion: tuple[Version, Artifact, Artifact],
    rules: Any,
) -> Evidence:
    """Compare two models by their evaluations and keep what came out; the same again is taken from the store.

    Args:
        challenger, champion: version, model, evaluation of each.
        rules: `stepvideo.evaluation.champion.Rules`.

    Raises:
        ArtifactError: an evaluation is damaged, or they had other prompts or seeds.
    """
    from stepvideo.evaluation.champion import decide
    from stepvideo.evaluation.champion_page import evidence_html
    from stepvideo.evaluation.collect import collect
    from stepvideo.evaluation.config import ReportConfig

    sides = {"challenger": challenger, "champion": champion}
    named = {side: {"model": m.digest, "evaluation": e.digest} for side, (_, m, e) in sides.items()}
    name = digest({"schema": SCHEMA, **named, "rules": asdict(rules)})[:16]
    folder = store.root / FOLDER / name
    if (folder / FILE).exists() and (folder / PAGE).exists():
        return Evidence(folder, storage.read_json(folder / FILE))
    runs = collect(ReportConfig(), {f"evaluate.{side}": e.out for side, (_, _, e) in sides.items()}).runs
    decision = decide(runs["champion"].rows, runs["challenger"].rows, rules)
    config, data = differences(store, champion[1], challenger[1])
    about: dict[str, Any] = {side: _about(v, m, e) for side, (v, m, e) in sides.items()}
    about |= {"schema": SCHEMA, "id": name, "config": config, "data": data}
    page = evidence_html(decision, about, runs["champion"], runs["challenger"])
    storage.write_atomic(folder / PAGE, page)
    storage.write_json(folder / FILE, {**about, "decision": decision.as_dict()})  # last: it says that all is there
    return read(folder)


def read(path: Path) -> Evidence:
    """Evidence by its folder or one of its files. Raises ArtifactError."""
    folder = path if path.is_dir() else path.parent
    data = storage.read_json(folder / FILE)
    wanted = {"schema", "id", "challenger", "champion", "decision"}
    if not isinstance(data, dict) or not wanted <= data.keys() or data["schema"] != SCHEMA:
        raise ArtifactError(f"{folder / FILE} is no decision of `stepvideo challenge` or `retrain` (schema {SCHEMA})")
    if not (folder / PAGE).exists():
        raise ArtifactError(f"{folder / PAGE} is missing; make it again: stepvideo challenge")
    return Evidence(folder, data)


def decisions(store: Store, challenger: str, champion: str) -> list[Evidence]:
    """All evidence about two contents, by their digests, oldest first."""
    paths = sorted((store.root / FOLDER).glob(f"*/{FILE}"), key=lambda p: p.stat().st_mtime)
    return [e for e in map(read, paths) if e.about(challenger, champion)]


def known(store: Store, challenger: str, champion: str) -> Evidence | None:
    """The newest of them."""
    return (decisions(store, challenger, champion) or [None])[-1]


def differences(store: Store, before: Artifact, after: Artifact) -> tuple[list[str], list[str]]:
    """What differs between two models in settings, and in data and code, over all that they come from."""
    old, new = (
        {a.manifest["stage"]: a.manifest for a in [model, *ancestors(store, model)]} for model in (before, after)
    )
    config, data = [], []
    for stage in dict.fromkeys([*old, *new]):
        if stage not in old or stage not in new:
            config.append(f"{stage}: only the {'challenger' if stage in new else 'champion'} comes from it")
            continue
        a, b = old[stage], new[stage]
        settings, contents = ({**result_part(m["config"])} for m in (a, b)), []
        x, y = settings
        if not a["inputs"]:  # a source: what it names by its content is data
            contents = config_changes({"content": x.pop("content", "")}, {"content": y.pop("content", "")})
            contents = contents or ([f"content {a['digest'][:12]} → {b['digest'][:12]}"] * (a["digest"] != b["digest"]))
        config += [f"{stage}: {change}" for change in config_changes(x, y)]
        data += [f"{stage}: {change}" for change in contents]
        if a["fingerprint"] != b["fingerprint"]:
            data.append(f"{stage}: code {a['fingerprint'][:12]} → {b['fingerprint'][:12]}")
    lineage = (m.get("lineage", {}) for m in (before.manifest, after.manifest))
    a, b = ({k: str(m.get(k, ""))[:12] for k in ("data_md5", "git_sha", "git_dirty")} for m in lineage)
    return config, data + config_changes(a, b)


def _about(version: Version, model: Artifact, evaluation: Artifact) -> dict[str, Any]:
    m, e = model.manifest, evaluation.manifest
    return {
        "name": str(version),
        "version": version.number,
        "stage": m["stage"],
        "key": m["key"],
        "digest": model.digest,
        "path": str(model.out),
        "evaluation": {"stage": e["stage"], "key": e["key"], "digest": e["digest"], "path": str(evaluation.out)},
    }
