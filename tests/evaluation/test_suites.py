"""Prompt suites: a schema whose digests hold, and importers that know the public files."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest

from stepvideo.errors import ArtifactError, ConfigError
from stepvideo.evaluation.suites.importers import (
    MOVIEGEN_ROWS,
    T2V_CATEGORIES,
    TI2V_SUBSETS,
    VBENCH_ROWS,
    import_suite,
)
from stepvideo.evaluation.suites.schema import Prompt, Suite, read, write

SHARED = Path(os.environ.get("STEPVIDEO_SHARED", Path(__file__).parents[3] / "shared")) / "suites"


def test_a_suite_comes_back_whole(tmp_path):
    a = Prompt("a-1", zh="一只猫", en="a cat", category="animals", dimensions=("motion",), aux={"n": 1}, licence="MIT")
    b = Prompt("b", en="a\u2028dog")
    suite = Suite("mine", (a, b), "MIT", "here", {"animals": {"zh": "动物", "en": "Animals"}}, ("2 instead of 3",))
    write(tmp_path / "s.jsonl", suite)
    found = read(tmp_path / "s.jsonl")
    assert found == suite and found.digest == suite.digest and found.prompts[0].digest == a.digest
    assert found.languages == ["en"] and a.languages == ["zh", "en"]
    with pytest.raises(ConfigError, match="b has no text in zh; it has en"):
        found.prompts[1].text("zh")
    assert Suite("another name", (a, b)).digest == suite.digest != Suite("mine", (b, a)).digest


def test_duplicates_are_one_cluster_and_stay():
    texts = ["a cat", "a dog", "a cat ", "A cat"]
    suite = Suite("s", tuple(Prompt(str(i), en=t) for i, t in enumerate(texts)))
    assert suite.duplicates == [["0", "2"]] and len(suite.prompts) == 4
    assert suite.clusters == {"0": "0", "1": "1", "2": "0", "3": "3"}
    assert suite.head()["duplicates"] == [["0", "2"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1].update(en="a cow"), "line 2: prompt 0 was changed"),
        (lambda rows: rows.pop(), "prompts were added, removed or reordered"),
        (lambda rows: rows[1].update(prompt="x"), "line 2: unknown keys prompt"),
        (lambda rows: rows.pop(0), "no head line"),
    ],
)
def test_changed_files_are_found(tmp_path, change, message):
    write(tmp_path / "s.jsonl", Suite("s", (Prompt("0", en="a cat"), Prompt("1", en="a dog"))))
    rows = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    change(rows)
    (tmp_path / "s.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ArtifactError, match=message):
        read(tmp_path / "s.jsonl")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Prompt("a/b", en="x"), "prompt id 'a/b'"),
        (lambda: Prompt("a", zh=" "), "prompt a has no text"),
        (lambda: Suite("s", (Prompt("a", en="x"), Prompt("A", en="y"))), "two prompts have the id A"),
        (lambda: Suite("s", ()), "holds no prompt"),
    ],
)
def test_impossible_suites(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared/suites here (STEPVIDEO_SHARED)")
def test_the_public_t2v_eval():
    suite = import_suite("t2v-eval", SHARED / "step_video_t2v_eval.prompts.txt")
    ours = [
        json.loads(line) for line in (SHARED / "step_video_t2v_eval.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [suite.categories[p.category]["en"] for p in suite.prompts] == [row["category"] for row in ours]
    assert [p.zh for p in suite.prompts] == [row["prompt"] for row in ours]
    assert not suite.differs and not suite.duplicates and suite.licence == suite.prompts[0].licence == "MIT"


def test_t2v_eval_of_other_content(tmp_path):
    """Of 128 lines categories still follow from the line; of another number nothing does."""
    path = tmp_path / "p.txt"
    path.write_text("\n".join(f"提示{i}" for i in range(128)), encoding="utf-8")
    with pytest.raises(ConfigError, match="is not the public t2v-eval: its sha256 begins with .* --allow-different"):
        import_suite("t2v-eval", path)
    suite = import_suite("t2v-eval", path, allow_different=True)
    assert [p.category for p in suite.prompts].count("surreal") == 11 and "sha256" in suite.differs[0]
    assert sum(n for *_, n in T2V_CATEGORIES) == 128
    path.write_text("甲\n乙\n", encoding="utf-8")
    assert {p.category for p in import_suite("t2v-eval", path, allow_different=True).prompts} == {""}


def test_ti2v_eval(tmp_path):
    for short, (_, _, n) in TI2V_SUBSETS.items():
        for i in range(1, n + 1):
            folder = tmp_path / "benchmark" / f"ti2v_eval_{short}" / "HSV"[i % 3]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{i:03d}.txt").write_text(f"{short} 提示 {i}\n", encoding="utf-8")
            if i != 7:
                (folder / f"{i:03d}.png").write_bytes(b"png %d" % i)
    suite = import_suite("ti2v-eval", tmp_path)
    assert len(suite.prompts) == 298 and not suite.differs
    assert [p.id for p in suite.prompts if not p.aux["image_sha256"]] == ["real-007", "ani-007"]
    first = suite.prompts[0]
    assert (first.id, first.category, first.dimensions) == ("real-001", "real-world", ("square",))
    assert first.aux["image"] == "benchmark/ti2v_eval_real/S/001.png"
    (tmp_path / "benchmark" / "ti2v_eval_ani" / "H" / "003.txt").unlink()
    with pytest.raises(ConfigError, match="119 prompts in ti2v_eval_ani instead of 120"):
        import_suite("ti2v-eval", tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared/suites here (STEPVIDEO_SHARED)")
def test_the_public_ti2v_eval(tmp_path):
    """Its texts and paths, of a copy of them as one table; the images are not here."""
    rows = [json.loads(x) for x in (SHARED / "step_video_ti2v_eval.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        text = (tmp_path / row["image"]).with_suffix(".txt")
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(row["prompt"], encoding="utf-8")
    suite = import_suite("ti2v-eval", tmp_path)
    expected = {r["id"]: (r["prompt"].strip(), r["subset"], (r["orientation"],), r["image"]) for r in rows}
    assert {p.id: (p.zh, p.category, p.dimensions, p.aux["image"]) for p in suite.prompts} == expected
    assert len(suite.prompts) == 298 and not suite.differs


def vbench(path: Path, rows: int, same: int = 2) -> Path:
    found = [
        {
            "prompt_en": f"prompt {max(i, same)}",
            "dimension": [f"d{i % 16}"],
            **({"auxiliary_info": {"object": "cat"}} if i == 5 else {}),
        }
        for i in range(rows)
    ]
    path.write_text(json.dumps(found))
    return path


def test_vbench(tmp_path):
    suite = import_suite("vbench", vbench(tmp_path / "v.json", VBENCH_ROWS))
    assert len(suite.prompts) == 946 and len(set(suite.clusters.values())) == 944
    assert suite.duplicates == [["0001", "0002", "0003"]]
    assert suite.prompts[5].aux == {"auxiliary_info": {"object": "cat"}} and suite.prompts[5].dimensions == ("d5",)
    with pytest.raises(ConfigError, match="945 prompts instead of 946; 943 different ones instead of 944"):
        import_suite("vbench", vbench(tmp_path / "v.json", 945))
    (tmp_path / "zh.txt").write_text("\n".join(f"第{i}条" for i in range(945)), encoding="utf-8")
    both = import_suite("vbench", tmp_path / "v.json", allow_different=True, other_language=tmp_path / "zh.txt")
    assert both.languages == ["zh", "en"] and both.prompts[3].zh == "第3条"
    (tmp_path / "v.json").write_text('{"prompt_en": "x"}')
    with pytest.raises(ArtifactError, match="is not VBench's JSON"):
        import_suite("vbench", tmp_path / "v.json", allow_different=True)


def test_moviegen(tmp_path):
    tags = ["human - hand", "unusual subject,unusual activity", "physics - gravity,camera motion", "scene"]
    path = tmp_path / "m.csv"
    with path.open("w", newline="") as f:
        out = csv.writer(f)
        out.writerow(["prompt", "concept", "motion_level"])
        for i in range(MOVIEGEN_ROWS):
            out.writerow([f"a, prompt {max(i, 5)}", tags[i % 4], "low"])
    suite = import_suite("moviegen", path)
    assert len(set(suite.clusters.values())) == 998
    assert [p.dimensions for p in suite.prompts[:3]] == [("human",), ("unusual",), ("physics", "camera motion")]
    assert suite.prompts[2].category == "physics" and suite.prompts[1].aux["motion_level"] == "low"
    text = path.read_text().replace("scene", "weather")
    path.write_text(text)
    with pytest.raises(ConfigError, match="unknown concepts weather"):
        import_suite("moviegen", path)
    (tmp_path / "m.txt").write_text("\n".join(p.en for p in suite.prompts))
    assert import_suite("moviegen", tmp_path / "m.txt").digest != suite.digest


def test_lines_of_anybody(tmp_path):
    (tmp_path / "mine.txt").write_text("\ufeffa cat\n\na dog\r\n")
    suite = import_suite("lines", tmp_path / "mine.txt", lang="en")
    assert suite.name == "mine" and [p.en for p in suite.prompts] == ["a cat", "a dog"] and suite.languages == ["en"]
    with pytest.raises(ConfigError, match="format 'x' is not known; choose of t2v-eval"):
        import_suite("x", tmp_path)
    with pytest.raises(ArtifactError, match="cannot be read as UTF-8"):
        import_suite("lines", tmp_path / "none.txt")
