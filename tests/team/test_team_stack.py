"""`stepvideo team` with a real PostgreSQL: started, killed, found again, stopped; and everything that it refuses."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import team_stack

from stepvideo import cli, storage
from tasks.team import checks, databases, layout, parts, postgresql, processes, python_packages
from tasks.team.layout import Stack

ONLY = "postgresql"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with team_stack.running((ONLY,)) as running:
        yield running


def team(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    capsys.readouterr()
    code = cli.main(["team", *words])
    said = capsys.readouterr()
    return code, said.out + said.err


def rows(stack: Stack, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    code, said = team(capsys, "status", "--folder", str(stack.folder), "--json")
    assert code == 1, "most services do not run"
    return {row["part"]: row["state"] for row in json.loads(said)}


def commands() -> str:
    """The arguments of every process, as anybody on the machine reads them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except OSError:
            continue
    return b"\n".join(found).decode(errors="replace")


def test_a_second_start_changes_nothing_and_a_kill_is_mended(stack, capsys) -> None:
    first = processes.pid_of(stack, ONLY)
    again = ("start", ONLY, "--folder", str(stack.folder))
    assert team(capsys, *again)[0] == 0
    assert first and processes.pid_of(stack, ONLY) == first
    asyncio.run(postgresql.ask(stack, "mlflow", "create table if not exists kept (n int)"))
    os.kill(first, signal.SIGKILL)
    team_stack.wait_until(lambda: processes.pid_of(stack, ONLY) is None)
    assert rows(stack, capsys)[ONLY] == "stopped"
    down = {c.name: c for c in checks.team_checks({layout.NAME: str(stack.folder)})}
    assert "no answer" in down["team postgresql"].detail and down["team postgresql"].fix.startswith(
        "stepvideo team start"
    )
    assert team(capsys, *again)[0] == 0
    assert rows(stack, capsys)[ONLY] == "answers"
    assert asyncio.run(postgresql.ask(stack, "mlflow", "select * from kept")) == []


def test_secrets_are_in_private_files_and_in_no_argument(stack) -> None:
    assert len(set(stack.secrets.values())) == len(stack.secrets) >= 4
    running = commands()
    for secret in stack.secrets.values():
        assert len(secret) >= 32 and secret not in running
    for path in stack.folder.iterdir():
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_text() if path.is_file() else ""
        assert mode & 0o077 == 0 or not any(s in text for s in stack.secrets.values()), path
        assert not path.is_dir() or mode == 0o700, path
    assert stat.S_IMODE(stack.folder.stat().st_mode) in (0o700, 0o711), "root lets PostgreSQL's user pass through"
    assert not any(s in log.read_text() for log in (stack.folder / "logs").iterdir() for s in stack.secrets.values())


def test_a_wrong_password_is_told(stack) -> None:
    pgpass, right = stack.folder / "pgpass", (stack.folder / "pgpass").read_text()
    layout.write_private(pgpass, right.replace(stack.secrets["postgresql"], "wrong"))
    try:
        found = {c.name: c for c in checks.team_checks({layout.NAME: str(stack.folder)})}["team postgresql"]
    finally:
        layout.write_private(pgpass, right)
    assert found.status == "missing" and "refuses the password" in found.detail and "secrets.json" in found.fix


def test_a_half_migrated_database_is_told_with_its_fix(stack, capsys, monkeypatch) -> None:
    def ask(query: str) -> None:
        asyncio.run(postgresql.ask(stack, "mlflow", query))

    def found() -> dict[str, checks.Check]:
        return {c.name: c for c in checks.team_checks({layout.NAME: str(stack.folder)})}

    assert found()["team database mlflow"].status == "warn", "no tables yet"
    ask("create table alembic_version (version_num text)")
    ask("insert into alembic_version values ('451aebb31d03')")  # one of MLflow's first
    check = found()["team database mlflow"]
    newest = databases.newest(databases.SCHEMAS[0])
    assert check.status == "missing" and "451aebb31d03" in check.detail and newest in check.detail
    assert check.fix == "stepvideo team upgrade"
    assert databases.behind(stack) == ["mlflow"]
    monkeypatch.setattr(parts, "missing", lambda names=(): [])
    code, said = team(capsys, "start", "mlflow", "--folder", str(stack.folder))
    assert code == 2 and "mlflow: tables of an older version" in said and "stepvideo team upgrade" in said
    assert processes.pid_of(stack, "mlflow") is None
    ask(f"update alembic_version set version_num = '{newest}'")
    assert found()["team database mlflow"].status == "ok" and databases.behind(stack) == []
    ask("drop table alembic_version")


