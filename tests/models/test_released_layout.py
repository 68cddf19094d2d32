"""The released layout: names and shapes at full size, both ways bit for bit, and errors that name file, tensor and
fix."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from released_layout import write_release
from safetensors.torch import load_file, save_file

from stepvideo.errors import ArtifactError
from stepvideo.models import checkpoints
from stepvideo.models.checkpoints import NETWORKS, vae_network
from stepvideo.models.clip import CLIPTextEncoder
from stepvideo.models.config import CLIPTextConfig, DiTConfig, VAEConfig
from stepvideo.models.dit import DiT
from stepvideo.models.tensor_files import entries, read
from stepvideo.models.video_vae import VideoVAE
from stepvideo.models.weights import listing, save_tensors

STEM = "diffusion_pytorch_model"
KEYS = Path(__file__).parents[1] / "data" / "golden" / "official_30b_keys.json"


@pytest.fixture(scope="module")
def official_keys():
    return json.loads(KEYS.read_text())


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    root = tmp_path_factory.mktemp("release")
    return root, write_release(root)


def shapes(network, root: Path) -> dict[str, list[int]]:
    held, _ = network.held(root, network.config(root))
    return {name: list(entry.shape) for name, entry in held.items()}


def test_files_at_full_size_have_the_released_names_and_shapes(release, official_keys):
    root, _ = release
    for network, name in (
        (NETWORKS["dit"], "dit_t2v"),
        (NETWORKS["step_llm"], "step_llm"),
        (vae_network(), "video_vae_v2"),  # preferred where both are there
        (vae_network("v1"), "video_vae_v1"),
    ):
        assert shapes(network, root) == dict(official_keys[name]["keys"]), name


def test_image_to_video_at_full_size(tmp_path, official_keys):
    sizes = write_release(tmp_path, image_to_video=True)
    assert shapes(NETWORKS["dit"], tmp_path) == dict(official_keys["dit_ti2v"]["keys"])
    assert [round(n / 1e9, 2) for n in sizes["dit"]] == [9.97] * 5 + [8.93]  # as released


def test_shards_have_the_released_sizes(release):
    _, sizes = release
    assert [round(n / 1e9, 2) for n in sizes["step_llm"]] == [4.98] + [4.79] * 7 + [0.62]


def test_the_released_vaes_fill_their_networks(release):
    """Every byte is read; the device keeps none."""
    root, _ = release
    v1 = checkpoints.load_vae(root, "meta", version="v1")
    assert v1.cfg.z_channels == 16 and not v1.cfg.spatial_group_norm and v1.num_latents(17) == 5
    with pytest.raises(ArtifactError, match=r"version='v3'.*v1 \(4x8x8\) or v2"):
        checkpoints.load_vae(root, version="v3")


def tiny_dit(**values) -> DiT:
    torch.manual_seed(0)
    model = DiT(DiTConfig(2, 16, 2, 4, 4, caption_channels=[12, 8], **values))
    model.init_weights(torch.Generator().manual_seed(0))
    return model.to(torch.bfloat16)


def tiny_vae(dual_path: bool = True) -> VideoVAE:
    torch.manual_seed(0)
    widths: dict = dict(enc_ch=4, enc_ch_mult=[1, 2, 4, 4], dec_ch=4, dec_ch_mult=[1, 2, 4, 4])
    return VideoVAE(VAEConfig(z_channels=4, num_res_blocks=1, num_groups=2, dual_path=dual_path, **widths))


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_round_trip_is_exact_and_a_second_save_gives_equal_bytes(tmp_path):
    torch.manual_seed(1)
    released = {k: torch.randn(v.shape).to(torch.bfloat16) for k, v in tiny_dit().state_dict().items()}
    checkpoints.save_dit(tiny_dit(), tmp_path / "in", shard_bytes=30_000)
    folder = tmp_path / "in" / "transformer"
    for path in folder.glob("*.safetensors"):
        save_file({k: released[k] for k in load_file(path)}, path)
    for name in ("a", "b"):
        checkpoints.save_dit(checkpoints.load_dit(tmp_path / "in"), tmp_path / name, shard_bytes=30_000)
    back = {k: v for p in (tmp_path / "a/transformer").glob("*.safetensors") for k, v in load_file(p).items()}
    assert back.keys() == released.keys() and len(list(folder.glob("*.safetensors"))) > 2
    assert all(v.dtype == torch.bfloat16 and torch.equal(v, released[k]) for k, v in back.items())
    assert content(tmp_path / "a" / "transformer") == content(tmp_path / "b" / "transformer")


@pytest.mark.parametrize("dual_path", [True, False], ids=["v2", "v1"])
def test_the_vaes_renamed_tensor_is_read_in_both_spellings_and_written_as_released(tmp_path, dual_path):
    model = tiny_vae(dual_path)
    checkpoints.save_vae(model, tmp_path)
    path = next((tmp_path / "vae").glob("*.safetensors"))
    released = load_file(path)
    assert ("decoder.conv_out.weight" in released) == dual_path
    swap = (
        {"decoder.conv_out.": "decoder.conv_out.conv."}
        if dual_path
        else {"decoder.conv_out.conv.": "decoder.conv_out."}
    )
    (a, b), *_ = swap.items()
    save_file({k.replace(a, b): v for k, v in released.items()}, path)
    back = checkpoints.load_vae(tmp_path)
    assert all(torch.equal(v, back.state_dict()[k]) for k, v in model.state_dict().items())
    checkpoints.save_vae(back, tmp_path / "again")
    assert load_file(tmp_path / "again" / "vae" / path.name).keys() == released.keys()


class Malicious:
    def __reduce__(self):
        return os.system, ("touch owned",)


def clip_folder(root: Path) -> Path:
    model = CLIPTextEncoder(CLIPTextConfig(30, 16, 1, 2, 24, 12))
    checkpoints.save_clip_text(model, root)
    folder = root / "hunyuan_clip" / "clip_text_encoder"
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


@pytest.mark.parametrize("write", [torch.save, lambda x, p: p.write_bytes(pickle.dumps(x))], ids=["torch", "pickle"])
def test_a_pickle_with_code_is_refused(tmp_path, monkeypatch, write):
    folder = clip_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    write({"bert.weight": Malicious()}, folder / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match=r"pytorch_model.bin is refused: .*code besides tensors"):
        checkpoints.load_clip_text(tmp_path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before torch 1.6"])
def test_torch_files_of_both_formats_load(tmp_path, old):
    folder = clip_folder(tmp_path)
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not old)
    back = checkpoints.load_clip_text(tmp_path).state_dict()
    assert all(torch.equal(v, back[k]) for k, v in state.items())
    path = folder / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ArtifactError, match="pytorch_model.bin is (damaged|refused)"):
        checkpoints.load_clip_text(tmp_path)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 9968000000\n"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: POINTER, "is a git-lfs pointer, not the file itself; run: git lfs pull"),
        (lambda b: b"<!DOCTYPE html><html>not found</html>", "is a web page"),
        (lambda b: b[:-100], r"is damaged: it ends after [\d,]+ bytes, inside tensor \S+; the copy was cut off"),
        (lambda b: b[:200], "is damaged or no safetensors file: no header"),
        (lambda b: b"", "is damaged or no safetensors file: no header"),
        (lambda b: b + b"\0", "is damaged: 1 bytes after the last tensor"),
        (lambda b: b.replace(b'"BF16"', b'"F64" ', 1), "is damaged or no safetensors file: .* bytes for F64"),
        (lambda b: b[:8] + b"{" * 50 + b[58:], "is damaged or no safetensors file"),
    ],
    ids=["pointer", "page", "cut", "cut in the header", "empty", "longer", "other dtype", "no json"],
)
def test_files_that_are_not_what_they_should_be(tmp_path, damage, message):
    checkpoints.save_dit(tiny_dit(), tmp_path)
    path = tmp_path / "transformer" / f"{STEM}.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ArtifactError, match=f"{STEM}.safetensors {message}"):
        checkpoints.load_dit(tmp_path)


def with_header(path: Path, change) -> None:
    raw = path.read_bytes()
    n = int.from_bytes(raw[:8], "little")
    head = change(json.loads(raw[8 : 8 + n]))
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + n :])


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h | {"a": h["a"] | {"shape": [-2, -3]}},
        lambda h: h | {"a": h["a"] | {"shape": [2.0, 3]}},
        lambda h: h | {"a": h["a"] | {"shape": [True, 6]}},
        lambda h: h | {"a": h["a"] | {"data_offsets": [0.0, 24]}},
        lambda h: h | {"a": h["a"] | {"data_offsets": [-4, 20]}},
        lambda h: h | {"a": h["a"] | {"dtype": "F99"}},
        lambda h: h | {"a": h["a"] | {"path": "/etc/passwd"}},
        lambda h: {"\x1b[2J" if k == "a" else k: v for k, v in h.items()},
        lambda h: {"\ud800" if k == "a" else k: v for k, v in h.items()},
        lambda h: b'{"a":0,' + json.dumps(h).encode()[1:],
        lambda h: b"[" * 100_000,
        lambda h: b'{"a":{"shape":[' + b"9" * 5000 + b"]}}",
    ],
    ids="negative float bool offset below dtype key escape surrogate twice deep long".split(),
)
def test_a_header_is_believed_in_nothing(tmp_path, change):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.arange(6.0).view(2, 3), "b": torch.zeros(0, 4)}, path)
    with_header(path, lambda h: h)
    assert dict(read(entries(path)))["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    with_header(path, change)
    with pytest.raises(ArtifactError, match="x.safetensors is damaged") as error:
        entries(path)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"PK\x03\x04", {1: torch.zeros(2)}, {"\n": torch.zeros(2)}, {"a": torch.eye(2).to_sparse()}],
)
def test_torch_files_that_hold_something_else(tmp_path, content):
    path = tmp_path / "x.bin"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ArtifactError, match="x.bin (is damaged|holds)"):
        entries(path)


def test_others_may_read_what_was_saved_and_a_file_is_no_folder(tmp_path):
    umask = os.umask(0o022)
    try:
        checkpoints.save_dit(tiny_dit(), tmp_path / "model")
    finally:
        os.umask(umask)
    assert {oct(p.stat().st_mode & 0o777) for p in (tmp_path / "model" / "transformer").iterdir()} == {"0o644"}
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="cannot write .*file/transformer"):
        checkpoints.save_dit(tiny_dit(), tmp_path / "file")


def test_a_save_that_is_interrupted_at_any_file_leaves_no_mixture(tmp_path, monkeypatch):
    """A checkpoint of zeros is overwritten by ones; whatever loads after the kill is of one save."""
    folder, replace = tmp_path / "m", os.replace

    class Killed(BaseException):
        pass

    for files in range(4):  # three shards and the index
        for value in (0.0, 1.0):
            left = [files] if value else [99]

            def moved(source, target, left=left):
                if not left[0]:
                    raise Killed
                left[0] -= 1
                replace(source, target)

            monkeypatch.setattr("stepvideo.models.weights.os.replace", moved)
            state = {f"t{i}": torch.full((10,), value) for i in range(3)}
            if value:
                with pytest.raises(Killed):
                    save_tensors(state, folder, "x", shard_bytes=40)
            else:
                save_tensors(state, folder, "x", shard_bytes=40)
                assert len(list(folder.iterdir())) == 4
        with pytest.raises(ArtifactError, match="index.json is missing beside 3 shards"):
            listing(folder, "x")


@pytest.fixture
def shards(tmp_path) -> Path:
    checkpoints.save_dit(tiny_dit(), tmp_path, shard_bytes=60_000)
    return tmp_path / "transformer"


def edit_index(folder: Path, change) -> None:
    path = folder / f"{STEM}.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


def test_shards_of_different_saves_are_named(shards, tmp_path, caplog):
    first = sorted(shards.glob("*-00001-of-*"))[0]
    tensors = load_file(first)
    save_file({k: v for k, v in tensors.items() if k != "pos_embed.proj.bias"}, first)
    with pytest.raises(ArtifactError, match=f"{first.name} lacks tensor pos_embed.proj.bias"):
        checkpoints.load_dit(tmp_path)
    save_file(tensors | {"stray": torch.zeros(1)}, first)
    with pytest.raises(ArtifactError, match=f"{first.name} holds tensor stray, which .* different saves"):
        checkpoints.load_dit(tmp_path)
    save_file(tensors, first)
    edit_index(shards, lambda index: index.update(metadata=[]))
    checkpoints.load_dit(tmp_path)
    edit_index(shards, lambda index: index.update(metadata={"total_size": 7}))
    checkpoints.load_dit(tmp_path)
    assert "says total_size 7, its tensors have" in caplog.text


def test_shard_counts_must_agree(shards, tmp_path):
    last = sorted(shards.glob("*.safetensors"))[-1]
    other = last.name.replace(last.name[-17:-12], "00099")
    last.rename(shards / other)

    def rename(index):
        index["weight_map"] = {k: other if v == last.name else v for k, v in index["weight_map"].items()}

    edit_index(shards, rename)
    with pytest.raises(ArtifactError, match=r"index.json names \d+ shards, whose names speak of \d+ and 99"):
        checkpoints.load_dit(tmp_path)


def test_shards_without_their_index_and_broken_indexes(shards, tmp_path):
    index = shards / f"{STEM}.safetensors.index.json"
    for text in (
        "[]",
        "{}",
        '{"weight_map": {"proj_out.bias": "../../elsewhere.safetensors"}}',
        '{"weight_map": {"\\ud800": "x"}}',
    ):
        index.write_text(text)
        with pytest.raises(ArtifactError, match="index.json has no weight_map from tensors to files beside it"):
            checkpoints.load_dit(tmp_path)
    index.unlink()
    with pytest.raises(ArtifactError, match=r"index.json is missing beside \d+ shards"):
        checkpoints.load_dit(tmp_path)


@pytest.mark.parametrize(
    ("cast", "message"),
    [
        (torch.float32, r"1 tensors have another dtype: proj_out.bias in \S+ is F32, \d+ others are BF16; .*dtype="),
        (torch.int64, r"1 tensors have another dtype: proj_out.bias in \S+ is I64"),
        (torch.float8_e4m3fn, r"proj_out.bias in \S+ is F8_E4M3, where weights are floats of 16 bits or more"),
    ],
)
def test_one_model_has_one_dtype(tmp_path, cast, message):
    checkpoints.save_dit(tiny_dit(), tmp_path)
    path = tmp_path / "transformer" / f"{STEM}.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"proj_out.bias": tensors["proj_out.bias"].to(cast)}, path)
    with pytest.raises(ArtifactError, match=message):
        checkpoints.load_dit(tmp_path)
    if cast == torch.float32:
        model = checkpoints.load_dit(tmp_path, dtype=torch.float16)
        assert {p.dtype for p in model.parameters()} == {torch.float16}
    else:
        with pytest.raises(ArtifactError, match="another dtype"):
            checkpoints.load_dit(tmp_path, dtype=torch.float32)


def test_weights_of_another_kind_are_recognised(tmp_path):
    checkpoints.save_dit(tiny_dit(use_additional_conditions=True), tmp_path / "ti2v")
    checkpoints.save_dit(tiny_dit(), tmp_path / "t2v")
    for a, b in (("ti2v", "t2v"), ("t2v", "ti2v")):
        mixed = tmp_path / f"{a} as {b}"
        shutil.copytree(tmp_path / a, mixed)
        shutil.copy(tmp_path / b / "transformer" / "config.json", mixed / "transformer")
        with pytest.raises(ArtifactError, match=rf"the weights are of \S+ \({a.upper()}\), the config is of") as error:
            checkpoints.load_dit(mixed)
        assert "pos_embed.proj.weight" in str(error.value)


def test_a_v1_vae_under_the_name_of_v2_is_recognised(tmp_path):
    for dual_path in (True, False):
        checkpoints.save_vae(tiny_vae(dual_path), tmp_path / str(dual_path))
    v2, v1 = tmp_path / "True" / "vae", tmp_path / "False" / "vae"
    shutil.copy(v1 / "vae.safetensors", v2 / "vae_v2.safetensors")
    with pytest.raises(ArtifactError, match=r"holds a Video-VAE v1 \(4x8x8\): name it vae.safetensors"):
        checkpoints.load_vae(tmp_path / "True")
    with pytest.raises(ArtifactError, match="holds a Video-VAE v1, not v2"):
        checkpoints.load_vae(tmp_path / "False", version="v2")
