"""Files for their owner alone: they never exist with wider permissions, not even before they are renamed."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

from stepvideo.errors import ArtifactError


def write_json(path: Path, said: Any) -> None:
    """Write a file of mode 0600 whole or not at all. Raises ArtifactError."""
    tmp = path.with_name(f".{path.name}.tmp-{uuid.uuid4().hex[:8]}")
    raw = (json.dumps(said, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as f:
            f.write(raw)
            f.flush()
            os.fsync(f.fileno())
        os.replace(tmp, path)
    except OSError as e:
        with contextlib.suppress(OSError):
            tmp.unlink()
        raise ArtifactError(f"cannot write {path}: {e.strerror or e}; free space or choose another folder") from e
