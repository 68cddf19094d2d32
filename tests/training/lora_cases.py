"""A small network with adapters, and what its ranks do: three steps against the network without them, as in DPO."""

from __future__ import annotations

import torch
from latent_cache import DIT, WIDTH, Z
from torch import Tensor

from stepvideo.data.source import deal
from stepvideo.models.config import DiTConfig
from stepvideo.models.dit import DiT
from stepvideo.parallel.config import TrainParallelConfig
from stepvideo.parallel.train import TrainParallel
from stepvideo.training import lora
from stepvideo.training.lora_config import LoRAConfig

CFG = LoRAConfig(rank=4, alpha=8.0)
BATCH = 4


def network(dtype=torch.float32, **changes):
    model = DiT(DiTConfig(**{**DIT, "num_layers": 2, **changes})).to(dtype)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=draw))
    return model


def batch(n=2):
    draw = torch.Generator().manual_seed(1)
    return {
        "hidden_states": torch.randn(n, 3, Z, 4, 4, generator=draw),
        "encoder_hidden_states": torch.randn(n, 5, WIDTH, generator=draw),
        "encoder_hidden_states_2": torch.randn(n, 5, WIDTH, generator=draw),
        "encoder_attention_mask": torch.ones(n, 10, dtype=torch.int64),
        "timestep": torch.rand(n, generator=draw),
    }


def three_steps(cfg: TrainParallelConfig, world_size: int) -> tuple[list[float], list[float], dict[str, Tensor]]:
    """Losses and gradient norms of the steps, and on rank 0 all tensors at the end."""
    parallel = TrainParallel.start(cfg, world_size, "cpu")
    net = network()
    lora.apply(net, CFG, seed=3, tensor=cfg.tensor)
    parallel.divide(net, precision="32-true")
    learning = [p for p in net.parameters() if p.requires_grad]
    opt = torch.optim.SGD(learning, lr=0.05)  # linear in the gradients: Adam would blow up the rounding of small ones
    everything = batch(BATCH)
    target = torch.randn(everything["hidden_states"].shape, generator=torch.Generator().manual_seed(2))
    (mine,) = deal(BATCH, parallel.data_rank, parallel.data_size)
    args = {k: v[mine] for k, v in everything.items()}
    share = len(mine) / BATCH
    losses, norms = [], []
    for _ in range(3):
        opt.zero_grad()
        parallel.micro_batch([net], first=True, last=True)
        with lora.adapters_off(net):
            reference = net(**args)
        loss = (net(**args) - reference - target[mine]).square().mean()
        (loss * share * parallel.data_size).backward()
        parallel.finish_gradients([net])
        norms.append(float(parallel.clip_(net.parameters(), 0.5)))
        losses.append(float(parallel.mean(loss.detach() * share * parallel.data_size)))
        opt.step()
    whole = parallel.whole(net)
    return losses, norms, {} if whole is None else {k: v.clone() for k, v in whole.state_dict().items()}
