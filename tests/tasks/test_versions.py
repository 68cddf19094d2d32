"""Curated data under a name: to DVC's remote and, on a fresh clone, back byte for byte."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from published import artifact, contents, run

from stepvideo.artifact import Artifact, Store
from stepvideo.errors import ArtifactError
from tasks import version_pack, versions
from tasks.version_dvc import Depot
from tasks.versions import bring_back, every, next_name, record


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("template")
    run(root, "git", "init", "-q")
    run(root, "dvc", "init", "-q")
    run(root, "git", "commit", "-qm", "dvc")
    return root


@pytest.fixture
def checkout(template: Path, tmp_path: Path) -> Path:
    """With a remote in a folder."""
    run(tmp_path, "git", "clone", "-q", str(template), "origin")
    run(tmp_path / "origin", "git", "config", "user.name", "publisher")
    config = tmp_path / "origin" / ".dvc" / "config"
    config.write_text(f"[core]\n    remote = r\n['remote \"r\"']\n    url = {tmp_path / 'remote'}\n")
    return tmp_path / "origin"


def unmade(checkout: Path, name: str) -> Path:
    """A version whose data are nowhere."""
    path = checkout / "versions" / f"{name}.dvc"
    path.parent.mkdir()
    path.write_text(f"outs:\n- md5: {'0' * 32}.dir\n  hash: md5\n  path: {name}\n")
    return path


@pytest.fixture
def curated(tmp_path: Path) -> list[Artifact]:
    store = Store(tmp_path / "store")
    media = {f"media/{i:02x}/{i}.mp4": bytes([i % 256]) * i for i in range(version_pack.MANY + 1)}
    clips = artifact(store, "curate", {"catalog.parquet": b"rows", "funnel.json": b"{}", **media})
    return [clips, artifact(store, "tags", {"tables/a.parquet": b"a", "tables/b.parquet": b"b"})]


def test_a_fresh_clone_gets_every_version_byte_for_byte(checkout, curated, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(version_pack, "TAR_BYTES", 30_000)
    made = record(curated, None, checkout, message="first: 'quoted' — 第一")
    path = made.path
    assert (made.new, path) == (True, checkout / "versions" / "v1.dvc")
    assert str(tmp_path) not in path.read_text() and curated[0].digest in path.read_text()
    other = artifact(Store(tmp_path / "later"), "curate", {"catalog.parquet": b"more rows"})
    record([other], None, checkout)
    assert not (checkout / "versions" / ".publishing").exists()
    run(checkout, "git", "add", ".")
    assert sorted(run(checkout, "git", "diff", "--cached", "--name-only").split()) == [
        ".dvc/config",
        "versions/.gitignore",
        "versions/v1.dvc",
        "versions/v2.dvc",
    ]
    run(checkout, "git", "commit", "-qm", "versions")
    run(tmp_path, "git", "clone", "-q", "origin", "clone")
    back = bring_back("v1", tmp_path / "clone", Store(tmp_path / "there"))
    assert contents(back) == contents(curated)
    run(tmp_path / "clone", "dvc", "pull", "-q", "versions/v1.dvc")  # DVC by hand does as well
    tars = sorted(p.name for p in (tmp_path / "clone/versions/v1/curate/0123456789abcdef").glob("*.tar"))
    assert tars == [f"media-{i:05d}.tar" for i in range(len(tars))] and len(tars) > 1
    (first, second) = every(tmp_path / "clone")
    assert (first.meta["message"], first.meta["parent"], second.meta["parent"]) == (
        "first: 'quoted' — 第一",
        None,
        "v1",
    )
    assert (first.meta["gate"]["passed"], first.meta["who"], len(first.meta["git_sha"])) == (None, "publisher", 40)
    assert next_name(tmp_path / "clone") == "v3"
    assert not run(tmp_path / "clone", "git", "status", "--porcelain")
    stored = [p for p in (tmp_path / "remote").rglob("*") if p.is_file()]
    assert len(stored) == len({p.read_bytes() for p in stored})  # nothing twice
    assert contents(bring_back("v2", tmp_path / "clone", Store(tmp_path / "other"))) == contents([other])


def test_an_interrupted_publication_leaves_the_old_versions_whole(checkout, curated, tmp_path, monkeypatch) -> None:
    said = unmade(checkout, "v1").read_bytes()
    real = Depot.send

    def interrupted(self: Depot, oids) -> int:
        real(self, oids)
        raise KeyboardInterrupt

    monkeypatch.setattr(Depot, "send", interrupted)
    with pytest.raises(KeyboardInterrupt):
        record(curated, "v2", checkout)
    assert sorted(p.name for p in (checkout / "versions").iterdir()) == [".gitignore", "v1.dvc"]
    assert (checkout / "versions" / "v1.dvc").read_bytes() == said
    left = checkout / "versions" / versions.DESK
    left.mkdir()  # as kill -9 leaves it
    (left / "v2.dvc").write_text("half")
    (checkout / ".dvc" / "tmp" / "rwlock").write_text('{"wri')
    monkeypatch.setattr(Depot, "send", real)
    record(curated, "v2", checkout)
    assert contents(bring_back("v2", checkout, Store(tmp_path / "there"))) == contents(curated)
    assert (checkout / "versions" / "v1.dvc").read_bytes() == said and not left.exists()


def test_through_s3(s3_client, checkout, curated, tmp_path) -> None:
    s3_client("create_bucket", Bucket="dvcremote")
    config = checkout / ".dvc" / "config"
    config.write_text("[core]\n    remote = r\n['remote \"r\"']\n    url = s3://dvcremote/data\n")
    record(curated, "v1", checkout)
    shutil.rmtree(checkout / ".dvc" / "cache")
    assert contents(bring_back("v1", checkout, Store(tmp_path / "there"))) == contents(curated)


def test_what_cannot_be_published_or_brought_back(checkout, curated, tmp_path) -> None:
    unmade(checkout, "v1")
    with pytest.raises(ArtifactError, match="the DVC remote .*/remote is not there or empty; mount it"):
        bring_back("v1", checkout, Store(tmp_path / "there"))
    with pytest.raises(ArtifactError, match="version v1 is there .*choose another name"):
        record(curated, "v1", checkout)
    with pytest.raises(ArtifactError, match="cannot be called '../x'"):
        record(curated, "../x", checkout)
    (curated[0].out / "catalog.parquet").write_bytes(b"ROWS")
    with pytest.raises(ArtifactError, match="catalog.parquet does not match its sha256"):
        record(curated, "v2", checkout)
    with pytest.raises(ArtifactError, match="no version 'v9' .*there are: v1"):
        bring_back("v9", checkout, Store(tmp_path / "there"))
    with pytest.raises(ArtifactError, match="no longer in the DVC remote .*`stepvideo data verify v1` lists"):
        bring_back("v1", checkout, Store(tmp_path / "there"))
    (checkout / ".dvc" / "config").write_text("")
    with pytest.raises(ArtifactError, match="no DVC remote .*`dvc remote add -d"):
        record(curated[1:], "v3", checkout)
    with pytest.raises(ArtifactError, match="dvc init"):
        record(curated[1:], "v3", tmp_path / "store")
    assert not (tmp_path / "store" / ".dvc").exists()
    assert sorted(p.name for p in (checkout / "versions").iterdir()) == [".gitignore", "v1.dvc"]
