"""Records of nodes: whole files, several writers, a history that only grows."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest

from stepvideo.errors import ArtifactError, ConfigError
from stepvideo.mind.faults import Category
from stepvideo.mind.nodes import Book, Entry, Kind, State, first_seen, locked

ALERT = Entry(5.0, Kind.ALERT, "GPU_DBE_ERROR", ok=False, weight=1.0, category=Category.GPU, detail="Xid 48")


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    made = first_seen("node1", "training", 1.0).with_entry(ALERT).into(State.DRAINING, 6.0, "Xid 48", fault=ALERT.name)
    book = Book(tmp_path / "nodes")
    assert book.get("node1") is None and book.all() == {}
    book.update("node1", lambda _: made)
    assert book.get("node1") == made and book.all() == {"node1": made}
    assert [e.name for e in made.history] == [State.IN_SERVICE, "GPU_DBE_ERROR", State.DRAINING]


def test_history_is_only_added_to(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.update("node1", lambda _: first_seen("node1", "", 0.0).with_entry(ALERT))
    before = (tmp_path / "node1.json").read_bytes()
    with pytest.raises(ArtifactError, match="only add"):
        book.update("node1", lambda old: replace(old, history=old.history[:1]))
    assert (tmp_path / "node1.json").read_bytes() == before
    assert book.add("node1", ALERT).history[-1] == ALERT


def test_an_unknown_node_and_a_damaged_file_are_told(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.update("node1", lambda _: first_seen("node1", "", 0.0))
    with pytest.raises(ConfigError, match="nothing is known of node node2; known: node1"):
        book.add("node2", ALERT)
    with pytest.raises(ConfigError, match="no name"):
        book.get("../node1")
    (tmp_path / "node1.json").write_text('{"name": "node1"}')
    with pytest.raises(ArtifactError, match="no record"):
        book.get("node1")


def _add(folder: Path, writer: int) -> None:
    for i in range(20):
        Book(folder).add("node1", replace(ALERT, time=float(i), detail=str(writer)))


def test_several_writers_lose_nothing(tmp_path: Path) -> None:
    Book(tmp_path).update("node1", lambda _: first_seen("node1", "", 0.0))
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_add, args=(tmp_path, w)) for w in range(3)]
    for process in writers:
        process.start()
    for process in writers:
        process.join(30)
    record = Book(tmp_path).get("node1")
    assert record and len(record.history) == 61
    for w in range(3):
        assert [e.time for e in record.history if e.detail == str(w)] == [float(i) for i in range(20)]


def test_who_does_not_wait_for_a_lock_is_told(tmp_path: Path) -> None:
    with locked(tmp_path / "lock") as first, locked(tmp_path / "lock", wait=False) as second:
        assert first and not second
    with locked(tmp_path / "lock", wait=False) as third:
        assert third
