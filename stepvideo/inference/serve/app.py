"""The HTTP application: which routes there are."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from fastapi import FastAPI

from stepvideo import __version__
from stepvideo.inference.serve import routes_parts, routes_videos
from stepvideo.inference.serve.access import Access
from stepvideo.inference.serve.answers import guarded
from stepvideo.inference.serve.limits import Limits
from stepvideo.inference.serve.parts import TextPart, VAEPart
from stepvideo.inference.serve.videos import Videos
from stepvideo.inference.serve.worker import Worker


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
    sizes = {"": service.limits.max_body} | dict.fromkeys(routes_parts.TENSOR_PATHS, service.limits.max_tensors)
    return guarded(app, access, sizes)
