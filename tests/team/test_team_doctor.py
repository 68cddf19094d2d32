"""`stepvideo doctor` and a team's servers: what is wrong with each is a line, and the line says what to do."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from s3_server import ERROR, forget_clients

from stepvideo import cli
from stepvideo.doctor import Check, installed
from tasks.team import checks
from tasks.team.answers import basic

MLFLOW, PREFECT = installed("mlflow") or "", installed("prefect") or ""


class Answers:
    """A server that gives each path the answer it is told to: (status, text)."""

    def __init__(self) -> None:
        told = self.told = {}
        seen = self.seen = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # which knows of "Expect: 100-continue"

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                seen.append((self.command, self.path, self.headers.get("Authorization")))
                path = self.path.partition("?")[0]
                code, text = told.get(f"{self.command} {path}") or told.get(path) or told.get(self.command) or (404, "")
                self.send_response(code)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode() if self.command != "HEAD" else b"")

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = answer

            def log_message(self, *args: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Answers]:
    made = Answers()
    yield made
    made.close()


def lines(found: list[Check]) -> dict[str, Check]:
    return {c.name: c for c in found}


def good(server: Answers) -> dict[str, str]:
    workers = json.dumps([{"name": "w", "status": "ONLINE"}])
    server.told.update(
        {
            "/api/2.0/mlflow/experiments/search": (200, "{}"),
            "/version": (200, MLFLOW),
            "/api/2.0/mlflow-artifacts/artifacts": (200, '{"files": []}'),
            "/api/admin/version": (200, f'"{PREFECT}"'),
            "/api/work_pools/stepvideo/workers/filter": (200, workers),
        }
    )
    names = {"MLFLOW_TRACKING_USERNAME": "team", "MLFLOW_TRACKING_PASSWORD": "word", "PREFECT_API_AUTH_STRING": "a:b"}
    return {"MLFLOW_TRACKING_URI": server.url, "PREFECT_API_URL": f"{server.url}/api", **names}


def test_without_servers_there_are_no_lines() -> None:
    assert checks.team_checks({}) == [] and checks.team_checks({"MLFLOW_TRACKING_URI": "sqlite:////x/mlflow.db"}) == []


def test_all_is_well(server) -> None:
    found = lines(checks.team_checks(good(server)))
    assert [c.status for c in found.values()] == ["ok", "ok", "ok", "untested"], found
    assert "STEPVIDEO_MIRROR" in found["team bucket"].detail
    logins = {login for _, path, login in server.seen if "mlflow" in path}
    assert logins == {basic("team:word")["Authorization"]}, "the password goes to the server, in a header"


@pytest.mark.parametrize(
    "path, answer, line, detail, fix",
    [
        (
            "/api/2.0/mlflow/experiments/search",
            (401, "no"),
            "team mlflow",
            "refuses user 'team'",
            "MLFLOW_TRACKING_PASS",
        ),
        (
            "/api/2.0/mlflow/experiments/search",
            (500, '{"message": "db is gone"}'),
            "team mlflow",
            "500: db is",
            "who runs",
        ),
        ("/version", (200, "2.1.0"), "team mlflow", f"2.1.0; here is {MLFLOW}", "have the server at"),
        ("/api/2.0/mlflow-artifacts/artifacts", (500, "NoSuchBucket"), "team mlflow artifacts", "bucket (500)", "keys"),
        (
            "/api/admin/version",
            (401, "Unauthorized"),
            "team prefect",
            "wrong user, password or token",
            "API_AUTH_STRING",
        ),
        ("/api/admin/version", (503, "database"), "team prefect", "503: database", "who runs the server"),
        ("/api/admin/version", (404, "x"), "team prefect", "ends with /api", "check the address"),
        (
            "/api/work_pools/stepvideo/workers/filter",
            (200, "[]"),
            "team worker",
            "scheduled runs wait",
            "stepvideo worker",
        ),
        (
            "/api/work_pools/stepvideo/workers/filter",
            (404, "{}"),
            "team worker",
            "none in the pool",
            "stepvideo worker",
        ),
    ],
)
def test_a_server_that_refuses(path, answer, line, detail, fix, server) -> None:
    environment = good(server)
    server.told[path] = answer
    check = lines(checks.team_checks(environment))[line]
    assert check.status != "ok" and detail in check.detail and fix in check.fix, check


def test_addresses_that_are_wrong(server) -> None:
    right = good(server)
    for name, line in (("MLFLOW_TRACKING_URI", "team mlflow"), ("PREFECT_API_URL", "team prefect")):
        nobody = lines(checks.team_checks(right | {name: "http://127.0.0.1:9"}))[line]
        assert nobody.status == "missing" and "no answer from http://127.0.0.1:9" in nobody.detail and nobody.fix
        unset = lines(checks.team_checks({k: v for k, v in right.items() if k != name}))[line]
        assert unset.status == "missing" and f"{name} is not set" in unset.detail and f"export {name}" in unset.fix
        loud = lines(checks.team_checks(right | {name: "http://me:word@127.0.0.1:9"}))[line]
        assert loud.status == "missing" and "written to every run" in loud.detail and "me:word" not in str(loud)


@pytest.mark.parametrize(
    "told, detail, fix",
    [
        ({"GET": (404, ERROR.format(code="NoSuchBucket"))}, "there is no such bucket", "check its name"),
        ({"GET": (403, ERROR.format(code="SignatureDoesNotMatch"))}, "the secret is wrong", "AWS_SECRET_ACCESS_KEY"),
        ({"GET": (403, ERROR.format(code="InvalidAccessKeyId"))}, "does not know these", "AWS_ACCESS_KEY_ID"),
        ({"GET": (400, ERROR.format(code="ExpiredToken"))}, "the session token has expired", "log in again"),
        ({"GET": (400, ERROR.format(code="InvalidToken"))}, "token is not valid", "AWS_SESSION_TOKEN"),
        (
            {"GET": (200, "<ListBucketResult/>"), "PUT": (403, ERROR.format(code="AccessDenied"))},
            "can be read, not written",
            "keys that may write",
        ),
    ],
)
def test_a_bucket_that_cannot_be_used(told, detail, fix, server, monkeypatch) -> None:
    server.told.update(told)
    keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t", "AWS_MAX_ATTEMPTS": "1"}
    keys |= {"AWS_ENDPOINT_URL": server.url, "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    forget_clients()
    (check,) = checks.bucket({"STEPVIDEO_MIRROR": "s3://stepvideo/store"})
    forget_clients()
    assert check.status == "missing" and detail in check.detail and fix in check.fix, check


def test_the_command_shows_the_lines(server, monkeypatch, tmp_path, capsys) -> None:
    for name, value in good(server).items():
        monkeypatch.setenv(name, value)
    server.told["/api/admin/version"] = (401, "")
    assert cli.main(["doctor", "--json", "--store", str(tmp_path)]) == 1
    found = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert found["team mlflow"]["status"] == "ok" and "PREFECT_API_AUTH_STRING" in found["team prefect"]["fix"]
