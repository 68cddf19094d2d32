"""The wiring of the cascade (report §4–§8): one row a stage. Read it from top to bottom."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from flows import head, rounds
from flows.graph import Row
from stepvideo import storage

ROOT = Path(__file__).parent.parent

# Name of a config under `stages`: kind of stage.
STAGES = {
    **head.STAGES,
    "world": "render",
    "text": "text",
    "vae1": "vae",
    "vae2": "vae",
    "vae_tuned": "vae",
    "shipped": "shipped",
    "given": "given",
    "latents": "latents",
    "t2i": "train",
    "t2vi_192": "train",
    "t2vi_540": "train",
    "sft": "train",
    "average": "average",
    "pairs": "pairs",
    "dpo": "dpo",
    **rounds.STAGES,
    "couplings": "couplings",
    "turbo": "turbo",
    "evaluate": "evaluate",
    "report": "report",
}


def defaults(data: Path) -> dict[str, Any]:
    """Settings that `data.dvc` versions with the raw clips: the generator of the further ones."""
    world = data / "world.yaml"
    return {"world": OmegaConf.load(world)} if world.exists() else {}


def rows(cfg: Mapping[str, Any]) -> list[Row]:
    """The rows for a config: which weights are trained, how many SFT runs there are, whether there are other clips."""
    weights = cfg["weights"]
    vae = {"tune": "vae_tuned", "train": "vae2"}.get(weights["vae"], "vae")
    start = {} if weights["dit"] == "train" else {"init": "dit"}
    clips = {"curate": "curate", "subsets": "subsets"}
    said = {**clips, **head.captions_of(cfg)}
    coded = {"latents": "latents", "subsets": "subsets"}
    if cfg["stages"]["latents"]["on_the_fly"]:
        coded |= {"curate": "curate", "vae": vae}
    judged = {"vae": vae, "text": "text"}
    sft = [f"sft.{i + 1}" for i in range(cfg["sft_runs"])]
    aligned = [rounds.policy(done) for done in range(cfg["on_policy_rounds"] + 1)]
    models = ["t2vi_540.s6", sft[0], "average", *aligned, "turbo"]

    def data(family: str, name: str) -> dict[str, str]:
        """What a stage of the DiT reads; sampling along the way takes the other networks too, and so do producers."""
        every = _changed(cfg.get("only") or {}, name, "samples", "every")
        samples = cfg["stages"][family]["samples"]["every"] if every is None else every
        fed = _changed(cfg.get("only") or {}, name, "runtime", "data") or cfg["stages"][family]["runtime"]["data"]
        return {**coded, "vae": vae, "text": "text"} if samples or fed == "streamed" else coded

    def gate(model: str) -> dict[str, str]:
        """The first evaluation tries the oracle on known truth; the others take its verdict."""
        return {} if model == models[0] else {"gate": f"evaluate.{models[0]}"}

    table = [Row("raw", "raw", set=head.raw_folder(f"{cfg['data']}/raw", absent=True)), Row("world", "render")]
    sources = {"raw": "raw", "world": "world"}
    if cfg["raw"]:
        table.append(Row("extra", "raw", config="raw", set=head.raw_folder(cfg["raw"])))
        sources["extra"] = "extra"
    table += head.rows(cfg, sources)
    table += [Row("text", "text", said) if weights["text"] == "train" else _ready("text", weights["text"])]
    if vae == "vae2":
        table += [
            Row("vae1", "vae", {**clips, "text": "text"}),
            Row("vae2", "vae", {"init": "vae1", **clips, "text": "text"}),
        ]
    else:
        table += [_ready("vae", "shipped" if weights["vae"] == "tune" else weights["vae"])]
    if vae == "vae_tuned":
        table += [Row("vae_tuned", "vae", {"init": "vae", **clips, "text": "text"})]
    if start:
        table += [_ready("dit", weights["dit"])]
    table += [
        Row("latents", "latents", {**said, "vae": vae, "text": "text", **start}),
    ]
    before, previous = start, "t2i"
    for i in range(cfg["t2i_sets"]):
        fixed = {"images": f"images_{i + 1}" if i else "images"} if cfg["t2i_sets"] > 1 else {}
        previous = f"t2i.{i + 1}" if fixed else "t2i"
        table.append(Row(previous, "train", {**before, **data("t2i", previous)}, "t2i", fixed))
        before = {"init": previous}
    for family, subsets in (("t2vi_192", ("s1", "s2", "s3")), ("t2vi_540", ("s4", "s5", "s6"))):
        resolution = "low" if family == "t2vi_192" else "high"
        for s in subsets:
            fixed = {"subset": s, "resolution": resolution}
            name = f"{family}.{s}"
            table.append(Row(name, "train", {"init": previous, **data(family, name)}, family, fixed))
            previous = name
    for i, name in enumerate(sft):
        table.append(Row(name, "train", {"init": previous, **data("sft", name)}, "sft", {"subset": f"sft_{i + 1}"}))
    curves = {f"train.{r.name}": r.name for r in table if r.kind in ("text", "vae", "train")}
    curves |= {f"train.{name}": name for name in (*aligned, "turbo")}

    def votes(family: str, name: str) -> dict[str, Any]:
        own = _changed(cfg.get("only") or {}, name, "runtime", "votes")
        return _voted(own or cfg["stages"][family]["runtime"]["votes"])

    table += [
        Row("average", "average", {name: name for name in sft}),
        Row("pairs", "pairs", {"model": "average", **judged}, set=votes("pairs", "pairs")),
        Row("dpo", "dpo", {"init": "average", "pairs": "pairs"}),
        *rounds.rows(cfg, "average", judged, votes),
        Row("couplings", "couplings", {"model": aligned[-1], **judged, **coded}),
        Row("turbo", "turbo", {"init": aligned[-1], "couplings": "couplings", "latents": "latents"}, final=True),
        *(Row(f"evaluate.{m}", "evaluate", {"model": m, **judged, **gate(m)}, "evaluate") for m in models),
        Row(
            "report", "report", {**clips, **curves, **{f"evaluate.{m}": f"evaluate.{m}" for m in models}}, lineage=True
        ),
    ]
    return table


def _changed(only: Any, name: str, *keys: str) -> Any:
    """What `only` sets for a stage; None: nothing."""
    for key in (*name.split("."), *keys):
        # YAML reads the 1 of sft.1 as a number
        only = {str(k): v for k, v in only.items()}.get(key) if isinstance(only, Mapping) else None
    return only


def _voted(table: str) -> dict[str, Any]:
    """People's votes, known by their content."""
    return {"votes": storage.sha256_file(Path(table))} if table and Path(table).is_file() else {}


def _ready(part: str, which: str) -> Row:
    """A part of the model that is not trained from scratch: shipped with the repository, or from somebody's folder."""
    from stepvideo.training import given, shipped

    if which == "shipped":
        folder = ROOT / "weights" / part
        fixed: dict[str, Any] = {"content": shipped.folder_digest(folder), "runtime": {"path": str(folder)}}
        return Row(part, "shipped", config="shipped", set=fixed)
    folder = Path(which).absolute()
    fixed = {"part": part, "content": given.content(folder, part), "runtime": {"path": str(folder)}}
    return Row(part, "given", config="given", set=fixed)
