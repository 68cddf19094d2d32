"""Who may join: one file of keys for a cluster, readable by its owner only.

With it connections are encrypted and both ends prove that they hold the secret (CURVE, RFC 26), and whoever joins shows
the token. Without encryption the token alone is shown, which is for loopback.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import json
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from stepvideo.pipes.config import PipeConfig
from stepvideo.pipes.errors import PipeError


@dataclass(frozen=True)
class Keys:
    """token: shown when joining; public, secret: the Z85 key pair that all members share."""

    token: str = ""
    public: bytes = b""
    secret: bytes = b""

    def admits(self, token: object) -> bool:
        return isinstance(token, str) and hmac.compare_digest(token.encode(), self.token.encode())


NO_KEYS = Keys()


def create(path: Path) -> None:
    """Write a new file of keys, of mode 0600. Raises PipeError if the file exists or cannot be written."""
    import zmq

    public, secret = zmq.curve_keypair()
    content = {"token": secrets.token_urlsafe(32), "public": public.decode(), "secret": secret.decode()}
    tmp = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as f:
            json.dump(content, f)
        os.link(tmp, path)  # whole from its first moment, for who waits for it
    except FileExistsError:
        raise PipeError(f"{path} exists; remove it first if its pipes shall have new keys") from None
    except OSError as e:
        raise PipeError(f"cannot write {path}: {e.strerror}") from e
    finally:
        with contextlib.suppress(OSError):
            tmp.unlink()


def load(config: PipeConfig) -> Keys:
    """The keys of this config, `NO_KEYS` if it names none.

    Raises:
        PipeError: others can read the file, or it holds no keys.
    """
    if config.keys is None:
        return NO_KEYS
    path = Path(config.keys)
    try:
        with path.open(encoding="utf-8") as f:
            mode = stat.S_IMODE(os.fstat(f.fileno()).st_mode)
            raw = json.load(f)
        keys = Keys(str(raw["token"]), raw["public"].encode(), raw["secret"].encode())
    except OSError as e:
        raise PipeError(f"cannot read keys {path}: {e.strerror}; make them with: stepvideo pipes keys {path}") from e
    except (ValueError, KeyError, TypeError, AttributeError):
        raise PipeError(f"{path} holds no keys; make them with: stepvideo pipes keys FILE") from None
    if mode & 0o077:
        raise PipeError(f"keys {path} have mode {mode:04o}: others can read them; chmod 600 {path}, or make new ones")
    if not keys.token or len(keys.public) != 40 or len(keys.secret) != 40:
        raise PipeError(f"{path} holds no whole keys; make them with: stepvideo pipes keys FILE")
    return keys


def check_address(address: str, config: PipeConfig, keys: Keys) -> None:
    """Raises PipeError for an address beyond this machine without encryption, or of another form."""
    host = host_of(address)
    if not is_loopback(host) and (keys is NO_KEYS or not config.encrypt):
        raise PipeError(
            f"{address} is beyond this machine, where pipes need keys and encryption; make them once with "
            "`stepvideo pipes keys FILE`, give keys=FILE to every member, and leave encrypt on"
        )


def host_of(address: str) -> str:
    """Raises PipeError."""
    scheme, _, rest = address.partition("://")
    host, _, port = rest.rpartition(":")
    if scheme != "tcp" or not host or not (port == "*" or port.isdigit()):
        raise PipeError(f"{address!r} is no address of a pipe; give tcp://HOST:PORT")
    return host.strip("[]")


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
