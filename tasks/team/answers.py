"""What an HTTP server answers, in one number and its text."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

TIMEOUT_S = 20.0


def status(url: str, headers: Mapping[str, str] | None = None, body: Any = None) -> int:
    """The status of an answer; 0 if there is none."""
    return ask(url, headers, body)[0]


def ask(url: str, headers: Mapping[str, str] | None = None, body: Any = None) -> tuple[int, str]:
    """(status, text) of a GET, or of a POST of JSON; (0, why) if nothing answers."""
    data = None if body is None else json.dumps(body).encode()
    given = {"Content-Type": "application/json", **(headers or {})}
    try:
        request = urllib.request.Request(url, data=data, headers=given)
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode(errors="replace")
    except urllib.error.URLError as e:
        return 0, str(getattr(e.reason, "strerror", None) or e.reason)
    except (OSError, ValueError) as e:
        return 0, str(e) or type(e).__name__


def basic(text: str) -> dict[str, str]:
    """The header of "user:password"."""
    return {"Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}
