"""This library: `Trainer.step()` on its own VAE, from the choice of the batch to the optimizer."""

import torch

from benchmarks.work import CASES, LEARNING_RATE, Work, check_bf16
from probgen.data import Split
from probgen.data.binarize import Binarizer
from probgen.inference.trainer import TrainConfig, Trainer
from probgen.models import VAE


def config_of(batch: int, compiled: str, precision: str) -> TrainConfig:
    """A run that does not end."""
    return TrainConfig(steps=10**9, batch_size=batch, lr=LEARNING_RATE, compile=compiled, precision=precision)


def setup(case: str, threads: int, compiled: str, precision: str = "32-true", device: str = "cpu") -> Work:
    """A trainer."""
    torch.set_num_threads(threads)
    if precision == "bf16-mixed":
        check_bf16(case, device)
    sizes = CASES[case]
    images = torch.from_numpy(sizes.images()).view(-1, 1, sizes.side, sizes.side)
    split = Split(images, binarizer=Binarizer("dynamic", sizes.levels)).to(device)
    vae = VAE((1, sizes.side, sizes.side), 2, latent_dim=sizes.latent, hidden=(sizes.hidden,)).to(device)
    return trained(Trainer(vae, split, config_of(sizes.batch, compiled, precision), device))


def trained(trainer: Trainer) -> Work:
    """The steps of a trainer."""

    def run(steps: int) -> int:
        for _ in range(steps):
            trainer.step()
        if reason := trainer.not_compiled:
            raise NotImplementedError(f"not compiled: {reason}")
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()
        return steps

    return Work(run, {"parameters": sum(p.numel() for p in trainer.parameters)})
