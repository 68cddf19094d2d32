"""/v1/videos: ask for a video, follow it, fetch it; and the page that does so."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse

from stepvideo.inference.serve.jobs import QUEUED, Job
from stepvideo.inference.serve.schema import VideoRequest
from stepvideo.inference.serve.videos import Videos, view

PAGE = Path(__file__).with_name("page")
PAGE_FILES = {"/": "index.html", "/api.js": "api.js", "/page.js": "page.js", "/page.css": "page.css"}
LOOK_S = 0.1  # between looks at a job; quick steps share an event, and a listener that goes leaves nothing behind
REPEAT_S = 5.0  # an event at least so often: the time left changes, and proxies close silent connections

Index = Annotated[int, Query(ge=0)]


def router(videos: Videos) -> APIRouter:
    api = APIRouter()

    @api.post("/v1/videos", status_code=202)
    def submit(request: VideoRequest, idempotency_key: Annotated[str, Header(max_length=200)] = "") -> JSONResponse:
        job = videos.submit(request, idempotency_key)
        return JSONResponse(view(videos, job), 202, {"location": f"/v1/videos/{job.id}"})

    @api.get("/v1/videos")
    def recent(limit: Annotated[int, Query(ge=1, le=500)] = 50, before: str = "") -> dict[str, Any]:
        return {"videos": [view(videos, job) for job in videos.recent(limit, before)]}

    @api.get("/v1/videos/{id}")
    def status(id: str) -> dict[str, Any]:
        return view(videos, videos.get(id))

    @api.delete("/v1/videos/{id}")
    def cancel(id: str) -> dict[str, Any]:
        return view(videos, videos.cancel(id))

    @api.get("/v1/videos/{id}/events")
    async def events(id: str) -> StreamingResponse:
        return StreamingResponse(_events(videos, videos.get(id)), media_type="text/event-stream")

    @api.head("/v1/videos/{id}/file", include_in_schema=False)
    @api.get("/v1/videos/{id}/file", response_class=FileResponse)
    def file(id: str, index: Index = 0) -> FileResponse:
        path = videos.file(id, index)
        return FileResponse(path, filename=path.name, content_disposition_type="inline")

    @api.get("/v1/videos/{id}/preview", response_class=FileResponse)
    def preview(id: str, index: Index = 0) -> FileResponse:
        return FileResponse(videos.file(id, index, preview=True))

    for url, name in PAGE_FILES.items():
        api.add_api_route(url, _sends(PAGE / name), include_in_schema=False)
    return api


def _sends(path: Path) -> Callable[[], FileResponse]:
    return lambda: FileResponse(path)


async def _events(videos: Videos, job: Job) -> AsyncIterator[str]:
    """Server-sent events: the job's view at every change, named by its state; the last is its end."""
    seen, sent = None, 0.0
    while not (videos.closing and job.state == QUEUED):
        now = view(videos, job)
        mark = (now["state"], now["phase"], now["position"], now["step"], now["cancelling"])
        if mark != seen or time.monotonic() - sent > REPEAT_S:
            seen, sent = mark, time.monotonic()
            yield f"event: {now['state']}\ndata: {json.dumps(now)}\n\n"
        if now["state"] in ("done", "failed", "cancelled"):
            return
        await asyncio.sleep(LOOK_S)
