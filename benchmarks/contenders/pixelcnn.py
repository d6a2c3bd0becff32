"""Training steps of a PixelCNN of 15 blocks: `Trainer.step()`, in the memory layout of choice."""

import torch

from benchmarks.contenders.with_probgen import config_of, trained
from benchmarks.work import CASES, Work
from probgen.inference.batches import TensorImages
from probgen.inference.trainer import Trainer
from probgen.models import PixelCNN

BATCH = 16


def setup(case: str, threads: int, compiled: str, layout: str, precision: str = "32-true", device: str = "cpu") -> Work:
    """A trainer; channels_last is what the model chooses by itself."""
    torch.set_num_threads(threads)
    side, quick = CASES[case].side, case == "quick"
    images = torch.from_numpy(CASES[case].images()).view(-1, 1, side, side) % 2
    model = PixelCNN(images.shape[1:], 2, features=2 if quick else 32, blocks=1 if quick else 15, kernel=3)
    model = model.to(device=device)
    model.network.to(memory_format=getattr(torch, layout))
    return trained(Trainer(model, TensorImages(images.to(device)), config_of(BATCH, compiled, precision), device))
