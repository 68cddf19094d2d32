"""`generate`: files that play and know how they were made; every mistake names its fix and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from stepvideo.data.video_io import read_image, read_metadata, read_video, video_fps
from stepvideo.errors import ArtifactError, StepVideoError
from stepvideo.inference.generate import generate
from stepvideo.inference.memory.config import MemoryConfig
from stepvideo.inference.outputs import read_made_by
from stepvideo.inference.pipeline import StepVideoPipeline
from stepvideo.inference.requests import Request, from_file

PROMPT = "一个红色的大圆向右移动"


@pytest.fixture(scope="module")
def pipe(tiny_models) -> StepVideoPipeline:
    return StepVideoPipeline.from_pretrained(tiny_models, device="cpu")


def quiet(_text: str) -> None: ...


def test_writes_a_video_that_knows_how_it_was_made(pipe, tmp_path):
    said: list[str] = []
    out = tmp_path / "red.mp4"
    (done,) = generate(pipe, [Request(PROMPT, out, 3)], fps=10, lineage={"model": "tiny"}, say=said.append)
    assert read_video(out).shape == (17, 192, 192, 3) and video_fps(out) == 10
    assert done.nfe == 8 and done.seconds > 0 and not done.cached
    assert "8 evaluations" in said[0] and "17 frames of 32x32" in said[0]
    assert [p.name for p in tmp_path.iterdir()] == ["red.mp4"]
    made_by = read_made_by(out)
    assert made_by.items() >= {"prompt": PROMPT, "seed": 3, "steps": 4, "cfg": 3.0, "model": "tiny", "fps": 10}.items()
    assert made_by["weights"] == pipe.digest and len(pipe.digest) == 16
    assert read_metadata(out)["title"] == PROMPT


def test_the_seed_decides(pipe, tmp_path):
    """The released code ignores its seed (notes/official.md §8.1); this must not."""

    def pixels(name: str, seed: int) -> np.ndarray:
        generate(pipe, [Request(PROMPT, tmp_path / name, seed)], say=quiet, min_side=0)
        return read_video(tmp_path / name)

    first = pixels("a.mp4", 1)
    assert first.shape == (17, 32, 32, 3)
    assert np.array_equal(first, pixels("b.mp4", 1))
    assert not np.array_equal(first, pixels("c.mp4", 2))


def test_stills_and_previews(pipe, tmp_path):
    options = {"num_frames": 1, "num_inference_steps": 2, "guidance_scale": 1.0}
    (done,) = generate(pipe, [Request("a red circle", tmp_path / "red.png", options=options)], say=quiet)
    assert (done.nfe, done.settings.sampling.steps) == (2, 2)
    assert read_image(tmp_path / "red.png").shape == (192, 192, 3)
    assert read_made_by(tmp_path / "red.png")["prompt"] == "a red circle"
    for preview, frames in (("gif", 17), ("png", 1)):
        from PIL import Image

        generate(pipe, [Request(PROMPT, tmp_path / f"{preview}.mp4")], preview=preview, say=quiet)
        with Image.open(tmp_path / f"{preview}.{preview}") as image:
            assert getattr(image, "n_frames", 1) == frames


def test_an_interrupted_batch_goes_on(pipe, tmp_path):
    requests = [Request(PROMPT, tmp_path / f"{seed}.mp4", seed) for seed in range(4)]
    steps: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        steps.append((done, total))
        if done == 10:  # in the middle of the third of four videos
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(pipe, requests, on_step=stop, say=quiet)
    assert steps[-1] == (10, 16)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.mp4", "1.mp4"]
    before = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    steps.clear()
    results = generate(pipe, requests, on_step=lambda *s: steps.append(s), say=quiet)
    assert [r.cached for r in results] == [True, True, False, False]
    assert steps[0] == (1, 8) and steps[-1] == (8, 8)
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())
    alone = tmp_path / "alone"
    alone.mkdir()
    generate(pipe, [Request(PROMPT, alone / "3.mp4", 3)], say=quiet)
    assert (alone / "3.mp4").read_bytes() == (tmp_path / "3.mp4").read_bytes()


def test_files_of_other_settings_are_kept(pipe, tmp_path):
    out = tmp_path / "a.mp4"
    generate(pipe, [Request(PROMPT, out)], say=quiet)
    other = Request(PROMPT, out, options={"guidance_scale": 2.0})
    with pytest.raises(StepVideoError, match=r"made with other settings \(cfg\)"):
        generate(pipe, [other], say=quiet)
    assert read_made_by(out)["cfg"] == 3.0
    generate(pipe, [other], say=quiet, overwrite=True)
    assert read_made_by(out)["cfg"] == 2.0
    out.write_bytes(b"somebody's file")
    with pytest.raises(StepVideoError, match="by something else"):
        generate(pipe, [other], say=quiet)
    assert out.read_bytes() == b"somebody's file"


def test_prompt_files(tmp_path):
    common = Request("", tmp_path, 5, options={"height": 32})
    (tmp_path / "p.txt").write_text("\ufeff一个红色的圆\n\n  a blue square!  \n", encoding="utf-8")
    made = from_file(tmp_path / "p.txt", tmp_path, common, 2)
    assert [(r.prompt, r.seed, r.out.name) for r in made] == [
        ("一个红色的圆", 5, "0001-s5-一个红色的圆"),
        ("一个红色的圆", 6, "0001-s6-一个红色的圆"),
        ("a blue square!", 5, "0002-s5-a-blue-square"),
        ("a blue square!", 6, "0002-s6-a-blue-square"),
    ]
    (tmp_path / "p.txt").write_bytes("a\u2028b\x85c\r\nd\r\n".encode())
    assert [r.prompt for r in from_file(tmp_path / "p.txt", tmp_path, common, 1)] == ["a\u2028b\x85c", "d"]
    lines = '{"prompt": "x", "seed": 1, "image": "i.png", "guidance_scale": 2}\n{"prompt": "../../etc", "height": 64}'
    (tmp_path / "p.jsonl").write_text(lines)
    first, second = from_file(tmp_path / "p.jsonl", tmp_path, common, 1)
    assert (first.seed, first.image) == (1, str(tmp_path / "i.png"))
    assert first.options == {"height": 32, "guidance_scale": 2}
    assert second.out == tmp_path / "0002-etc" and second.options == {"height": 64}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "p.jsonl line 2 is no JSON object"),
        ('{"text": "x"}', 'line 2 has no text "prompt"'),
        ('{"prompt": "x", "cfg": 3}', "line 2: unknown keys cfg"),
        ('{"prompt": "x", "height": "64"}', "line 2: height='64' must be of type int"),
        ('{"prompt": "x", "seed": true}', "line 2: seed=True must be of type int"),
    ],
)
def test_wrong_lines_are_named(tmp_path, text, message):
    (tmp_path / "p.jsonl").write_text('{"prompt": "fine"}\n' + text)
    with pytest.raises(StepVideoError, match=message):
        from_file(tmp_path / "p.jsonl", tmp_path, Request("", tmp_path), 1)


@pytest.mark.parametrize(("content", "message"), [(b"\n \n", "holds no prompt"), (b"\xff\xfe", "cannot be read")])
def test_files_without_prompts(tmp_path, content, message):
    (tmp_path / "p.txt").write_bytes(content)
    with pytest.raises(StepVideoError, match=message):
        from_file(tmp_path / "p.txt", tmp_path, Request("", tmp_path), 1)


@pytest.mark.parametrize(
    ("prompt", "name", "changes", "message"),
    [
        ("一条龙", "a.mp4", {}, "no token for"),
        (PROMPT, "a.gif", {}, "ends in .mp4"),
        (PROMPT, "a.mp4", {"num_frames": 1}, "ends in .png"),
        (PROMPT, "a.mp4", {"width": 8}, "width=8 is too small"),
        (PROMPT, "a.mp4", {"num_frames": 0}, "frames=0"),
        (PROMPT, "a.mp4", {"step": 3}, "sampling has no step"),
        (PROMPT, "none/a.mp4", {}, "there is no folder"),
        (PROMPT, "红" * 80 + ".mp4", {}, "too long for the name of a file"),
        (PROMPT, "a.mp4", {"guidance_scale": float("nan")}, "cfg=nan: give a finite number"),
        (PROMPT, "a.mp4", {"time_shift": float("inf")}, "time_shift=inf: give a finite number"),
        (PROMPT, "a.mp4", {"time_shift": 1e39}, "1e.06 at most"),
        (PROMPT, "a.mp4", {"num_frames": float("nan")}, "frames=nan"),
        (PROMPT, "a.mp4", {"num_inference_steps": "x"}, "steps='x'"),
        (PROMPT, "a.mp4", {"motion_score": 3.0}, "only image-to-video takes one"),
    ],
)
def test_mistakes_name_the_fix_and_leave_nothing(pipe, tmp_path, prompt, name, changes, message):
    with pytest.raises(StepVideoError, match=message):
        generate(pipe, [Request(prompt, tmp_path / name, options=changes)], say=quiet)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), 0.001])
def test_impossible_frame_rates(pipe, tmp_path, fps):
    with pytest.raises(StepVideoError, match="fps=.*: give frames a second"):
        generate(pipe, [Request(PROMPT, tmp_path / "a.mp4")], fps=fps, preview="gif", say=quiet)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_told_before_the_work(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    monkeypatch.setattr(pipe.engine, "sample", None)
    with pytest.raises(StepVideoError, match="a.mp4 cannot be written"):
        generate(pipe, [Request(PROMPT, tmp_path / "a.mp4")], say=quiet)


def test_names_without_ending_get_that_of_their_frames(pipe, tmp_path):
    still = Request(PROMPT, tmp_path / "still", options={"num_frames": 9})  # floored to 1
    done = generate(pipe, [still, Request(PROMPT, tmp_path / "moving")], say=quiet)
    assert [g.path.name for g in done] == ["still.png", "moving.mp4"] and all(g.path.exists() for g in done)


@pytest.mark.parametrize("preview", ["png", "gif"])
def test_a_preview_replaces_nobodys_file(pipe, tmp_path, preview):
    """`--image a.png --out a.mp4 --preview png` must not destroy the image."""
    beside = tmp_path / f"a.{preview}"
    beside.write_bytes(b"somebody's file")
    request = Request(PROMPT, tmp_path / "a.mp4")
    with pytest.raises(StepVideoError, match=rf"a.{preview} was made by something else"):
        generate(pipe, [request], preview=preview, say=quiet)
    assert [p.name for p in tmp_path.iterdir()] == [beside.name]
    generate(pipe, [request], preview=preview, say=quiet, overwrite=True)
    made = read_made_by(beside)
    assert made == read_made_by(request.out) and made["prompt"] == PROMPT
    with pytest.raises(StepVideoError, match="two requests would write"):
        still = Request(PROMPT, tmp_path / "a.png", options={"num_frames": 1})
        generate(pipe, [request, still], preview="png", say=quiet, overwrite=True)


def test_a_missing_preview_is_made_from_the_video(pipe, tmp_path):
    request = Request(PROMPT, tmp_path / "a.mp4")
    generate(pipe, [request], say=quiet)
    before = request.out.read_bytes()
    (done,) = generate(pipe, [request], preview="gif", say=quiet)
    assert done.cached and request.out.read_bytes() == before
    assert read_made_by(tmp_path / "a.gif") == read_made_by(request.out)


def test_half_a_file_is_not_taken_for_a_whole_one(pipe, tmp_path):
    requests = [Request(PROMPT, tmp_path / "a"), Request(PROMPT, tmp_path / "b", options={"num_frames": 1})]
    for done in generate(pipe, requests, say=quiet):
        whole = done.path.read_bytes()
        done.path.write_bytes(whole[: len(whole) // 2])
    for request in requests:
        with pytest.raises(StepVideoError, match="by something else"):
            generate(pipe, [request], say=quiet)


def test_features_that_are_missing_are_told_before_the_first_video(pipe, tmp_path):
    requests = [Request(p, tmp_path / f"{i}.mp4") for i, p in enumerate([PROMPT, "a red circle"])]
    with pytest.raises(StepVideoError, match="no text features of 'a red circle'"):
        generate(pipe, requests, features=pipe.encode([PROMPT, ""]), say=quiet)
    with pytest.raises(StepVideoError, match="no text features of ''"):
        generate(pipe, requests, features=pipe.encode([PROMPT, "a red circle"]), say=quiet)
    assert not list(tmp_path.iterdir())
    alone = Request(PROMPT, tmp_path / "a.mp4", options={"guidance_scale": 1.0})  # needs no negative prompt
    assert generate(pipe, [alone], features=pipe.encode([PROMPT]), say=quiet)[0].nfe == 4


def test_texts_that_no_file_can_hold(pipe, tiny_models, tmp_path):
    """Half a surrogate pair, as `json` and a shell's broken bytes give; and what ends a C string."""
    root = shutil.copytree(tiny_models, tmp_path / "released")
    (root / "text_lengths.json").unlink()  # a released vocabulary takes any text
    released = StepVideoPipeline.from_pretrained(root, device="cpu")
    for name in ("a.mp4", "b.png"):
        options = {"num_inference_steps": 1, **({"num_frames": 1} if name == "b.png" else {})}
        request = Request("half \ud800 nul \0 pair \ud83d\ude42", tmp_path / name, options=options)
        assert not generate(released, [request], say=quiet)[0].cached
        assert generate(released, [request], say=quiet)[0].cached
        assert read_made_by(tmp_path / name)["prompt"] == "half \ufffd nul \0 pair 🙂"


