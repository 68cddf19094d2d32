"""Whether a version is whole, what is said of one that is not, and what mends it."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_versions import checkout_of
from published import artifact, contents, run

from stepvideo.artifact import Artifact, Store
from stepvideo.errors import ArtifactError
from tasks import version_report, versions
from tasks.gates import Finding, GateReport
from tasks.version_verify import CACHE, DAMAGED, MISSING, REMOTE, advice, repair, verify
from tasks.versions import bring_back, every, named, record


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return checkout_of(tmp_path / "origin", tmp_path / "remote")


@pytest.fixture
def curated(tmp_path: Path) -> list[Artifact]:
    media = {f"media/{i}.mp4": bytes([i % 256]) * (i + 1) for i in range(120)}
    return [artifact(Store(tmp_path / "store"), "curate", {"catalog.parquet": b"rows", **media})]


def objects(remote: Path, content: bytes) -> Path:
    return next(p for p in remote.rglob("*") if p.is_file() and content in p.read_bytes())


def test_faults_are_found_and_mended(checkout: Path, curated: list[Artifact], tmp_path: Path) -> None:
    version = record(curated, None, checkout)
    assert verify(version, checkout) == ([], {REMOTE: 5, CACHE: 4})
    catalog = objects(tmp_path / "remote", b"rows")
    tar = max((p for p in (tmp_path / "remote").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    catalog.unlink()
    body = bytearray(tar.read_bytes())
    body[600] ^= 1
    tar.chmod(0o644)
    tar.write_bytes(body)
    faults, _ = verify(version, checkout)
    assert {(f.where, f.file.rsplit("/", 1)[-1], f.problem) for f in faults} == {
        (REMOTE, "catalog.parquet", MISSING),
        (REMOTE, "media-00000.tar", DAMAGED),
    }
    assert [f.problem for f in verify(version, checkout, quick=True)[0]] == [MISSING]
    (line,) = advice(version, faults)
    assert "`stepvideo data verify v1 --repair` sends 2 objects again from a checkout" in line
    other = checkout_of(tmp_path / "clone", tmp_path / "remote")
    (other / "versions").mkdir()
    (other / "versions" / "v1.dvc").write_bytes(version.path.read_bytes())
    with pytest.raises(ArtifactError, match="1 of .* objects of v1 are no longer in the DVC remote .*--repair"):
        bring_back("v1", other, Store(tmp_path / "there"))
    assert not list((tmp_path / "there").rglob("manifest.json"))
    assert len(repair(version, other, faults)) == 2  # nothing here to mend with
    assert repair(version, checkout, faults) == []
    assert verify(version, checkout)[0] == []
    assert contents(bring_back("v1", other, Store(tmp_path / "there"))) == contents(curated)


def test_what_is_damaged_here_is_fetched_again(checkout: Path, curated: list[Artifact], tmp_path: Path) -> None:
    version = record(curated, None, checkout)
    kept = next(p for p in (checkout / ".dvc/cache").rglob("*") if p.is_file() and p.read_bytes() == b"rows")
    kept.unlink()
    kept.write_bytes(b"ROWS")
    faults, _ = verify(version, checkout)
    assert [(f.where, f.problem) for f in faults] == [(CACHE, DAMAGED)]
    assert repair(version, checkout, faults) == [] and not kept.exists()
    assert contents(bring_back("v1", checkout, Store(tmp_path / "there"))) == contents(curated)


def test_the_same_content_is_published_once_and_mends_the_remote(checkout, curated, tmp_path: Path) -> None:
    first = record(curated, None, checkout)
    said: list[str] = []
    objects(tmp_path / "remote", b"rows").unlink()
    again = record(curated, None, checkout, say=said.append)
    assert (again.new, again.name, len(every(checkout))) == (False, "v1", 1)
    assert said[-1] == "1 objects that the remote lacked were sent again"
    assert verify(first, checkout)[0] == []


def test_a_deleted_version_comes_back_from_git(checkout, curated) -> None:
    record(curated, None, checkout)
    run(checkout, "git", "add", "versions")
    run(checkout, "git", "commit", "-qm", "v1")
    (checkout / "versions" / "v1.dvc").unlink()
    with pytest.raises(ArtifactError, match="there are: none. Its file was removed: `git checkout -- versions/v1.dvc`"):
        named("v1", checkout)
    run(checkout, "git", "rm", "-q", "--cached", "versions/v1.dvc")
    run(checkout, "git", "commit", "-qm", "gone")
    with pytest.raises(
        ArtifactError, match="deleted in commit (\\w+): `git checkout \\1\\^ -- versions/v1.dvc` brings"
    ):
        named("v1", checkout)
    (checkout / "versions" / "v2.dvc").write_text("outs: [")
    with pytest.raises(ArtifactError, match="v2.dvc is no version: .*git checkout --"):
        every(checkout)


def test_a_failed_gate_is_forced_with_a_reason_or_not_at_all(checkout, curated, tmp_path, monkeypatch) -> None:
    made = Artifact(curated[0].dir, {**curated[0].manifest, "kind": "subsets", "config": {}})
    docs = made.dir / "gate" / "index.html"
    docs.parent.mkdir()
    docs.write_text("<p>docs")
    failed = [Finding("s1", "clips are unique", "critical", "2 are not")]
    monkeypatch.setattr(version_report, "catalog_of", lambda made, store: made)
    monkeypatch.setattr(version_report, "check", lambda *_: GateReport(False, [], failed, docs, 7))
    monkeypatch.setattr(version_report, "counts", lambda _: {"clips": 3})
    monkeypatch.setattr(version_report, "FUNNEL", ())
    with pytest.raises(ArtifactError, match="(?s)not published: .* clips are unique: 2 are not\n.*--force 'WHY'"):
        record([made], None, checkout)
    assert not (tmp_path / "remote").exists() and not list((checkout).glob("versions/*.dvc"))
    version = record([made], None, checkout, force="known, harmless: 第二")
    assert version.meta["gate"]["forced"] == "known, harmless: 第二"
    assert version.meta["gate"]["findings"] == ["curate: [s1] clips are unique: 2 are not"]
    assert version.meta["counts"] == {"clips": 3}
    back = bring_back("v1", checkout, Store(tmp_path / "there"))
    assert (back[0].dir / "gate" / "index.html").read_text() == "<p>docs"


def test_a_remote_that_cannot_be_written(checkout, curated, tmp_path: Path) -> None:
    version = record(curated, None, checkout)
    before = version.path.read_bytes()
    (tmp_path / "blocked").write_text("a file where the remote's folder should be")
    (checkout / ".dvc" / "config").write_text(
        f"[core]\n    remote = r\n['remote \"r\"']\n    url = {tmp_path / 'blocked' / 'remote'}\n"
    )
    other = artifact(Store(tmp_path / "later"), "curate", {"catalog.parquet": b"more rows"})
    with pytest.raises(ArtifactError, match="cannot use .*blocked.*choose another folder"):
        record([other], None, checkout)
    assert [v.name for v in every(checkout)] == ["v1"] and version.path.read_bytes() == before
    assert not (checkout / "versions" / versions.DESK).exists()
