"""Checkouts with git, DVC and a remote in a folder, without the seconds that `dvc init` takes."""

from __future__ import annotations

from pathlib import Path

from published import run


def checkout_of(root: Path, remote: Path | str) -> Path:
    """A new git repository at `root` that DVC keeps data for."""
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    (root / ".dvc" / "config").write_text(f"[core]\n    remote = r\n['remote \"r\"']\n    url = {remote}\n")
    (root / ".dvcignore").write_text("")
    run(root, "git", "init", "-q")
    run(root, "git", "config", "user.name", "publisher")
    run(root, "git", "config", "user.email", "publisher@example.org")
    run(root, "git", "add", ".")
    run(root, "git", "commit", "-qm", "dvc")
    return root
