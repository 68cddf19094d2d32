"""/v1/text-encode, /v1/vae-encode, /v1/vae-decode: tensors in and out as safetensors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastapi import APIRouter, Request, Response
from torch import Tensor

from stepvideo.inference.remote.tensors import MEDIA_TYPE, pack, unpack
from stepvideo.inference.serve.limits import Limits
from stepvideo.inference.serve.parts import TextPart, VAEPart
from stepvideo.inference.serve.schema import TextRequest
from stepvideo.inference.serve.worker import Worker

TENSOR_PATHS = ("/v1/vae-encode", "/v1/vae-decode")


def router(worker: Worker, limits: Limits, text: TextPart | None, vae: VAEPart | None) -> APIRouter:
    """Routes of the parts that there are. They wait their turn with the videos: the networks are the same."""
    api = APIRouter()

    async def answer(task: Callable[[], dict[str, Tensor]]) -> Response:
        data = await asyncio.wrap_future(worker.call(lambda: pack(task())))
        return Response(data, media_type=MEDIA_TYPE)

    async def read(request: Request, name: str) -> Tensor:
        return (await asyncio.to_thread(unpack, await request.body(), name))[name]

    if text:

        @api.post("/v1/text-encode")
        async def text_encode(request: TextRequest) -> Response:
            request.check(limits)
            return await answer(lambda: text.encode(request.prompts, request.allow_unk))

    if vae:

        @api.post("/v1/vae-encode")
        async def vae_encode(request: Request) -> Response:
            video = await read(request, "video")
            return await answer(lambda: {"moments": vae.encode_moments(video)})

        @api.post("/v1/vae-decode")
        async def vae_decode(request: Request, boundary_mix: bool = True) -> Response:
            latents = await read(request, "latents")
            return await answer(lambda: {"video": vae.decode(latents, boundary_mix)})

    return api
