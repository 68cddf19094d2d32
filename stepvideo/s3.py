"""Objects of a bucket: what lies below a URL, and each one's bytes as they were listed, or why they cannot be had.

Endpoint and credentials are those of the usual AWS environment variables and files; they are written down nowhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import uuid
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from stepvideo import storage
from stepvideo.errors import ArtifactError, ConfigError

ATTEMPTS = 6  # in a row that gain no byte; each is repeated by botocore, too (AWS_MAX_ATTEMPTS)
PAUSE_S = 0.5  # before the second attempt; twice as long before each further one
PIECE = 1 << 20  # bytes
BUSY = ("SlowDown", "ServiceUnavailable", "Throttling", "ThrottlingException", "RequestTimeout")
KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
NOT_S3 = "what answers at {endpoint} is no S3 server; check AWS_ENDPOINT_URL"
# What concerns every object of the bucket, by the server's code.
ADVICE = {
    "NoSuchBucket": "there is no such bucket at {endpoint}; check its name, and AWS_ENDPOINT_URL",
    "InvalidBucketName": "that is no name of a bucket; write s3://BUCKET/FOLDER",
    "InvalidAccessKeyId": f"{{endpoint}} does not know these credentials; set {KEYS}, and check AWS_ENDPOINT_URL",
    "SignatureDoesNotMatch": f"{{endpoint}} refuses these credentials: the secret is wrong; set {KEYS}",
    "ExpiredToken": "the session token has expired; log in again",
    "InvalidToken": "the session token is not valid; check AWS_SESSION_TOKEN, or log in again",
    "RequestTimeTooSkewed": "this machine's clock is wrong; set it",
    "PermanentRedirect": "the bucket is in another region; set AWS_DEFAULT_REGION",
    "AuthorizationHeaderMalformed": "the bucket is in another region; set AWS_DEFAULT_REGION",
}


@dataclass(frozen=True)
class Object:
    """An object as a listing has it. `etag` names the version: another one is another object."""

    bucket: str
    key: str
    size: int
    etag: str

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


class Unavailable(Exception):
    """This object cannot be had, others can. `reason`: gone, changed, refused or damaged."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def split(url: str) -> tuple[str, str]:
    """Bucket and prefix; the prefix is empty or ends with "/". Raises ConfigError for any other URL."""
    scheme, _, rest = url.partition("://")
    bucket, _, folder = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise ConfigError(f"{url} is no s3://BUCKET/FOLDER; other object stores cannot be read from")
    if "@" in bucket or ":" in bucket:
        raise ConfigError(f"credentials do not belong in a URL, where everybody can read them; set {KEYS}")
    folder = folder.rstrip("/")
    return bucket, f"{folder}/" if folder else ""


def listing(url: str) -> list[Object]:
    """Every object below a URL, sorted by key. One request for 1,000 objects; none is downloaded.

    Raises:
        ArtifactError: no credentials, no such bucket, no answer, …, each with the URL and the fix.
        ConfigError: the URL is not one of S3.
    """
    bucket, prefix = split(url)

    async def pages() -> list[Object]:
        pager = client.get_paginator("list_objects_v2")
        found = []
        async for page in pager.paginate(Bucket=bucket, Prefix=prefix):
            if "Name" not in page:  # any page that parses as XML
                raise ArtifactError(f"cannot use {url}: {NOT_S3.format(endpoint=client.meta.endpoint_url)}")
            found += [Object(bucket, o["Key"], o["Size"], o["ETag"]) for o in page.get("Contents", ())]
        return sorted(found, key=lambda o: o.key)

    with explained(url):
        client, run = _connect(bucket)
        return run(pages())


def fetch(wanted: Object, path: Path) -> str:
    """Download the version that was listed, whole or not at all; its sha256.

    What breaks off goes on where it was. Size and, where the ETag is one, md5 are checked; botocore checks whatever
    checksum the server sends.

    Raises:
        Unavailable: the object is to blame.
        ArtifactError: the store is, after `ATTEMPTS`; or `path` cannot be written.
    """
    tmp = path.with_name(f".{path.name}.tmp-{uuid.uuid4().hex[:8]}")
    try:
        with _file(tmp) as file, explained(wanted.url):
            client, run = _connect(wanted.bucket)
            try:
                sha256 = run(_receive(client, wanted, file))
            except Unavailable as e:
                if e.reason != "damaged":
                    raise
                sha256 = run(_receive(client, wanted, file))  # once more: it may have been damaged on its way
        os.replace(tmp, path)
    finally:
        with contextlib.suppress(OSError):
            tmp.unlink()
    return sha256


