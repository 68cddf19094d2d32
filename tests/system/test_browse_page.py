"""`stepvideo browse`: conditions as SQL with parameters, films in ranges of bytes, and the page in a real browser."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepvideo import storage
from stepvideo.curation import subsets
from stepvideo.curation.browse.catalog import Catalog
from stepvideo.curation.browse.expression import condition
from stepvideo.curation.config import Filter, SubsetsConfig
from stepvideo.curation.places import located
from stepvideo.curation.records import clip_schema, files_schema, write_table
from stepvideo.data.video_io import write_video
from stepvideo.errors import StepVideoError
from stepvideo.stage import StageContext

ROOT = Path(__file__).resolve().parents[2]
CLIPS, TOKEN = 60, "a-token-of-some-length"
NASTY = "<img src=x onerror=alert(1)> \"quoted\" 'it'.mp4"
START = """
import argparse, sys
from stepvideo.curation.browse import command
parser = argparse.ArgumentParser()
command.add_arguments(parser)
sys.exit(command.call(parser.parse_args()))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A catalog of `CLIPS` windows of one file, with motion 0 to 5.9, its subsets and a side table of a text."""
    root = tmp_path_factory.mktemp("browse")
    video = np.random.default_rng(0).integers(0, 255, (40, 8, 8, 3)).astype(np.uint8).repeat(12, 1).repeat(12, 2)
    write_video(root / "curate" / "media" / "a.mp4", video, 24)
    rows = [
        dict.fromkeys(clip_schema().names)
        | {"clip_id": f"{i:032x}", "kind": "clip", "file": "media/a.mp4", "first_frame": i % 20, "frames": 20}
        | {"height": 96, "width": 96, "fps": 24.0, "captions": json.dumps({"short": {"en": [f"Clip Number {i}"]}})}
        | {"caption_source": "sidecar", "caption_overlap": 1.0, "source_role": "raw", "source_file": NASTY}
        | {"source_start": i, "source_end": i + 20, "tag_motion_mean": i / 10, "tag_blur": None if i % 2 else 7.0}
        for i in range(CLIPS)
    ]
    write_table(rows, clip_schema(), root / "curate" / "catalog.parquet")
    write_table([], files_schema(), root / "curate" / "files.parquet")
    (root / "subsets").mkdir()
    rules = [Filter("motion_mean", "above", [0.0, 1.0, 2.0, 3.0, 4.0, 5.0])]
    subsets.run(StageContext(SubsetsConfig(filters=rules), {"curate": root / "curate"}, root / "subsets", root))
    (root / "tags" / "tables").mkdir(parents=True)
    said = pa.table(
        {"clip_id": [r["clip_id"] for r in rows], "move": ["pan" if i % 3 else "zoom" for i in range(CLIPS)]}
    )
    pq.write_table(said, root / "tags" / "tables" / "camera.parquet")
    return {"curate": root / "curate", "subsets": root / "subsets", "tables": root / "tags"}


@pytest.fixture(scope="module")
def catalog(made: dict[str, Path]) -> Iterator[Catalog]:
    found = Catalog(made["curate"], made["subsets"], [made["tables"]])
    yield found
    found.close()


@pytest.mark.parametrize(
    ("text", "keep"),
    [
        ("motion_mean >= 3", lambda i: i >= 30),
        ("motion_mean > 3 and motion_mean <= 4.05", lambda i: 30 < i <= 40),
        ("not (motion_mean >= 1 or motion_mean < .5)", lambda i: 5 <= i < 10),
        ("blur is null and move = 'zoom'", lambda i: i % 2 and i % 3 == 0),
        ("not blur > 100", lambda i: i % 2 == 0),  # of an unknown value nothing is known
        ('caption contains "number 1" or motion_mean = 5.9e0', lambda i: str(i).startswith("1") or i == 59),
        ("subset != 's6' and level >= 5", lambda i: 40 <= i < 50),
        ("move is not null and clip_id = '" + f"{7:032x}'", lambda i: i == 7),
    ],
)
def test_conditions_mean_what_they_say(catalog: Catalog, text: str, keep: Callable[[int], bool]) -> None:
    expected = [f"{i:032x}" for i in range(CLIPS) if keep(i)]
    assert catalog.ids([text])["clip_id"].to_pylist() == expected
    assert catalog.look([text])["count"] == len(expected)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("speed > 1", "no column 'speed'; there are clip_id, kind, "),
        ("motion_mean", "a comparison is missing at the end"),
        ("motion_mean > 'a'", "motion_mean is compared with a number"),
        ("kind = 1", "kind is compared with text in quotes"),
        ("(kind = 'clip'", "a \\) is missing"),
        ("kind = 'clip'; DROP TABLE clips", "'; DROP TABLE clips' cannot stand there"),
        ("kind = 'clip' DROP", "'DROP' is too much"),
        ("motion_mean is 3", "after is comes null"),
        ("motion_mean contains 'a'", "contains is for a column of text"),
        ("(" * 60 + "motion_mean > 1", "more than 50 brackets"),
    ],
)
def test_what_cannot_be_read_is_said(catalog: Catalog, text: str, reason: str) -> None:
    with pytest.raises(StepVideoError, match=reason):
        catalog.look([text])


@given(st.text(max_size=40))
def test_no_text_reaches_the_database(text: str) -> None:
    """Whatever is written, the SQL is made of known words, columns and question marks."""
    try:
        found = condition(f"name = '{text}' or {text}", {"name": str, "n": float})
    except StepVideoError:
        return
    assert re.fullmatch(r'(?:"name"|"n"|[ ()<>=?]|contains|lower|AND|OR|NOT|IS|NULL|,)*', found.sql)
    assert found.sql.count("?") == len(found.values)


def test_counts_of_thresholds_in_milliseconds(catalog: Catalog) -> None:
    found = catalog.look(["motion_mean >= 2", "blur is not null"], "motion_mean", True, offset=1, limit=3)
    assert (found["count"], found["alone"], found["left"]) == (20, [20, 30], [40, 20])
    assert [c["motion_mean"] for c in found["clips"]] == [5.6, 5.4, 5.2]
    assert found["clips"][0]["subset"] == "s6" and found["clips"][0]["move"] == "pan"
    with pytest.raises(StepVideoError, match="no column 'x' to sort by"):
        catalog.look([], "x")
    about = catalog.describe()
    motion = next(c for c in about["numbers"] if c["name"] == "motion_mean")
    assert sum(motion["bins"]) == motion["known"] == CLIPS and (motion["min"], motion["max"]) == (0.0, 5.9)
    assert motion["thresholds"] == [(f"s{i + 1}", float(i)) for i in range(6)]


def test_a_store_is_found_by_its_newest_catalog(made: dict[str, Path], tmp_path: Path) -> None:
    def artifact(stage: str, key: str, finished: int, out: Path | None, **inputs: str) -> None:
        folder = tmp_path / stage / key
        (folder / "out" / "tables").mkdir(parents=True)
        if out:
            (folder / "out" / "catalog.parquet").write_bytes((out / "catalog.parquet").read_bytes())
        refs = {role: {"stage": role, "key": "k", "digest": d} for role, d in inputs.items()}
        manifest = {"stage": stage, "kind": stage, "key": key, "digest": f"{stage}-{key}", "inputs": refs}
        storage.write_json(folder / "manifest.json", manifest)
        os.utime(folder / "manifest.json", (finished, finished))

    artifact("curate", "old", 1, made["curate"])
    artifact("curate", "new", 2, made["curate"])
    artifact("subsets", "of_old", 5, None, curate="curate-old")
    artifact("subsets", "of_new", 4, None, curate="curate-new")
    artifact("tags", "of_new", 3, None, curate="curate-new")
    artifact("concepts", "of_new", 6, None, tags="tags-of_new")
    artifact("concepts", "of_old", 7, None, tags="tags-of_old")
    artifact("captions", "of_new", 8, None, curate="curate-new")
    artifact("labels", "of_new", 9, None, curate="curate-new", captions="captions-of_new")
    found = located(tmp_path)
    assert found["curate"] == tmp_path / "curate" / "new" / "out"
    assert found["subsets"] == tmp_path / "subsets" / "of_new" / "out"
    assert found["captions"] == tmp_path / "labels" / "of_new" / "out"
    assert found["tables"] == [tmp_path / kind / "of_new" / "out" for kind in ("concepts", "tags")]
    assert located(made["curate"]) == {"curate": made["curate"]}
    with pytest.raises(StepVideoError, match="is no catalog"):
        located(made["subsets"])


@pytest.fixture(scope="module")
def serve(made: dict[str, Path]) -> Iterator[Callable[[str], str]]:
    """serve(token) → the address of a server in a process of its own."""
    pytest.importorskip("fastapi", reason="needs the `serve` extra")
    started = []

    def start(token: str = "") -> str:
        given = ["--subsets", str(made["subsets"]), "--tables", str(made["tables"]), "--port", "0"]
        process = subprocess.Popen(
            [sys.executable, "-c", START, str(made["curate"]), *given],
            cwd=ROOT, env={**os.environ, "STEPVIDEO_TOKEN": token}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        assert process.stdout
        found = re.search(r"serving (http://\S+)", process.stdout.readline())
        assert found
        return found[1]

    yield start
    for process in started:
        process.terminate()
        assert process.wait(30) == 0


@pytest.fixture(scope="module")
def url(serve: Callable[[str], str]) -> str:
    return serve("")


def ask(url: str, body: object = None, **headers: str) -> tuple[int, bytes, http.client.HTTPMessage]:
    data = None if body is None else json.dumps(body).encode()
    more = {"Content-Type": "application/json"} if data else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, {**more, **headers}), timeout=60) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as e:
        return e.code, e.read(), e.headers


def test_films_come_in_ranges(url: str, made: dict[str, Path]) -> None:
    film = f"{url}/v1/clips/{5:032x}/film.mp4"
    status, whole, headers = ask(film)
    assert status == 200 and headers["content-type"] == "video/mp4" and whole[4:8] == b"ftyp"
    status, part, headers = ask(film, Range="bytes=100-199")
    assert (status, part) == (206, whole[100:200]) and headers["content-range"] == f"bytes 100-199/{len(whole)}"
    assert ask(f"{url}/v1/clips/{5:032x}/file")[1] == (made["curate"] / "media" / "a.mp4").read_bytes()
    assert ask(f"{url}/v1/clips/{5:032x}/still.jpg")[1][:2] == b"\xff\xd8"
    for name in ("0", "..%2F..%2Fcatalog.parquet"):
        assert ask(f"{url}/v1/clips/{name}/film.mp4")[0] in (404, 422)


def test_ids_as_files(url: str) -> None:
    question = {"filters": ["motion_mean >= 5.5"]}
    expected = [f"{i:032x}" for i in range(55, 60)]
    assert pq.read_table(io.BytesIO(ask(f"{url}/v1/ids", question)[1]))["clip_id"].to_pylist() == expected
    read = csv.read_csv(
        io.BytesIO(ask(f"{url}/v1/ids?form=csv", question)[1]),
        convert_options=csv.ConvertOptions(column_types={"clip_id": pa.string()}),
    )
    assert read["clip_id"].to_pylist() == expected
    status, said, _ = ask(f"{url}/v1/clips", {"filters": ["x > 1"]})
    assert status == 422 and "no column 'x'" in json.loads(said)["error"]
    assert ask(f"{url}/v1/catalog", Host="evil.example")[0] == 403


def text(selector: str) -> str:
    return f"document.querySelector({json.dumps(selector)}).textContent"


def test_the_page_filters_and_plays(url: str, browser: type, tmp_path: Path) -> None:
    with browser(1200, 900) as page:
        page.open(url)
        page.until(f"{text('#count')}.startsWith('60 clips, counted in ')")
        page.until("document.querySelector('.card img')?.naturalWidth > 0")
        page.run(
            "(e => { e.value = 4; e.dispatchEvent(new Event('input')); })"
            "(document.querySelector('[data-name=motion_mean] input[type=number]'))"
        )
        page.until(f"{text('#count')}.startsWith('20 clips')")
        assert page.run(text("[data-name=motion_mean] .effect")).strip() == "−40"
        page.click("#condition")
        page.type("move = 'zoom'")
        page.until(f"{text('#count')}.startsWith('6 clips')")
        page.click(".card .stage")
        page.until("document.querySelector('.card video')?.currentTime > 0")
        assert page.run("document.querySelector('.card video').videoWidth") == 96
        assert NASTY in page.run(text(".card .where"))
        page.picture(tmp_path / "browse.png")
        assert page.problems == []
        page.click("#condition")
        page.type(" and")
        page.until("!document.querySelector('#error').hidden")
        assert "a column is missing at the end" in page.run(text("#error"))


def test_with_a_token(serve: Callable[[str], str], browser: type) -> None:
    url = serve(TOKEN)
    assert ask(f"{url}/v1/catalog")[0] == 401
    with browser(1000, 800) as page:
        page.open(url)
        page.until("!document.querySelector('#login').hidden")
        page.type(TOKEN)
        page.key("Enter", 13)
        page.until("document.querySelector('.card img')?.naturalWidth > 0")
        page.click(".card .stage")
        page.until("document.querySelector('.card video')?.currentTime > 0")
