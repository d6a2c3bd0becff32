"""pythae's `BaseTrainer` on its `VAE`: whole epochs of `train_step`, KL in closed form.

Its data set is binary from the start, a tensor: it draws nothing anew for a batch, and so has less to do.
"""

import math
import tempfile

import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import CallbackHandler, TrainingCallback
from torch import Tensor, nn

from benchmarks.work import CASES, LEARNING_RATE, Case, Work

BATCHES = 40  # in an epoch: so that a round need not be a whole epoch of the data


class Encoder(BaseEncoder):
    """x → μ, log σ²."""

    def __init__(self, sizes: Case) -> None:
        super().__init__()
        self.hidden = nn.Linear(sizes.pixels, sizes.hidden)
        self.both = nn.Linear(sizes.hidden, 2 * sizes.latent)

    def forward(self, x: Tensor) -> ModelOutput:
        mu, log_variance = self.both(self.hidden(x).relu()).chunk(2, -1)
        return ModelOutput(embedding=mu, log_covariance=log_variance)


class Decoder(BaseDecoder):
    """z → probabilities, which pythae's cross entropy asks for."""

    def __init__(self, sizes: Case) -> None:
        super().__init__()
        self.hidden = nn.Linear(sizes.latent, sizes.hidden)
        self.last = nn.Linear(sizes.hidden, sizes.pixels)

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.last(self.hidden(z).relu()).sigmoid())


def setup(case: str, threads: int) -> Work:
    """A trainer, without its progress bar."""
    torch.set_num_threads(threads)
    sizes = CASES[case]
    grey = torch.from_numpy(sizes.images()[: BATCHES * sizes.batch])
    binary = (grey * 2 >= sizes.levels).float()
    options = VAEConfig(input_dim=(sizes.pixels,), latent_dim=sizes.latent, reconstruction_loss="bce")
    model = VAE(options, encoder=Encoder(sizes), decoder=Decoder(sizes))
    config = BaseTrainerConfig(
        output_dir=tempfile.gettempdir(),
        num_epochs=1,
        learning_rate=LEARNING_RATE,
        per_device_train_batch_size=sizes.batch,
        no_cuda=True,
    )
    trainer = BaseTrainer(model, BaseDataset(binary, torch.zeros(len(binary))), training_config=config)
    trainer.callback_handler = CallbackHandler([TrainingCallback()], model=model)
    trainer.set_optimizer()
    batches = math.ceil(len(binary) / sizes.batch)

    def run(steps: int) -> int:
        epochs = math.ceil(steps / batches)
        for epoch in range(epochs):
            trainer.train_step(epoch + 1)
        return epochs * batches

    return Work(run, {"parameters": sum(p.numel() for p in model.parameters())})
