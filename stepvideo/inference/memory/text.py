"""Text encoders that need little of the card: layer by layer, or in a process of their own.

The process takes prompts as JSON and answers with safetensors, each behind its length, over its standard input and
output; nothing is pickled. Its memory goes back to the system when it is closed.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import IO, Any

import safetensors.torch
import torch
from torch import Tensor

from stepvideo.errors import StepVideoError
from stepvideo.inference.memory.offload import offload_layers
from stepvideo.models.text_encoders import TextEncoders, load_text_encoders

ASK, READY, TENSORS, ERROR = b"a", b"r", b"t", b"e"


def read_text_by_layer(root: Path, device: torch.device | str, prefetch: int = 1) -> TextEncoders:
    """The encoders in `root`, the Step-LLM's layers in host memory until they compute on `device`."""
    encoders = load_text_encoders(root, torch.device("cpu"))
    encoders.clip_text.to(device)
    offload_layers(encoders.step_llm, list(encoders.step_llm.transformer.layers), device, prefetch)
    return encoders


class TextProcess:
    """`TextEncoders` in another process, for as long as this object lives, or until `close`.

    Args:
        root: folder with `step_llm/` and `hunyuan_clip/`.
        device: where that process computes. Results arrive on the CPU until `to` names a device.

    Raises:
        StepVideoError: the process cannot read the encoders; its reason.
    """

    def __init__(self, root: Path | str, device: torch.device | str = "cpu") -> None:
        command = [sys.executable, "-m", "stepvideo.inference.memory.text", str(Path(root).absolute()), str(device)]
        package = Path(__file__).resolve().parents[3]
        path = os.pathsep.join(p for p in (str(package), os.environ.get("PYTHONPATH", "")) if p)
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=os.environ | {"PYTHONPATH": path})
        self.device, self._lock = torch.device("cpu"), Lock()
        self.close = weakref.finalize(self, _stop, self.process)
        self._answer()

    def to(self, device: torch.device) -> TextProcess:
        self.device = torch.device(device)
        return self

    def encode(self, prompts: Sequence[str], allow_unk: bool | None = None) -> dict[str, Tensor]:
        """See `TextEncoders.encode`.

        Raises:
            StepVideoError: what the encoders raised there, or that the process has ended.
        """
        with self._lock:
            try:
                _send(self.process.stdin, ASK, json.dumps([list(prompts), allow_unk]).encode())
            except (OSError, ValueError):
                raise self._ended() from None
            return {k: v.to(self.device) for k, v in safetensors.torch.load(self._answer()).items()}

    def _answer(self) -> bytes:
        kind, data = _receive(self.process.stdout)
        if kind == ERROR:
            raise StepVideoError(f"text encoders: {data.decode()}")
        if not kind:
            raise self._ended()
        return data

    def _ended(self) -> StepVideoError:
        self.close()
        code = self.process.returncode
        cause = f"killed by signal {-code}, for lack of memory perhaps" if code < 0 else f"exit code {code}"
        return StepVideoError(
            f"the process of the text encoders has ended ({cause}); its output says more. Start again"
        )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """The process ends when its input does."""
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            try:
                stream.close()
            except OSError:
                pass  # what was still to be sent finds no reader
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _send(stream: IO[bytes] | None, kind: bytes, data: bytes) -> None:
    assert stream is not None
    stream.write(kind + struct.pack("<Q", len(data)))
    stream.write(data)
    stream.flush()


def _receive(stream: IO[bytes] | None) -> tuple[bytes, bytes]:
    """Kind and content; nothing when the other side is gone."""
    assert stream is not None
    head = stream.read(9)
    if len(head) < 9:
        return b"", b""
    data = stream.read(struct.unpack("<Q", head[1:])[0])
    return head[:1], data


def _serve(root: str, device: str) -> None:
    """The other process: answers until its input ends."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get between the answers
    try:
        encoders: Any = load_text_encoders(Path(root), torch.device(device))
        _send(answers, READY, b"")
    except Exception as e:
        _send(answers, ERROR, _reason(e))
        return
    while (request := _receive(requests))[0]:
        try:
            prompts, allow_unk = json.loads(request[1])
            found = encoders.encode(prompts, allow_unk)
            packed = safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in found.items()})
            _send(answers, TENSORS, packed)
        except Exception as e:  # one bad request must not end the process
            _send(answers, ERROR, _reason(e))


def _reason(e: Exception) -> bytes:
    return (str(e) if isinstance(e, StepVideoError) else f"{type(e).__name__}: {e}").encode()


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2])
