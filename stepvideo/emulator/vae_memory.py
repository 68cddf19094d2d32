"""Parameters and forward memory of one chunk of the Video-VAE; torch-free. Checked against the real module in tests."""

from __future__ import annotations

from dataclasses import dataclass

from stepvideo.emulator.ledger import Ledger
from stepvideo.models.config import VAEConfig


@dataclass(frozen=True)
class Map:
    """The shape of an activation. `frames` tells that its memory holds one frame after the other; a normalisation of
    single frames first copies what is laid out otherwise."""

    c: int
    t: int
    h: int
    w: int
    frames: bool = False

    def but(self, c: int = 0, t: int = 0, scale: tuple[int, int] = (1, 1), frames: bool = False) -> Map:
        """With other channels, frames, and a side ratio (times, divided by)."""
        up, down = scale
        return Map(c or self.c, t or self.t, self.h * up // down, self.w * up // down, frames)


def vae_decode_chunk(m: Ledger, cfg: VAEConfig, batch: int, latent: tuple[int, int, int], e: int) -> Map:
    """`Decoder.forward` on latents of (frames, height, width), e bytes an element, without weights and input."""
    return _Walk(m, cfg, batch, e).decoder(Map(cfg.z_channels, *latent))


def vae_encode_chunk(m: Ledger, cfg: VAEConfig, batch: int, video: tuple[int, int, int], e: int) -> Map:
    """`Encoder.forward` on pixels of (frames, height, width)."""
    return _Walk(m, cfg, batch, e).encoder(Map(cfg.in_channels, *video))


def vae_parameters(cfg: VAEConfig) -> tuple[int, int]:
    """Of the encoder and of the decoder."""
    encoder, decoder = Ledger(), Ledger()
    side = cfg.spatial_factor
    vae_encode_chunk(encoder, cfg, 1, (1, side, side), 1)
    vae_decode_chunk(decoder, cfg, 1, (1, 1, 1), 1)
    return encoder.parameters, decoder.parameters


class _Walk:
    """Every method leaves its result allocated and its input to the caller."""

    def __init__(self, m: Ledger, cfg: VAEConfig, batch: int, e: int) -> None:
        self.m, self.cfg, self.batch, self.e = m, cfg, batch, e

    def size(self, x: Map) -> int:
        return self.batch * x.c * x.t * x.h * x.w * self.e

    def add(self, x: Map, where: str) -> Map:
        self.m.add(self.size(x), where)
        return x

    def free(self, *xs: Map) -> None:
        for x in xs:
            self.m.free(self.size(x))

    def weights(self, c_in: int, c_out: int, taps: int) -> None:
        self.m.parameters += c_out * (c_in * taps + 1)

    def conv(self, x: Map, c: int, where: str, kernel: int = 3, stride: int = 1) -> Map:
        """Causal: the input is copied with its padding in front."""
        self.weights(x.c, c, kernel**3)
        padded = self.size(x.but(t=x.t + kernel - 1)) if kernel > 1 else 0
        with self.m.hold(padded, where + " padding"):
            out = self.add(x.but(c, -(-x.t // stride), (1, stride)), where)
        self.multiplied(x.c * kernel**3, out)
        return out

    def multiplied(self, taps: int, out: Map) -> None:
        self.m.flops += 2 * taps * self.batch * out.c * out.t * out.h * out.w

    def norm(self, x: Map, where: str) -> Map:
        self.m.parameters += 2 * x.c
        per_frame = self.cfg.spatial_group_norm
        copy = per_frame and not x.frames and x.t > 1
        with self.m.hold(self.size(x) if copy else 0, where):
            return self.add(x.but(frames=per_frame), where)

    def norm_silu(self, x: Map, where: str) -> Map:
        normed = self.norm(x, where + " norm")
        out = self.add(normed, where + " SiLU")
        self.free(normed)
        return out

    def norm_silu_conv(self, x: Map, c: int, where: str) -> Map:
        active = self.norm_silu(x, where)
        out = self.conv(active, c, where)
        self.free(active)
        return out

    def res_block(self, x: Map, c: int, where: str) -> Map:
        first = self.norm_silu_conv(x, c, where + " conv1")
        second = self.norm_silu_conv(first, c, where + " conv2")
        self.free(first)
        if x.c != c:
            shortcut = self.conv(x, c, where + " shortcut", kernel=1)
            self.free(shortcut)
            self.m.touch(2 * self.size(shortcut), where + " sum")
        self.add(second, where + " sum")
        self.free(second)
        return second

    def mid(self, x: Map) -> Map:
        a = self.res_block(x, x.c, "mid block 1")
        b = self.attention(a)
        self.free(a)
        c = self.res_block(b, x.c, "mid block 2")
        self.free(b)
        return c

    def attention(self, x: Map) -> Map:
        normed = self.norm(x, "mid attention norm")
        for _ in range(3):
            self.conv(normed, x.c, "mid attention q, k, v", kernel=1)
        self.add(x, "mid attention")
        self.multiplied(2 * x.t * x.h * x.w, x)  # as if it were not causal, as kernels are counted
        self.free(normed)
        out = self.conv(x, x.c, "mid attention output", kernel=1)
        self.m.touch(self.size(out), "mid attention sum")
        self.free(x, x, x, x)
        return out

    def level(self, x: Map, c: int, blocks: int, where: str) -> Map:
        """The caller holds the level's input until the level ends."""
        now = x
        for i in range(blocks):
            after = self.res_block(now, c, f"{where} block {i}")
            self._replace(now, x)
            now = after
        return now

    def _replace(self, now: Map, held: Map) -> None:
        if now is not held:
            self.free(now)

    def down(self, x: Map, index: int) -> Map:
        where = f"encoder level {index}"
        now = self.level(x, self.cfg.enc_widths[index], self.cfg.num_res_blocks, where)
        if index == 3:
            return now
        if index == 0:
            self.weights(now.c, now.c, 9)
            with self.m.hold(self.size(Map(now.c, now.t, now.h + 1, now.w + 1)), where + " downsampling"):
                out = self.add(now.but(scale=(1, 2), frames=True), where + " downsampling")
            self.multiplied(9 * now.c, out)
        else:
            out = self.conv(now, now.c, where + " downsampling", stride=2)
        self._replace(now, x)
        return out

    def up(self, x: Map, index: int) -> Map:
        where = f"decoder level {index}"
        now = self.level(x, self.cfg.dec_widths[index], self.cfg.num_res_blocks + 1, where)
        if index == 0:
            return now
        out = self._up2d(now, where) if index == 1 else self._up3d(now, where)
        self._replace(now, x)
        return out

    def _up2d(self, x: Map, where: str) -> Map:
        self.weights(x.c, x.c, 9)
        with self.m.hold(x.c * x.c * 16 * self.e, where + " upsampling"):
            return self.add(x.but(scale=(2, 1), frames=True), where + " upsampling")

    def _up3d(self, x: Map, where: str) -> Map:
        """h = conv of the upsampled x, GN, SiLU, conv, GN; SiLU(h + u) + u."""
        where += " upsampling"
        self.weights(x.c, x.c, 27)
        with self.m.hold(self.size(x.but(t=x.t + 1)) + x.c * x.c * 64 * self.e, where):
            h = self.add(x.but(t=2 * x.t, scale=(2, 1)), where)
        inner = self.norm_silu_conv(h, h.c, where)
        normed = self.norm(inner, where)
        self.free(inner, h)
        self.add(h, where + " nearest")
        with self.m.hold(self.size(h), where + " sum"):
            self.m.touch(self.size(h), where + " SiLU")
        self.m.touch(2 * self.size(h), where + " sum")
        self.free(h)
        return normed

    def decoder(self, z: Map) -> Map:
        cfg, top = self.cfg, self.cfg.dec_widths[-1]
        h = self.conv(z, cfg.dual_path_width if cfg.dual_path else top, "decoder conv_in")
        if cfg.dual_path:
            h = self._unpatchify(h, top)
        for step in (self.mid, *(lambda x, i=i: self.up(x, i) for i in (3, 2, 1, 0))):
            out = step(h)
            self.free(h)
            h = out
        active = self.norm_silu(h, "decoder norm_out")
        self.free(h)
        self.weights(h.c, cfg.in_channels, 27)
        lead = 3 if h.t > 3 else 0
        out = self.add(h.but(cfg.in_channels, h.t - lead), "decoder conv_out")
        self.free(active)
        return out

    def _unpatchify(self, h: Map, top: int) -> Map:
        with self.m.hold(self.size(h), "decoder shortcut_in"):
            self.m.touch(self.size(h), "decoder shortcut_in")
        wide = self.conv(h, 8 * top, "decoder conv_unpatchify")
        self.m.touch(2 * self.size(wide), "decoder shortcut_unpatchify")
        out = h.but(top, 2 * h.t - 1, (2, 1))
        self.m.touch(self.size(wide) + self.size(out), "decoder unpatchify sum")
        self.free(wide, h)
        return self.add(out, "decoder unpatchify")

    def encoder(self, x: Map) -> Map:
        cfg = self.cfg
        h = self.conv(x, cfg.enc_ch, "encoder conv_in")
        for step in (*(lambda x, i=i: self.down(x, i) for i in range(4)), self.mid):
            out = step(h)
            self.free(h)
            h = out
        active = self.norm_silu(h, "encoder norm_out")
        self.free(h)
        if cfg.dual_path:
            active = self._patchify(active)
        out = self.conv(active, 2 * cfg.z_channels, "encoder conv_out")
        self.m.touch(2 * self.size(out), "encoder shortcut_out")
        self.free(active)
        return out

    def _patchify(self, h: Map) -> Map:
        narrow = self.conv(h, self.cfg.dual_path_width // 8, "encoder conv_patchify")
        padded = h.but(t=h.t + 1)
        out = h.but(self.cfg.dual_path_width, (h.t + 1) // 2, (1, 2))
        self.free(narrow)
        with self.m.hold(self.size(out), "encoder conv_patchify"):
            self.m.touch(2 * self.size(padded) + self.size(out), "encoder shortcut_patchify")
        self.free(h)
        return self.add(out, "encoder patchify")
