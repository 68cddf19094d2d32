"""What people mistype: one message that names the thing, the value and what to give; never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stepvideo import cli

ROOT = Path(__file__).resolve().parents[1]
MISTAKES = [
    (["status", "--store", "/nope"], ["no store /nope", "--store names another"]),
    (["data", "log", "--store", "/nope"], ["unknown arguments: --store /nope", "`stepvideo data --help`"]),
    (["lineage", "nope", "--store", "."], ["'nope'", "stepvideo status"]),
    (["select", "/nope"], ["/nope is no folder", "STORE/STAGE/KEY/out"]),
    (["average", "/nope", "/nope2", "--out", "x"], ["/nope is no folder", "`out` of a stage"]),
    (["lora-merge", ".", "/nope", "--out", "x"], ["has no transformer/config.json", "a model's folder"]),
    (["export-checkpoint", ".", "--out", "x"], ["has no spec.json", "STORE/STAGE/KEY"]),
    (["produce", "/nope"], ["/nope is no folder", "STORE/STAGE/KEY"]),
    (["funnel", ".", "text_area<=x"], ["'text_area<=x'", "'x' is no number"]),
    (["funnel", "/nope"], ["/nope is no catalog", "stepvideo curate"]),
    (["suite", "world", "--out", "x.jsonl", "--per-category", "1"], ["--per-category 1", "give 4 or more"]),
    (["evaluate", "votes", "/nope.csv"], ["/nope.csv", "cannot be read"]),
    (["evaluate", "plan", "--score", "2", "--ties", ".4"], ["--score=2.0", "between 0 and 1"]),
    (["study", "status", "/nope"], ["/nope/study.json is missing", "stepvideo study create"]),
    (["telemetry", "summary", "/nope"], ["/nope", "STORE/_telemetry"]),
    (["balance", "--model", "nope"], ["--model nope", "give 30b, 4b"]),
    (["generate", "a", "--out", "a.mp4", "--model", "/nope"], ["/nope does not exist", "released layout"]),
]


@pytest.mark.parametrize(("words", "told"), MISTAKES, ids=[" ".join(words[:2]) for words, _ in MISTAKES])
def test_a_mistake_is_told_in_one_message(
    words: list[str], told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = cli.main(words)
    except SystemExit as e:
        code = e.code
    said = capsys.readouterr()
    assert code == 2 and said.out == ""
    assert all(part in said.err for part in told), said.err
    assert "Traceback" not in said.err and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_is_no_error(unbuffered: str) -> None:
    """`stepvideo … --json | head -1`."""
    parser = "p = argparse.ArgumentParser(); p.set_defaults(call=lambda args: print('x')); cli._parser = lambda: p"
    script = f"import argparse, sys; from stepvideo import cli; {parser}; sys.exit(cli.main([]))"
    command = [sys.executable, "-c", script]
    env = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env=env)
    assert process.stdout and process.stderr
    process.stdout.close()
    said = process.stderr.read().decode()
    assert process.wait(timeout=120) == cli.READER_GONE and "Traceback" not in said and "Exception" not in said
