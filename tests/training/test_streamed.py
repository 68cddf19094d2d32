"""Training on samples that producers send equals training from the cache, to the bit, whoever dies on the way."""

from __future__ import annotations

import shutil

import pytest
import streamed_run
from killed_stages import attempts, finished, kill_after
from streamed_run import STEPS, Producers, prepare

from stepvideo.errors import ArtifactError, ConfigError
from stepvideo.stage import StageSpec
from stepvideo.training.checkpoint_files import SHARED, from_file, step_folder, steps
from stepvideo.training.train_data import TrainData


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, tiny_models):
    return streamed_run.make_inputs(tmp_path_factory.mktemp("inputs"), tiny_models)


@pytest.mark.soak
def test_killed_producers_and_a_killed_job_end_with_the_bytes_of_the_cache(inputs, tmp_path):
    whole = finished(prepare(inputs["cached"], tmp_path / "cached"))
    stage = prepare(inputs["streamed"], tmp_path / "streamed")
    with Producers(stage, "a", "b") as producers:
        kill_after(stage, 3, killed_in(producers, "a"))
        kept = steps(stage / "work" / "fit")[-1]
        mark = from_file(step_folder(stage / "work" / "fit", kept) / SHARED)["callbacks"]["stream"]
        assert mark["step"] == kept and mark["samples"] > 0
        producers.start("c")
        assert finished(stage) == whole
    assert attempts(stage)[-1] < STEPS, "it began anew"


def test_what_producers_cannot_make_is_refused_before_the_first_step(inputs, tmp_path):
    stage = prepare(inputs["streamed"], tmp_path)
    cfg = StageSpec.read(stage / "spec.json").typed_config()
    given = inputs["streamed"]
    with pytest.raises(ConfigError, match="needs vae, text as inputs: stepvideo run latents=streamed"):
        TrainData.open(cfg, {k: v for k, v in given.items() if k not in ("vae", "text")})
    with pytest.raises(ArtifactError, match="was made with on_the_fly=False, this needs on_the_fly=True"):
        TrainData.open(cfg, {**given, "latents": inputs["cached"]["latents"]})
    other = shutil.copytree(given["text"], tmp_path / "other")
    weights = next((other / "step_llm").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    with pytest.raises(ArtifactError, match="was made with text="):
        TrainData.open(cfg, {**given, "text": other})


def killed_in(producers: Producers, name: str) -> type:
    """A way to run a job in which a producer dies, with -9, when it is about to."""
    from killed_stages import Forks

    class Killing(Forks):
        def kill(self) -> None:
            producers.kill(name)
            super().kill()

    return Killing
