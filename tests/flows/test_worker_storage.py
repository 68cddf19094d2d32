"""A worker on a machine where another user's has been."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from flows.service import leave_others_storage


def test_temporary_files_go_elsewhere_only_where_the_folder_is_another_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("TMPDIR", raising=False)
    leave_others_storage()
    shared = tmp_path / "runner_storage"
    shared.mkdir()
    leave_others_storage()
    assert "TMPDIR" not in os.environ
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != shared and access(path, mode))  # root may all
    leave_others_storage()
    own = Path(os.environ["TMPDIR"])
    assert own.parent == tmp_path and own.is_dir() and own.stat().st_mode & 0o777 == 0o700
