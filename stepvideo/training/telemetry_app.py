"""The HTTP application of `stepvideo telemetry serve`: the page, and its figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Response
from fastapi.responses import FileResponse

from stepvideo import __version__
from stepvideo.inference.serve.access import API, Access
from stepvideo.inference.serve.answers import guarded
from stepvideo.telemetry.page.document import FOLDER, as_text

PAGE_FILES = {"/": FOLDER / "index.html", "/api.js": API, **{f"/{n}": FOLDER / n for n in ("page.js", "page.css")}}
MAX_BODY = 1 << 16  # bytes

Step = Annotated[int, Query(ge=0)]


def create_app(answer: Callable[[int, int], dict[str, Any]], access: Access) -> FastAPI:
    """The application. answer: figures of the page from a first to a last step, 0 for the run's own."""
    app = FastAPI(title="stepvideo telemetry", version=__version__, openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/v1/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/telemetry")
    def telemetry(first: Step = 0, last: Step = 0) -> Response:
        return Response(as_text(answer(first, last)), media_type="application/json")

    for url, path in PAGE_FILES.items():
        app.add_api_route(url, _sends(path), include_in_schema=False, response_class=FileResponse)
    return guarded(app, access, {"": MAX_BODY})


def _sends(path: Path) -> Callable[[], Any]:
    def send() -> Any:
        return FileResponse(path)

    return send
