"""Lightning's strategy for networks that `stepvideo.parallel` divides: it takes the ranks and their mesh from there."""

from __future__ import annotations

import os

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import ModelParallelStrategy

from stepvideo.parallel.train import TrainParallel


class MeshStrategy(ModelParallelStrategy):
    """ModelParallelStrategy knows data and tensor ranks only; ours may be replicas, shards, token and tensor ranks."""

    def __init__(self, parallel: TrainParallel) -> None:
        super().__init__()
        self._mesh = parallel.mesh

    def setup_environment(self) -> None:
        self._setup_distributed()  # finds the process group there already
        self._device_mesh = self._mesh
        assert self.lightning_module is not None
        self.lightning_module._device_mesh = self._mesh


def trainer(parallel: TrainParallel, precision: str, callbacks: list[Callback]) -> L.Trainer:
    """A Trainer that only loops, places and casts: data order, checkpoints and logs are ours."""
    ranks = int(os.environ.get("WORLD_SIZE", 1)) if parallel.mesh is not None else 1
    here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks)) if ranks > 1 else 1
    return L.Trainer(
        accelerator=parallel.device.type,
        devices=here,
        num_nodes=ranks // here,
        strategy=MeshStrategy(parallel) if ranks > 1 else "auto",
        # never SLURMEnvironment: it would install its own requeue handler (notes/mlops §0.8)
        plugins=[TorchElasticEnvironment() if ranks > 1 else LightningEnvironment()],
        precision="bf16-mixed" if precision == "fp8" else precision,  # type: ignore[arg-type]
        max_epochs=1,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        inference_mode=False,
    )
