"""Cards from lineage: every figure from a manifest or a table, and what nobody measured is said."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from made_data import model
from made_runs import MadeRuns

from flows.card_parts import portable
from stepvideo import cli, storage

RUN = "20261101-120000-aaaaaa"


@pytest.fixture
def card(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    runs = MadeRuns(tmp_path)
    runs.run(RUN, better=25)

    def call(*args: str, code: int = 0) -> str:
        capsys.readouterr()
        assert cli.main(["card", *args, *runs.at]) == code
        said = capsys.readouterr()
        return said.out if code == 0 else said.err

    call.made = runs  # type: ignore[attr-defined]
    return call


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the table under a heading."""
    lines = text.split(f"## {heading}\n")[1].split("\n## ")[0].splitlines()
    return [[c.strip() for c in line.strip("|").split("|")] for line in lines if line.startswith("|")][2:]


def test_a_model(card, tmp_path: Path) -> None:
    sft = model(card.made)
    ref = f"sft.1/{sft.manifest['key']}"
    text = card(ref)
    about = yaml.safe_load(text.split("---\n")[1])
    assert about["pipeline_tag"] == "text-to-video" and "model-index" not in about  # nobody evaluated it
    assert "no evaluation of it is in the store" in text
    assert ["parameters of the DiT", "not measured"] in rows(text, "What it is")
    stages = {r[0].split("/")[0]: r[2] for r in rows(text, "Training")}
    assert stages == {"t2i": "images", "sft.1": "sft_1"}
    data = dict(rows(text, "Data"))
    assert (data["raw files"], data["clips and stills of them"], data["bytes of those files"]) == ("4", "6", "6")
    assert data["files with licence: CC-BY-4.0"] == "2" and data["files with licence: not recorded"] == "2"
    origin = dict(rows(text, "Where it is from"))
    assert (
        origin["digest (sha256 of its files' checksums)"] == sft.digest and "torch" not in origin
    )  # nobody recorded it
    assert "git checkout c0ffeec0ffee && dvc checkout && stepvideo run --until sft.1" in text
    assert "next: " in card(ref, "--out", str(tmp_path / "card"))
    assert (tmp_path / "card" / "README.md").read_text() == text


def test_an_evaluated_model_has_its_rates_with_intervals(card) -> None:
    record = storage.read_json(card.made.store.root / "_runs" / RUN / "run.json")
    key = record["stages"]["sft.1"]["key"]
    manifest = card.made.store.dir("sft.1", key) / "manifest.json"
    made = storage.read_json(manifest)
    made["files"]["transformer/w"] = made["files"].pop("model")
    storage.write_json(manifest, made)
    text = card(f"sft.1/{key}")
    found = {(r[0], r[1]): r[2:] for r in rows(text, "How well it does")}
    assert found["heldout", "all"][0] == "50.0 %" and found["train", "all"][0] == "100.0 %"
    assert found["train", "shape"][0].startswith("not measured")
    assert found["heldout", "all"][1:] == ["33.2 to 66.8 %", "30"]
    (index,) = yaml.safe_load(text.split("---\n")[1])["model-index"]
    values = {(r["dataset"]["type"], m["type"]): m["value"] for r in index["results"] for m in r["metrics"]}
    assert values["stepvideo-heldout", "all"] == 0.5 and ("stepvideo-train", "shape") not in values
    names = {m["name"] for r in index["results"] for m in r["metrics"]}
    assert "share right, all (95 % 0.3315 to 0.6685, Wilson, n = 30)" in names
    assert all(re.search(r"\(95 % [\d.]+ to [\d.]+, Wilson, n = 30\)$", name) for name in names)


def test_data(card) -> None:
    model(card.made)
    text = card("subsets")
    about = yaml.safe_load(text.split("---\n")[1])
    assert about["size_categories"] == ["n<1K"] and "language" not in about
    assert rows(text, "Subsets") == [["images", "4"], ["sft_1", "3"]]
    assert dict(rows(text, "Sources"))["clips and stills of them"] == "12"
    for heading, said in (("Filters", "Not measured."), ("What was left out of the catalog", "Not measured.")):
        assert text.split(f"## {heading}\n\n")[1].startswith(said)
    assert text.split("## Captions\n\n")[1].startswith("None in this artifact; `stepvideo card captions`")
    assert card("captions").split("## Subsets\n\n")[1].startswith("None in this artifact; `stepvideo card subsets`")
    assert yaml.safe_load(card("captions").split("---\n")[1])["language"] == ["zh", "en"]


def test_a_command_on_a_card_holds_on_another_machine() -> None:
    said = "again: git checkout c0ffee && dvc checkout && stepvideo run profile=smoke store=/srv/s "
    text = portable(
        said
        + "'raw=/data/me/my clips' work=/tmp/w weights.dit=/models/t2v/ 'stages.captions.languages=[en]' --until sft.1"
    )
    assert text == (
        "again: git checkout c0ffee && dvc checkout && stepvideo run profile=smoke 'raw=DIR/my clips' "
        "weights.dit=DIR/t2v 'stages.captions.languages=[en]' --until sft.1"
    )


def test_what_has_no_card(card) -> None:
    assert "neither a model nor data" in card("evaluate.sft.1", code=2)
    assert "no artifact 'nope'" in card("nope", code=2)
