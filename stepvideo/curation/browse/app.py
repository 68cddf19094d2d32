"""The HTTP application of `stepvideo browse`: a catalog and the page that filters it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow.csv as csv
import pyarrow.parquet as pq
from fastapi import FastAPI, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field

from stepvideo import __version__
from stepvideo.curation.browse.catalog import Catalog
from stepvideo.inference.serve.access import API, HEADERS, Access
from stepvideo.inference.serve.answers import guarded

PAGE = Path(__file__).with_name("page")
PAGE_FILES = {"/": PAGE / "index.html", "/api.js": API, "/page.js": PAGE / "page.js", "/page.css": PAGE / "page.css"}
POLICY = HEADERS["content-security-policy"].replace("media-src blob:", "media-src 'self' blob:")
KEPT = {"cache-control": "private, max-age=3600"}  # what a clip's id names does not change
MAX_BODY = 1 << 18  # bytes

Condition = Annotated[str, Field(max_length=2000)]


class Asked(BaseModel, extra="forbid"):
    """Conditions that clips must meet, all of them."""

    filters: Annotated[list[Condition], Field(max_length=64)] = []


class Look(Asked, extra="forbid"):
    """And which of them to show; `limit` 0 counts alone."""

    sort: str = "clip_id"
    descending: bool = False
    offset: Annotated[int, Field(ge=0)] = 0
    limit: Annotated[int, Field(ge=0, le=500)] = 0


def create_app(catalog: Catalog, access: Access) -> FastAPI:
    """The application."""
    app = FastAPI(title="stepvideo browse", version=__version__, openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/v1/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/catalog")
    def describe() -> dict[str, Any]:
        return catalog.describe()

    @app.post("/v1/clips")
    def look(asked: Look) -> dict[str, Any]:
        return catalog.look(asked.filters, asked.sort, asked.descending, asked.offset, asked.limit)

    @app.post("/v1/ids")
    def ids(asked: Asked, form: Literal["parquet", "csv"] = "parquet") -> Response:
        table, out = catalog.ids(asked.filters), io.BytesIO()
        pq.write_table(table, out) if form == "parquet" else csv.write_csv(table, out)
        kind = "text/csv; charset=utf-8" if form == "csv" else "application/vnd.apache.parquet"
        return Response(out.getvalue(), media_type=kind)

    @app.get("/v1/clips/{id}/film.mp4")
    def film(id: str) -> FileResponse:
        return FileResponse(catalog.film(id, still=False), headers=KEPT)

    @app.get("/v1/clips/{id}/still.jpg")
    def still(id: str) -> FileResponse:
        return FileResponse(catalog.film(id, still=True), headers=KEPT)

    @app.get("/v1/clips/{id}/file")
    def file(id: str) -> FileResponse:
        return FileResponse(catalog.file(id), content_disposition_type="attachment", filename=catalog.file(id).name)

    for url, path in PAGE_FILES.items():
        app.add_api_route(url, _sends(path), include_in_schema=False)
    return guarded(app, access, {"": MAX_BODY})


def _sends(path: Path) -> Any:
    return lambda: FileResponse(path, headers={"content-security-policy": POLICY})
