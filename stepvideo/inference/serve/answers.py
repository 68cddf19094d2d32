"""How errors become answers, and the guard in front of an application."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from stepvideo.errors import ArtifactError, StepVideoError
from stepvideo.inference.serve.access import HEADERS, Access, Guard
from stepvideo.inference.serve.errors import QueueFull, Refused

log = logging.getLogger(__name__)


def guarded(app: FastAPI, access: Access, sizes: Mapping[str, int]) -> FastAPI:
    """The application with errors as JSON, behind a guard.

    Args:
        sizes: as `Guard`.
    """
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(StepVideoError, _refused)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _failed)
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