async def _receive(client: Any, wanted: Object, file: BinaryIO) -> str:
    from botocore.exceptions import ClientError, NoCredentialsError

    file.seek(0)
    file.truncate()
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    fails, etag_is_md5 = 0, False
    while True:
        at = file.tell()
        rest = {"Range": f"bytes={at}-"} if at else {}
        broken: Exception | None = None
        try:
            answer = await client.get_object(Bucket=wanted.bucket, Key=wanted.key, IfMatch=wanted.etag, **rest)
            etag_is_md5 = _is_md5(wanted.etag, answer)
            async with answer["Body"] as body:
                while piece := await body.read(PIECE):
                    _write(file, piece)
                    sha256.update(piece)
                    md5.update(piece)
        except (ArtifactError, NoCredentialsError):
            raise
        except ClientError as e:
            _judge(e, wanted, fails + 1 >= ATTEMPTS)
            broken = e
        except Exception as e:  # whatever breaks a connection: the rest is asked for again
            broken = e
        if file.tell() >= wanted.size:
            if broken:  # botocore's own check of the whole
                raise Unavailable("damaged", f"{wanted.url}: {type(broken).__name__}")
            break
        fails = fails + 1 if file.tell() == at else 0
        if fails >= ATTEMPTS:
            if broken:
                raise broken
            raise Unavailable("damaged", f"{wanted.url} ends after {file.tell()} of {wanted.size} bytes")
        await asyncio.sleep(PAUSE_S * 2 ** max(fails - 1, 0))
    if file.tell() != wanted.size:
        raise Unavailable("damaged", f"{wanted.url} has {file.tell()} bytes, {wanted.size} were listed")
    if etag_is_md5 and md5.hexdigest() != wanted.etag.strip('"'):
        raise Unavailable("damaged", f"{wanted.url}: what came has md5 {md5.hexdigest()}, listed is {wanted.etag}")
    return sha256.hexdigest()


def _judge(error: Any, wanted: Object, last: bool) -> None:
    """Raises Unavailable if the object is to blame, `error` if the whole store is; else it is worth another attempt."""
    code, status = _code(error)
    if code in ADVICE:
        raise error
    if status == 404:
        raise Unavailable("gone", f"{wanted.url} was there when the bucket was listed and is not any more")
    if status in (412, 416):
        raise Unavailable("changed", f"{wanted.url} is not the version that was listed ({wanted.etag})")
    if status == 429 or status == 503 or code in BUSY:
        return
    if status < 500 or last:
        raise Unavailable("refused", f"{wanted.url}: the server answers {status} {code}")


def _code(error: Any) -> tuple[str, int]:
    said = error.response
    return said.get("Error", {}).get("Code", ""), said.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def _is_md5(etag: str, answer: dict[str, Any]) -> bool:
    """Not so of objects that came in parts, nor of those encrypted with keys of one's own."""
    plain = answer.get("ServerSideEncryption", "AES256") == "AES256" and "SSECustomerAlgorithm" not in answer
    return plain and len(etag.strip('"')) == 32


@contextlib.contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn what s3fs and botocore raise into an ArtifactError with the URL, the reason and the fix."""
    try:
        yield
    except (ArtifactError, ConfigError, Unavailable, MemoryError):
        raise
    except ImportError as e:
        raise ArtifactError(f"cannot use {url}: {e}; s3:// needs the extra `flows` of this package") from e
    except Exception as e:
        if isinstance(e, OSError) and e.filename:  # of this machine
            raise ArtifactError(f"cannot use {e.filename}: {e.strerror}; free space or choose another folder") from e
        if not url.startswith("s3://"):
            raise ArtifactError(f"cannot use {url}: {e}") from e
        cause = e.__cause__ if isinstance(e, OSError) and e.__cause__ is not None else e  # s3fs translates errors
        raise ArtifactError(f"cannot use {url}: {_advice(cause, url)}") from e


def _advice(error: BaseException, url: str) -> str:
    from botocore import exceptions as said

    client = getattr(storage.filesystem(f"s3://{split(url)[0]}"), "_s3", None)
    endpoint = client.meta.endpoint_url if client else "the server"
    if isinstance(error, said.NoCredentialsError | said.PartialCredentialsError | said.ProfileNotFound):
        return f"no credentials; set {KEYS}"
    if isinstance(error, said.ClientError):
        code, status = _code(error)
        if code in ADVICE:
            return ADVICE[code].format(endpoint=endpoint)
        if status == 403:
            return f"{endpoint} refuses it with 403 {code}; these credentials may not do that here"
        if status == 404:
            return f"{endpoint} answers 404; check the bucket's name, and that AWS_ENDPOINT_URL is an S3 server's"
        return f"{endpoint} answers {status} {code}; try again later"
    if "ResponseParserError" in {c.__name__ for c in type(error).__mro__}:
        return NOT_S3.format(endpoint=endpoint)
    if isinstance(error, said.ParamValidationError):
        return ADVICE["InvalidBucketName"]
    if isinstance(error, ValueError):
        return f"{error}; check AWS_ENDPOINT_URL"
    return f"no answer from {endpoint} ({type(error).__name__}); check the network, and AWS_ENDPOINT_URL"


def _connect(bucket: str) -> tuple[Any, Any]:
    """botocore's client as s3fs configures it, and what runs its coroutines. Of this process and thread only."""
    fs = storage.filesystem(f"s3://{bucket}")

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, fs.loop).result()

    return fs.s3, run


@contextlib.contextmanager
def _file(path: Path) -> Iterator[BinaryIO]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            yield file
    except OSError as e:
        raise ArtifactError(f"cannot write {path}: {e.strerror or e}; free space or choose another store") from e


def _write(file: BinaryIO, piece: bytes) -> None:
    try:
        file.write(piece)
    except OSError as e:  # not to be taken for the connection's
        raise ArtifactError(f"cannot write {file.name}: {e.strerror or e}; free space or choose another store") from e
