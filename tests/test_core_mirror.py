"""Artifacts published to a bucket or a folder, and brought back byte for byte."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from published import artifact as make
from published import contents

from stepvideo import mirror, storage
from stepvideo.artifact import Artifact, Store
from stepvideo.errors import ArtifactError

FILES = {
    "catalog.parquet": b"rows" * 99,
    "tables/t.parquet": b"t",
    "media/aa/x y'ü.mp4": b"",
    "big.tar": b"b" * 300_000,
}


@pytest.fixture(params=["s3", "folder"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "nas")
    call = request.getfixturevalue("s3_client")
    call("create_bucket", Bucket="published")
    return f"s3://published/{tmp_path.name}"


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return make(Store(tmp_path / "here"), "curate", FILES)


def test_there_and_back(url: str, artifact: Artifact, tmp_path: Path) -> None:
    place = mirror.publish(artifact, url)
    assert place == f"{url}/curate/0123456789abcdef"
    back = mirror.restore(place, Store(tmp_path / "there"))
    assert contents([back]) == contents([artifact])
    assert Store(tmp_path / "there").find("curate", "0123456789abcdef")
    assert mirror.restore(place, Store(tmp_path / "there")).dir == back.dir  # again: it is there


def test_an_interrupted_publication_is_not_there_and_goes_on(s3_client, artifact, tmp_path, monkeypatch) -> None:
    s3_client("create_bucket", Bucket="interrupted")
    fs = storage.filesystem("s3://interrupted")
    real, sent = fs.put_file, []

    def put(path, *args, **kwargs):
        if len(sent) == 2:
            raise OSError("the network is gone")
        sent.append(path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(storage, "TRANSFERS", 1)
    monkeypatch.setattr(fs, "put_file", put)
    with pytest.raises(ArtifactError, match="cannot use s3://interrupted/curate/0123456789abcdef: no answer"):
        mirror.publish(artifact, "s3://interrupted")
    with pytest.raises(ArtifactError, match="was interrupted"):
        mirror.restore("s3://interrupted/curate/0123456789abcdef", Store(tmp_path / "there"))
    monkeypatch.setattr(fs, "put_file", lambda path, *a, **k: (sent.append(path), real(path, *a, **k)))
    place = mirror.publish(artifact, "s3://interrupted")
    assert len(sent) == len(set(sent)) == len(FILES) + 1  # nothing was sent twice
    assert mirror.restore(place, Store(tmp_path / "there")).digest == artifact.digest


def test_parts_have_the_etag_that_is_expected(s3_client, tmp_path: Path, monkeypatch) -> None:
    s3_client("create_bucket", Bucket="inparts")
    monkeypatch.setattr(storage, "UPLOAD_PART", 5 << 20)
    (tmp_path / "x").write_bytes(os.urandom(11 << 20))
    assert storage.upload(tmp_path, "s3://inparts/t", ["x"]) == 11 << 20
    assert s3_client("head_object", Bucket="inparts", Key="t/x")["ETag"].endswith('-3"')
    assert storage.upload(tmp_path, "s3://inparts/t", ["x"]) == 0


def test_what_differs_is_refused(url: str, artifact: Artifact, tmp_path: Path) -> None:
    place = mirror.publish(artifact, url)
    other = make(Store(tmp_path / "other"), "curate", {"catalog.parquet": b"other"})
    with pytest.raises(ArtifactError, match="holds another result"):
        mirror.publish(other, url)
    (other.out / "catalog.parquet").write_bytes(b"OTHER")
    with pytest.raises(ArtifactError, match="not published: catalog.parquet does not match"):
        mirror.publish(other, f"{url}/elsewhere")
    fs = storage.filesystem(place)
    if storage.is_remote(url):
        fs.pipe_file(f"{place}/out/catalog.parquet", b"damaged")
    else:
        changed = Path(place) / "out/catalog.parquet"
        changed.unlink()
        changed.write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match="catalog.parquet is damaged.*publish it again"):
        mirror.restore(place, Store(tmp_path / "there"))
    assert not Store(tmp_path / "there").find("curate", "0123456789abcdef")


@pytest.mark.parametrize("files", [{"../x": {"sha256": "0", "size": 1}}, {"/x": {"sha256": "0", "size": 1}}])
def test_a_manifest_cannot_name_files_elsewhere(tmp_path: Path, files) -> None:
    place = tmp_path / "nas" / "curate" / "k"
    storage.write_json(place / "manifest.json", {"stage": "curate", "key": "k", "files": files, "digest": "x"})
    with pytest.raises(ArtifactError, match="no manifest of an artifact"):
        mirror.restore(str(place), Store(tmp_path / "there"))


def test_no_such_bucket(s3_client, artifact: Artifact) -> None:
    with pytest.raises(ArtifactError, match="cannot use s3://missing/curate.*no such bucket"):
        mirror.publish(artifact, "s3://missing")


@pytest.mark.parametrize(("manifest", "said"), [('{"schema": 99}', "newer stepvideo; upgrade"), ("[1]", "no manifest")])
def test_manifests_of_others_are_told_apart(tmp_path: Path, manifest: str, said: str) -> None:
    storage.write_atomic(tmp_path / "nas" / "curate" / "k" / "manifest.json", manifest)
    with pytest.raises(ArtifactError, match=said):
        mirror.restore(str(tmp_path / "nas" / "curate" / "k"), Store(tmp_path / "there"))