def test_what_is_not_ours_is_left_alone(stack) -> None:
    """A record of before a reboot, or of a pid that is another process's by now."""
    other = subprocess.Popen(["sleep", "600"], start_new_session=True)
    record = stack.folder / "parts" / "mlflow.json"
    boot, _, began = processes.identity(other.pid).partition(" ")
    part = next(p for p in parts.all_parts(stack) if p.name == "mlflow")
    try:
        for said in (f"another-boot {began}", f"{boot} {int(began) - 1}", "ended"):
            storage.write_json(record, {"pid": other.pid, "identity": said, "since": time.time()})
            assert processes.pid_of(stack, "mlflow") is None
            assert not processes.stop(stack, part) and other.poll() is None and not record.exists()
    finally:
        other.kill()
        other.wait()


def test_stop_ends_all_of_a_service_but_no_job(stack, tmp_path) -> None:
    """What it has started in sessions of its own too; a stage's job outlives its driver."""
    pids = tmp_path / "pids"
    script = (
        f"setsid sleep 601 & echo $! >>{pids}; (trap '' TERM; sleep 602) & echo $! >>{pids}\n"
        f"setsid python3 -c 'import time; time.sleep(603)' stepvideo.job & echo $! >>{pids}; wait"
    )
    part = processes.Part("toy", ["bash", "-c", script], answers=lambda: len(pids.read_text().split()) == 3)
    pids.touch()
    assert processes.start(stack, part) and processes.pid_of(stack, "toy")
    assert processes.stop(stack, processes.Part("toy", [], answers=lambda: True, stop_with=signal.SIGKILL))
    own, deaf, job = map(int, pids.read_text().split())
    try:
        team_stack.wait_until(lambda: not processes.identity(own) and not processes.identity(deaf))
        assert processes.identity(job)
    finally:
        os.kill(job, signal.SIGKILL)


def test_a_service_that_fails_is_told_with_the_end_of_its_log(stack) -> None:
    part = processes.Part("toy", ["bash", "-c", "echo the disk is full; exit 3"], answers=lambda: False)
    with pytest.raises(Exception, match=r"toy ended at its start(.|\n)*the disk is full"):
        processes.start(stack, part)


def test_a_port_that_is_taken_is_told(stack) -> None:
    """Something answers, and it is not ours."""
    part = processes.Part("toy", ["bash", "-c", "echo address in use; exit 1"], answers=lambda: True, place="here")
    with pytest.raises(Exception, match=r"(?s)(something else answers|ended at its start).*address in use"):
        for _ in range(100):  # until the shell has ended before it is looked at
            processes.start(stack, part)


@pytest.mark.parametrize(
    "words, said",
    [
        (["start", "--port", "80"], "port 80 cannot be the first"),
        (["start", "posgresql"], "there is no service 'posgresql'; did you mean postgresql"),
        (["stop"], "there is no team stack in"),
        (["status"], "there is no team stack in"),
        (["upgrade"], "there is no team stack in"),
    ],
)
def test_mistakes_are_told_in_a_line(words: list[str], said: str, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(parts, "missing", lambda names=(): [])
    code, text = team(capsys, *words, "--folder", str(tmp_path / "stack"))
    assert code == 2 and said in text and "Traceback" not in text
    assert not (tmp_path / "stack").exists()


def test_a_folder_of_something_else_is_refused(stack, tmp_path, capsys) -> None:
    (tmp_path / "mine").touch()
    code, text = team(capsys, "start", ONLY, "--folder", str(tmp_path))
    assert code == 2 and "is not empty and has no stack" in text
    code, text = team(capsys, "start", ONLY, "--folder", str(stack.folder), "--port", "9999")
    assert code == 2 and f"has a stack at port {stack.first_port}, not 9999" in text


def test_missing_packages_are_named_together(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(postgresql, "find", lambda name: None)
    monkeypatch.setattr(python_packages, "DEBIAN", tmp_path)
    monkeypatch.setattr(python_packages, "_here", lambda module: False)
    code, text = team(capsys, "start", "--folder", str(tmp_path / "stack"))
    assert code == 2
    for package in ("postgresql", "ceph-mon ceph-osd radosgw", "python3-flaskext.wtf python3-psycopg"):
        assert f"apt-get install {package}" in text
