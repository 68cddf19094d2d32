"""An S3 server: Ceph's gateway over one monitor and one store on disk, so that data stay between starts. Any user.

Ceph's daemons talk to one another without keys, on 127.0.0.1: whoever can log in to this machine could speak to them.
Clients of the gateway need the keys that it made.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

from stepvideo.errors import StepVideoError
from tasks.team.layout import BUCKET, HOST, USER, Stack, service_environment
from tasks.team.processes import Part

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "monmaptool")
SPACE = 1 << 40  # bytes at most; the file is sparse
TIMEOUT_S = 60
CONF = """\
[global]
fsid = {fsid}
mon host = v1:{host}:{monitor}
mon initial members = only
public addr = {host}
cluster addr = {host}
ms bind ipv6 = false
ms bind msgr2 = false
ms bind port min = {low}
ms bind port max = {high}
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
keyring = {root}/keyring
run dir = {root}
admin socket = {root}/$name.asok
log file = {root}/$name.log
crash dir = {root}
mon data = {root}/mon
osd data = {root}/osd
rgw data = {root}/rgw
osd objectstore = bluestore
bluestore block size = {space}
bluestore block create = true
bluestore fsck on mount = false
osd memory target = 1073741824
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd crush update on start = false
osd class update on start = false
osd class load list = *
osd class default list = *
mon allow pool size one = true
mon max pg per osd = 2000
mon data avail warn = 1
mon data avail crit = 1
[client.rgw]
rgw frontends = beast endpoint={host}:{port}
rgw thread pool size = 32
"""


def parts(stack: Stack) -> list[Part]:
    root = stack.folder / "ceph"
    conf = ["-c", str(root / "ceph.conf")]
    where = {"environment": service_environment}
    return [
        Part(
            name="s3-monitor",
            command=["ceph-mon", "-f", "-i", "only", *conf],
            answers=lambda: _ceph(stack, "mon", "stat", check=False) == 0,
            prepare=lambda: _make_monitor(stack, root),
            about="Ceph's monitor",
            place=f"{HOST}:{stack.port('s3-monitor')}",
            **where,
        ),
        Part(
            name="s3-store",
            command=["ceph-osd", "-f", "-i", "0", *conf],
            answers=lambda: _is_up(stack),
            prepare=lambda: _make_store(stack, root),
            about="Ceph's store",
            place=f"{root / 'osd' / 'block'}",
            **where,
        ),
        Part(
            name="s3",
            command=["radosgw", "-f", "-n", "client.rgw", *conf],
            answers=lambda: _answers(stack.url("s3")),
            complete=lambda: _make_user_and_bucket(stack),
            about=f"s3://{BUCKET}",
            place=stack.url("s3"),
            **where,
        ),
    ]


def missing() -> str:
    absent = [p for p in PROGRAMS if not shutil.which(p)]
    return f"{', '.join(absent)}: apt-get install ceph-mon ceph-osd radosgw (as root)" if absent else ""


def _make_monitor(stack: Stack, root: Path) -> None:
    if (root / "mon" / "team.ok").exists():
        return
    shutil.rmtree(root, ignore_errors=True)
    for name in ("mon", "osd", "rgw"):
        (root / name).mkdir(parents=True)
    root.chmod(0o700)
    fsid, monitor = str(uuid.uuid4()), stack.port("s3-monitor")
    low = stack.first_port + 10
    given = {"fsid": fsid, "host": HOST, "monitor": monitor, "port": stack.port("s3"), "root": root, "space": SPACE}
    (root / "ceph.conf").write_text(CONF.format(low=low, high=low + 20, **given))
    (root / "keyring").touch()
    place = f"[v1:{HOST}:{monitor}]"
    _run("monmaptool", "--create", "--clobber", "--fsid", fsid, "--addv", "only", place, str(root / "monmap"))
    conf = str(root / "ceph.conf")
    _run("ceph-mon", "-c", conf, "--mkfs", "-i", "only", "--monmap", str(root / "monmap"))
    (root / "mon" / "team.ok").touch()


def _make_store(stack: Stack, root: Path) -> None:
    if (root / "osd" / "team.ok").exists():
        return
    shutil.rmtree(root / "osd")
    (root / "osd").mkdir()
    name = str(uuid.uuid5(uuid.NAMESPACE_OID, str(root)))  # the same after an interrupted start
    _ceph(stack, "osd", "new", name, "0")
    _run("ceph-osd", "-c", str(root / "ceph.conf"), "-i", "0", "--mkfs", "--osd-uuid", name)
    _ceph(stack, "osd", "crush", "add-bucket", "here", "host")
    _ceph(stack, "osd", "crush", "move", "here", "root=default")
    _ceph(stack, "osd", "crush", "add", "osd.0", "1", "root=default", "host=here")
    (root / "osd" / "team.ok").touch()


def _make_user_and_bucket(stack: Stack) -> None:
    """The server draws the keys itself: given to its program they would be arguments, which everybody can read."""
    if "s3_secret_key" not in stack.secrets:
        conf = ["-c", str(stack.folder / "ceph" / "ceph.conf"), "-n", "client.rgw"]
        try:
            said = _run("radosgw-admin", *conf, "user", "info", f"--uid={USER}")
        except StepVideoError:
            said = _run("radosgw-admin", *conf, "user", "create", f"--uid={USER}", f"--display-name={USER}")
        key = json.loads(said)["keys"][0]
        stack.keep(s3_access_key=key["access_key"], s3_secret_key=key["secret_key"])
    client = s3_client(stack.s3())
    if BUCKET not in [b["Name"] for b in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=BUCKET)


def s3_client(environment: dict[str, str]):
    """botocore's client of the server and with the keys that `environment` names."""
    from botocore.config import Config
    from botocore.session import get_session

    return get_session().create_client(
        "s3",
        endpoint_url=environment.get("AWS_ENDPOINT_URL"),
        aws_access_key_id=environment.get("AWS_ACCESS_KEY_ID"),
        aws_secret_access_key=environment.get("AWS_SECRET_ACCESS_KEY"),
        aws_session_token=environment.get("AWS_SESSION_TOKEN"),
        region_name=environment.get("AWS_DEFAULT_REGION", "us-east-1"),
        config=Config(retries={"max_attempts": 2}, connect_timeout=5, read_timeout=30, s3={"addressing_style": "path"}),
    )


def _is_up(stack: Stack) -> bool:
    conf = str(stack.folder / "ceph" / "ceph.conf")
    try:
        said = json.loads(_run("ceph", "-c", conf, "--connect-timeout", "5", "osd", "dump", "-f", "json"))
    except (StepVideoError, ValueError):
        return False
    return any(osd["up"] for osd in said["osds"])


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return b"ListAllMyBucketsResult" in answer.read(1000)
    except (urllib.error.URLError, OSError):
        return False


def _ceph(stack: Stack, *words: str, check: bool = True) -> int:
    """A command to the monitor. A busy one refuses some without a reason; all of ours can be repeated."""
    conf = str(stack.folder / "ceph" / "ceph.conf")
    for last in (False, False, False, False, True) if check else (True,):
        try:
            _run("ceph", "-c", conf, "--connect-timeout", "10", *words)
            return 0
        except StepVideoError:
            if last and check:
                raise
            time.sleep(0.5)
    return 1


def _run(*command: str) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env=service_environment(),
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as e:
        raise StepVideoError(f"{command[0]} does not answer after {TIMEOUT_S} s") from e
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise StepVideoError(f"`{' '.join(command)}` failed: {said[:300]}")
    return done.stdout
