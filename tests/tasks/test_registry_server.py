"""The registry of an MLflow server that keeps artifacts itself, and takes no path of ours as a model's source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow_http import MLflow

pytestmark = pytest.mark.soak  # `make test` has tests/integration/test_scheduled_smoke.py, where nothing fails


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with MLflow(tmp_path / "mlflow") as running:
        yield running.url


def test_a_server_registers_by_reference(mini, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    def lost(*_: object, **__: object) -> None:
        raise ConnectionError("the server has gone")

    on = ["tracking=local", "tracking.prefect=false", f"tracking.mlflow_uri={server}"]
    with monkeypatch.context() as away:
        away.setattr(MlflowClient, "create_model_version", lost)
        code, said, _ = mini.cli("run", *mini.args(*on))
    assert code == 0 and "not registered" in said and "the server has gone" in said
    code, said, _ = mini.cli("run", *mini.args(*on))
    assert code == 0 and "stepvideo-t2v version 1 (candidate)" in said
    rows = mini.run(*on)
    client = MlflowClient(tracking_uri=server, registry_uri=server)
    (version,) = client.search_model_versions("name = 'stepvideo-t2v'")
    assert version.tags["path"] == rows["score"]["path"] and version.tags["digest"] == rows["score"]["digest"]
    assert version.run_id and version.source
    kept = client.download_artifacts(version.run_id, version.source.rpartition("/")[2], str(mini.folder))
    assert f'"path": "{rows["score"]["path"]}"' in Path(kept).read_text()
    code, said, _ = mini.cli("lineage", "stepvideo-t2v@candidate", "--store", str(mini.store.root))
    assert code == 0 and "score/" in said and "--until score" in said