def test_one_wrong_request_stops_all_before_the_first(pipe, tmp_path):
    bad = Request(PROMPT, tmp_path / "b.mp4", options={"num_inference_steps": -1})
    with pytest.raises(StepVideoError, match="steps=-1"):
        generate(pipe, [Request(PROMPT, tmp_path / "a.mp4"), bad], say=quiet)
    with pytest.raises(StepVideoError, match="two requests would write"):
        generate(pipe, [Request(PROMPT, tmp_path / "a.mp4")] * 2, say=quiet)
    assert not list(tmp_path.iterdir())


def test_missing_models_are_named(tiny_models, tmp_path):
    with pytest.raises(ArtifactError, match="holds no vae/; train a model first.*as `vae`"):
        StepVideoPipeline.from_pretrained(tiny_models, vae=tmp_path)


def test_a_full_disk_leaves_nothing(pipe, tmp_path, monkeypatch):
    def full(*_a: object, **_k: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ArtifactError, match="No space left on device"):
        generate(pipe, [Request(PROMPT, tmp_path / "a.mp4")], say=quiet)
    assert not list(Path(tmp_path).iterdir())


def test_options_that_change_a_video_are_told_in_its_metadata(pipe, tiny_models, tmp_path):
    tiles = MemoryConfig(vae_tile=16, vae_overlap=0)
    tiled = StepVideoPipeline.from_pretrained(tiny_models, device="cpu", memory=tiles)
    request = Request(PROMPT, tmp_path / "a.mp4")
    generate(pipe, [request], say=quiet)
    with pytest.raises(StepVideoError, match=r"made with other settings \(vae_overlap, vae_tile\)"):
        generate(tiled, [request], say=quiet)
    generate(tiled, [request], say=quiet, overwrite=True)
    assert read_made_by(tmp_path / "a.mp4")["vae_tile"] == 16
    with pytest.raises(StepVideoError, match=r"made with other settings \(vae_overlap, vae_tile\)"):
        generate(pipe, [request], say=quiet)
