"""A whole team stack with something wrong: what the doctor says of the real servers, and that its fix mends it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import team_stack
from s3_server import forget_clients

from flows.team import start_command, stop_command, upgrade_command
from stepvideo.doctor import Check
from tasks.team import checks, databases, s3
from tasks.team.layout import Stack

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with team_stack.shared() as running:
        yield running


def ask(stack: Stack, monkeypatch: pytest.MonkeyPatch, **changes: str) -> dict[str, Check]:
    """The doctor's lines with the stack's variables, some changed."""
    environment = stack.clients() | changes
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    forget_clients()
    found = {c.name: c for c in checks.team_checks()}
    forget_clients()
    return found


def test_all_is_well(stack, monkeypatch) -> None:
    found = ask(stack, monkeypatch)
    assert {c.status for c in found.values()} == {"ok"} and len(found) == 9, found


@pytest.mark.parametrize(
    "changes, line, detail",
    [
        ({"MLFLOW_TRACKING_PASSWORD": "wrong"}, "team mlflow", "wrong user, password or token"),
        ({"MLFLOW_TRACKING_USERNAME": "nobody"}, "team mlflow", "wrong user, password or token"),
        ({"PREFECT_API_AUTH_STRING": "team:wrong"}, "team prefect", "wrong user, password or token"),
        ({"STEPVIDEO_MIRROR": "s3://no-such-bucket/x"}, "team bucket", "there is no such bucket"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "team bucket", "the secret is wrong"),
        ({"AWS_ACCESS_KEY_ID": "wrong"}, "team bucket", "does not know these credentials"),
    ],
)
def test_what_is_wrong_is_a_line(changes, line, detail, stack, monkeypatch) -> None:
    """Ceph's gateway takes no notice of tokens, unless it gives some: tests/team/test_team_doctor.py has one expire."""
    found = ask(stack, monkeypatch, **changes)
    assert found[line].status == "missing" and detail in found[line].detail and found[line].fix, found[line]
    assert [c.name for c in found.values() if c.status != "ok"] == [line]


def test_keys_that_may_only_read(stack, monkeypatch) -> None:
    conf = ["-c", str(stack.folder / "ceph" / "ceph.conf"), "-n", "client.rgw", "user"]
    s3._run("radosgw-admin", *conf, "create", "--uid=reader", "--display-name=reader", "--op-mask=read")
    key = json.loads(s3._run("radosgw-admin", *conf, "info", "--uid=reader"))["keys"][0]
    client = s3.s3_client(stack.s3())
    allow = {"Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject", "s3:ListBucket", "s3:PutObject"]}
    where = {"Resource": ["arn:aws:s3:::stepvideo", "arn:aws:s3:::stepvideo/*"]}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allow | where]})
    client.put_bucket_policy(Bucket="stepvideo", Policy=policy)
    try:
        keys = {"AWS_ACCESS_KEY_ID": key["access_key"], "AWS_SECRET_ACCESS_KEY": key["secret_key"]}
        check = ask(stack, monkeypatch, **keys)["team bucket"]
    finally:
        client.delete_bucket_policy(Bucket="stepvideo")
        s3._run("radosgw-admin", *conf, "rm", "--uid=reader")
    assert check.status == "missing" and "can be read, not written" in check.detail and "may write" in check.fix


@pytest.mark.parametrize("name", ["mlflow", "prefect", "s3"])
def test_a_server_that_is_down(name: str, stack, monkeypatch) -> None:
    stop_command(str(stack.folder), (name,))
    try:
        found = ask(stack, monkeypatch)
    finally:
        start_command(str(stack.folder), None, None, (name,))
    line = found["team bucket" if name == "s3" else f"team {name}"]
    assert line.status == "missing" and "no answer from" in line.detail and "team start" in line.fix, line
    assert name in found["team services"].detail and found["team services"].fix == "stepvideo team start"
    assert {c.status for c in ask(stack, monkeypatch).values()} == {"ok"}


def test_a_database_of_an_older_version_is_upgraded(stack, monkeypatch) -> None:
    """One revision back, as after an interrupted or a forgotten migration."""
    stop_command(str(stack.folder), ("worker", "prefect"))
    environment = os.environ | stack.passwords
    environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = stack.database("prefect", "asyncpg")
    down = [sys.executable, "-m", "prefect", "server", "database", "downgrade", "--yes", "-r", "-1"]
    subprocess.run(down, env=environment, check=True)
    check = ask(stack, monkeypatch)["team database prefect"]
    assert check.status == "missing" and check.fix == "stepvideo team upgrade"
    with pytest.raises(Exception, match="prefect: tables of an older version"):
        start_command(str(stack.folder), None, None, ("prefect",))
    assert databases.behind(stack) == ["prefect"]
    assert upgrade_command(str(stack.folder)) == 0
    assert databases.behind(stack) == [] and list((stack.folder / "backups").glob("prefect-*.dump"))
    start_command(str(stack.folder), None, None)
    assert ask(stack, monkeypatch)["team prefect"].status == "ok"
