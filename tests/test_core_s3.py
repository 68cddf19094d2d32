"""Objects of a bucket: listed, fetched as listed, or refused with the reason and the fix. moto is the server."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from s3_server import S3Server, forget_clients

from stepvideo import s3
from stepvideo.errors import ArtifactError, ConfigError

ODD = (
    "a b.mp4",
    "q'\"q.mp4",
    "ü空.mp4",
    "st*r?[1].mp4",
    "per%20cent+.mp4",
    "x//y.mp4",
    "/lead.mp4",
    "x::y.mp4",
    "#.mp4",
)


@pytest.fixture
def bucket(s3_client, request: pytest.FixtureRequest) -> str:
    name = "b" + hashlib.md5(request.node.name.encode()).hexdigest()[:12]
    s3_client("create_bucket", Bucket=name)
    return name


def put(s3_client, bucket: str, key: str, body: bytes) -> s3.Object:
    s3_client("put_object", Bucket=bucket, Key=key, Body=body)
    return next(o for o in s3.listing(f"s3://{bucket}") if o.key == key)


def test_odd_names_are_listed_and_fetched_byte_for_byte(s3_client, bucket: str, tmp_path: Path) -> None:
    for name in (*ODD, "empty.mp4"):
        s3_client(
            "put_object", Bucket=bucket, Key=f"in/{name}", Body=b"" if name == "empty.mp4" else name.encode() * 99
        )
    s3_client("put_object", Bucket=bucket, Key="in-other/x.mp4", Body=b"x")
    found = s3.listing(f"s3://{bucket}/in/")
    assert [o.key for o in found] == sorted(f"in/{n}" for n in (*ODD, "empty.mp4"))
    for i, wanted in enumerate(found):
        sha256 = s3.fetch(wanted, tmp_path / str(i))
        body = b"" if "empty" in wanted.key else wanted.key.removeprefix("in/").encode() * 99
        assert (tmp_path / str(i)).read_bytes() == body and sha256 == hashlib.sha256(body).hexdigest()
    assert len(list(tmp_path.iterdir())) == len(found)


def test_a_listing_takes_one_request_for_a_thousand_objects(s3_client, bucket: str, s3_server: S3Server) -> None:
    from moto.s3.models import s3_backends

    for i in range(1001):
        s3_backends["123456789012"]["aws"].put_object(bucket, f"{i:04d}.mp4", b"x")
    before = s3_server.gets.total()
    assert len(s3.listing(f"s3://{bucket}")) == 1001
    assert s3_server.gets.total() == before + 2


def test_what_breaks_off_goes_on_where_it_was(s3_client, bucket: str, s3_server: S3Server, tmp_path: Path) -> None:
    body = os.urandom(300_000)
    wanted = put(s3_client, bucket, "long.mp4", body)
    s3_server.cut["long.mp4"] = [70_000, 5, 100_000, 1]
    s3_server.busy["long.mp4"] = 2
    assert s3.fetch(wanted, tmp_path / "x") == hashlib.sha256(body).hexdigest()
    assert (tmp_path / "x").read_bytes() == body
    assert s3_server.gets[f"/{bucket}/long.mp4"] == 2 + 4 + 1


@pytest.mark.parametrize("what", ["gone", "changed", "refused", "broken", "damaged", "short"])
def test_one_object_that_cannot_be_had_says_why(
    s3_client, bucket: str, s3_server: S3Server, tmp_path: Path, what
) -> None:
    wanted = put(s3_client, bucket, "it.mp4", b"0123456789" * 10)
    if what == "gone":
        s3_client("delete_object", Bucket=bucket, Key="it.mp4")
    if what == "changed":
        s3_client("put_object", Bucket=bucket, Key="it.mp4", Body=b"another")
    if what in ("refused", "broken"):
        s3_server.refuse["it.mp4"] = 403 if what == "refused" else 500
    if what == "damaged":
        s3_server.spoil["it.mp4"] = 99
    if what == "short":
        wanted = s3.Object(wanted.bucket, wanted.key, wanted.size + 1, wanted.etag)
    with pytest.raises(s3.Unavailable) as refused:
        s3.fetch(wanted, tmp_path / "x")
    assert refused.value.reason == {"broken": "refused", "short": "changed"}.get(what, what)
    assert f"s3://{bucket}/it.mp4" in refused.value.detail
    assert not list(tmp_path.iterdir())


def test_damage_on_the_way_is_repaired(s3_client, bucket: str, s3_server: S3Server, tmp_path: Path) -> None:
    wanted = put(s3_client, bucket, "it.mp4", b"0123456789" * 10)
    s3_server.spoil["it.mp4"] = 1
    s3.fetch(wanted, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"0123456789" * 10


def test_a_store_that_is_away_is_no_fault_of_the_object(
    s3_client, bucket: str, s3_server: S3Server, tmp_path: Path
) -> None:
    wanted = put(s3_client, bucket, "it.mp4", b"x")
    s3_server.busy["it.mp4"] = 99
    with pytest.raises(
        ArtifactError, match=rf"cannot use s3://{bucket}/it.mp4: {s3_server.url} answers 503 SlowDown; try"
    ):
        s3.fetch(wanted, tmp_path / "x")
    blocked = tmp_path / "file"
    blocked.touch()
    s3_server.busy.clear()
    with pytest.raises(ArtifactError, match="cannot write .*: (File exists|Not a directory)"):
        s3.fetch(wanted, blocked / "x")


@pytest.mark.parametrize(
    ("changed", "url", "said"),
    [
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "s3://bucket/x", r"no credentials; set AWS_ACC"),
        ({"AWS_PROFILE": "nobody"}, "s3://bucket/x", "no credentials; set .*AWS_PROFILE"),
        ({}, "s3://nobucket/x", r"no such bucket at http://127.*AWS_ENDPOINT_URL"),
        ({}, "s3://No_Bucket!/x", "no name of a bucket; write s3://BUCKET/FOLDER"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "s3://bucket/x", r"no answer from http://127.0.0.1:9 .*network"),
        ({"AWS_ENDPOINT_URL": "nonsense"}, "s3://bucket/x", "[Ii]nvalid endpoint.*; check AWS_ENDPOINT_URL"),
    ],
)
def test_errors_name_the_url_and_the_fix(s3_client, monkeypatch: pytest.MonkeyPatch, changed, url, said) -> None:
    for name, value in changed.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    forget_clients()
    with pytest.raises(ArtifactError, match=f"cannot use {url}: .*{said}") as error:
        s3.listing(url)
    assert "testsecret" not in str(error.value) and "testkey" not in str(error.value)


def test_a_server_that_is_not_s3(s3_client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import functools
    import http.server
    import threading

    class Pages(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "15")
            self.end_headers()
            self.wfile.write(b"<html>hi</html>"[:15])

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Pages, directory=tmp_path)) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{other.server_port}")
        forget_clients()
        with pytest.raises(ArtifactError, match="is no S3 server; check AWS_ENDPOINT_URL"):
            s3.listing("s3://bucket/x")
        other.shutdown()


@pytest.mark.parametrize("url", ["gs://b/x", "s3:///x", "s3://key:secret@b/x"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="s3://BUCKET/FOLDER|credentials do not belong"):
        s3.split(url)
