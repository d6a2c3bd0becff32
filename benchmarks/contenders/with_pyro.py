"""Pyro as its users write it: `SVI`, `Trace_ELBO` (both terms by sampling), `pyro.optim.Adam`.

`loader`: a DataLoader turns each image into a tensor by itself, as torchvision's data sets do.
`tensors`: the same training, its batches indexed from one tensor.
"""

from collections.abc import Iterator

import pyro
import pyro.distributions as dist
import torch
from PIL import Image
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import ToTensor

from benchmarks.work import CASES, LEARNING_RATE, Case, Work


class Grey(Dataset):
    """Images one by one, each as a picture that becomes a tensor in [0, 1]."""

    def __init__(self, sizes: Case) -> None:
        self.images = sizes.images().reshape(-1, sizes.side, sizes.side)
        self.scale = 255 / (sizes.levels - 1)
        self.to_tensor = ToTensor()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.to_tensor(Image.fromarray(self.images[index]))


class VAE(nn.Module):
    """Networks, model and guide."""

    def __init__(self, sizes: Case) -> None:
        super().__init__()
        self.sizes = sizes
        self.hidden_of_x = nn.Linear(sizes.pixels, sizes.hidden)
        self.loc, self.log_scale = nn.Linear(sizes.hidden, sizes.latent), nn.Linear(sizes.hidden, sizes.latent)
        self.decoder = nn.Sequential(
            nn.Linear(sizes.latent, sizes.hidden), nn.ReLU(), nn.Linear(sizes.hidden, sizes.pixels)
        )

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            zero = x.new_zeros(len(x), self.sizes.latent)
            z = pyro.sample("latent", dist.Normal(zero, torch.ones_like(zero)).to_event(1))
            pyro.sample("obs", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", nn.ModuleList([self.hidden_of_x, self.loc, self.log_scale]))
        with pyro.plate("data", len(x)):
            hidden = self.hidden_of_x(x).relu()
            pyro.sample("latent", dist.Normal(self.loc(hidden), self.log_scale(hidden).exp()).to_event(1))


def loaded(sizes: Case, workers: int) -> Iterator[Tensor]:
    """Batch after batch from a DataLoader, in [0, 1]."""
    images = Grey(sizes)
    loader = DataLoader(images, batch_size=sizes.batch, shuffle=True, num_workers=workers, drop_last=True)
    while True:
        for batch in loader:
            yield batch.flatten(1) * images.scale


def indexed(sizes: Case) -> Iterator[Tensor]:
    """Batch after batch from one tensor, in [0, 1]."""
    images = torch.from_numpy(sizes.images())
    for rows in sizes.row_numbers():
        yield images.index_select(0, torch.from_numpy(rows)) * (1 / (sizes.levels - 1))


def setup(case: str, threads: int, data: str, workers: int = 0, device: str = "cpu") -> Work:
    """A training loop."""
    torch.set_num_threads(threads)
    pyro.enable_validation(False)  # as in Pyro's tutorial on this model, and faster
    sizes = CASES[case]
    vae = VAE(sizes).to(device)
    svi = SVI(vae.model, vae.guide, Adam({"lr": LEARNING_RATE}), loss=Trace_ELBO())
    batches = loaded(sizes, workers) if data == "loader" else indexed(sizes)

    def run(steps: int) -> int:
        for _ in range(steps):
            x = next(batches).to(device)
            svi.step((torch.rand_like(x) < x).float())
        return steps

    return Work(run, {"parameters": sum(p.numel() for p in vae.parameters())})
