"""The HTTP application of a study. Nothing that it sends names a model, a seed, a file or a side's truth."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, Field

from stepvideo.errors import StepVideoError
from stepvideo.inference.serve.access import API, HEADERS
from stepvideo.inference.serve.answers import guarded
from stepvideo.inference.serve.errors import Refused
from stepvideo.preference.access import Doorman, Names
from stepvideo.preference.closing import close
from stepvideo.preference.progress import progress
from stepvideo.preference.session import Session
from stepvideo.preference.study import LANGUAGES, MEDIA

log = logging.getLogger(__name__)

PAGES = Path(__file__).with_name("pages")
SUFFIXES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8",
            ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}  # fmt: skip
MAX_BODY = 1 << 16  # bytes
MAX_S = 86400.0
RANGE = re.compile(r"bytes=([0-9]{1,18})-([0-9]{0,18})")

Name = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Seconds = Annotated[float, Field(ge=0, le=MAX_S, allow_inf_nan=False)]


def _annotator(request: Request) -> str:
    return request.app.state.doorman.annotator(request)


def _admin(request: Request) -> str:
    return request.app.state.doorman.admin(request)


Me = Annotated[str, Depends(_annotator)]
Admin = Annotated[str, Depends(_admin)]


class Cast(BaseModel, extra="forbid", strict=True):
    """A vote."""

    assignment: Name
    key: Annotated[UUID, Field(strict=False)]
    answer: Annotated[dict[str, Any], Field(max_length=1)]
    watched: Annotated[list[Seconds], Field(min_length=1, max_length=2)]
    dwell_s: Seconds


class Skip(BaseModel, extra="forbid", strict=True):
    """An item that is left."""

    assignment: Name
    key: Annotated[UUID, Field(strict=False)]
    reason: Annotated[str, Field(min_length=1, max_length=1000)]


class Closing(BaseModel, extra="forbid", strict=True):
    """The word `close`, typed by who closes a study: its name may say what is compared."""

    confirm: Annotated[str, Field(max_length=200)]


class Nothing(BaseModel, extra="forbid"):
    """A body without fields."""


def create_app(session: Session, folder: Path, names: Names) -> FastAPI:
    """The application of the study in `folder`."""
    app = FastAPI(title="study", openapi_url=None, docs_url=None, redoc_url=None)
    study = session.study
    app.state.doorman = Doorman(session.store, session.clock)

    @app.get("/api/study")
    def describe(_: Me) -> dict[str, Any]:
        about = {"kind": study.kind, "total": len(study.by_role["vote"]), "practice": len(study.by_role["practice"])}
        return about | {"languages": LANGUAGES, "simulated": study.config.simulated,
                        "rules": study.rules_sha256} | dict(study.texts)  # fmt: skip

    @app.post("/api/next")
    def take(me: Me, _: Nothing | None = None) -> dict[str, Any]:
        return session.next(me)

    @app.post("/api/ahead")
    def ahead(me: Me, _: Nothing | None = None) -> dict[str, Any]:
        return session.ahead(me)

    @app.get("/api/media/{name}")
    def media(me: Me, name: str, request: Request) -> Response:
        file = session.media(me, name, lambda file: _reaches_the_end(request, folder / MEDIA / file))
        return Film(folder / MEDIA / file)

    @app.post("/api/votes")
    def vote(me: Me, cast: Cast) -> JSONResponse:
        receipt = session.vote(me, cast.assignment, str(cast.key), cast.answer, cast.watched, cast.dwell_s)
        return JSONResponse(receipt.said, 201 if receipt.new else 200)

    @app.post("/api/skip")
    def skip(me: Me, left: Skip) -> JSONResponse:
        receipt = session.skip(me, left.assignment, str(left.key), left.reason)
        return JSONResponse(receipt.said, 201 if receipt.new else 200)

    @app.post("/api/undo")
    def undo(me: Me, _: Nothing | None = None) -> dict[str, Any]:
        return session.undo(me)

    @app.get("/api/me")
    def mine(me: Me) -> dict[str, Any]:
        return session.me(me)

    @app.get("/api/admin/progress")
    def admin(_: Admin) -> dict[str, Any]:
        return progress(session, folder)

    @app.post("/api/admin/close")
    def end(_: Admin, asked: Closing) -> dict[str, Any]:
        if asked.confirm != "close":
            raise Refused(f"to close the study for good, confirm with the word close, not {asked.confirm!r}")
        path = close(session, folder)
        return {"closed": True, "votes": str(path.relative_to(folder)) if path else None}

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    for url, path in _pages().items():
        app.add_api_route(url, _sends(path))
    guarded(app, names, {"": MAX_BODY})
    app.add_exception_handler(StepVideoError, _refused)
    app.add_exception_handler(Exception, _failed)
    return app


class Film(FileResponse):
    """A video in ranges of bytes, without a header that depends on anything but its length."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, media_type="video/mp4")

    def set_stat_headers(self, stat_result: os.stat_result) -> None:
        self.headers.setdefault("content-length", str(stat_result.st_size))

    def _should_use_range(self, http_if_range: str) -> bool:
        return False  # there is no validator that it could match


def _reaches_the_end(request: Request, path: Path) -> bool:
    """Whether the answer to this request has the file's last byte; of ranges, only a single one from A on counts."""
    asked = request.headers.get("range", "")
    if not asked or request.headers.get("if-range"):
        return True  # it is sent whole
    found, size = RANGE.fullmatch(asked), path.stat().st_size
    return bool(found) and int(found[1]) < size and (not found[2] or int(found[2]) >= size - 1)


def _pages() -> Mapping[str, Path]:
    files = {f"/assets/{p.name}": p for p in sorted(PAGES.iterdir()) if p.suffix in SUFFIXES}
    named = {"/": PAGES / "index.html", "/admin": PAGES / "admin.html", "/assets/api.js": API}
    return {url: path for url, path in (named | files).items() if path.exists()}


def _sends(path: Path) -> Any:
    return lambda: Response(path.read_bytes(), media_type=SUFFIXES[path.suffix])


async def _refused(_: Request, error: Exception) -> JSONResponse:
    """What the study itself refuses says why; any other failure could name a file."""
    if isinstance(error, Refused):
        return JSONResponse({"error": str(error)}, error.status)
    return await _failed(_, error)


async def _failed(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s: %s: %s", request.method, request.url.path, type(error).__name__, error)
    return JSONResponse({"error": "the server failed; its operator's log says why"}, 500, HEADERS)
