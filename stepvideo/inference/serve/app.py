"""The HTTP application: which routes there are, and how errors become answers."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from stepvideo import __version__
from stepvideo.errors import ArtifactError, StepVideoError
from stepvideo.inference.serve import routes_parts, routes_videos
from stepvideo.inference.serve.access import HEADERS, Access, Guard
from stepvideo.inference.serve.errors import QueueFull, Refused
from stepvideo.inference.serve.limits import Limits
from stepvideo.inference.serve.parts import TextPart, VAEPart
from stepvideo.inference.serve.videos import Videos
from stepvideo.inference.serve.worker import Worker

log = logging.getLogger(__name__)


@dataclass
class Service:
    """What one server offers; all of it is done by one worker."""

    worker: Worker
    limits: Limits = field(default_factory=Limits)
    videos: Videos | None = None
    text: TextPart | None = None
    vae: VAEPart | None = None
    stop_s: float = 60.0  # how long a stopping server waits for the running step

    def describe(self) -> dict[str, Any]:
        return {
            "stepvideo": __version__,
            "limits": asdict(self.limits),
            "model": self.videos.engine.describe() if self.videos else None,
            "text": self.text.describe() if self.text else None,
            "vae": self.vae.describe() if self.vae else None,
        }

    def close(self) -> None:
        self.videos.close(self.stop_s) if self.videos else self.worker.close(self.stop_s)


def create_app(service: Service, access: Access) -> FastAPI:
    """The application."""

    app = FastAPI(
        title="stepvideo", version=__version__, openapi_url="/v1/openapi.json",
        docs_url=None, redoc_url=None,
    )  # fmt: skip

    @app.get("/v1/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/model")
    def model() -> dict[str, Any]:
        return service.describe()

    if service.videos:
        app.include_router(routes_videos.router(service.videos))
    app.include_router(routes_parts.router(service.worker, service.limits, service.text, service.vae))
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(StepVideoError, _refused)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _failed)
    sizes = {"": service.limits.max_body} | dict.fromkeys(routes_parts.TENSOR_PATHS, service.limits.max_tensors)
    app.add_middleware(Guard, access=access, sizes=sizes)
    return app


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    """The fields that are wrong, without the values: they may be long, or not even be text."""
    assert isinstance(error, RequestValidationError)
    found = [{"field": ".".join(map(str, e["loc"][1:])), "message": e["msg"]} for e in error.errors()]
    malformed = any(e["type"] == "json_invalid" for e in error.errors())
    reason = "; ".join(f"{f['field']}: {f['message']}" if f["field"] else f["message"] for f in found)
    if malformed:
        return JSONResponse({"error": f"the body is not JSON: {reason}"}, 400)
    return JSONResponse({"error": reason, "fields": found}, 422)


async def _refused(_: Request, error: Exception) -> JSONResponse:
    headers = {"retry-after": str(error.retry_after)} if isinstance(error, QueueFull) else None
    status = error.status if isinstance(error, Refused) else 500 if isinstance(error, ArtifactError) else 422
    return JSONResponse({"error": str(error)}, status, headers)


async def _http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)


async def _failed(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s: %s: %s", request.method, request.url.path, type(error).__name__, error)
    return JSONResponse({"error": f"{type(error).__name__}: {error}"}, 500, HEADERS)  # it does not pass the guard
