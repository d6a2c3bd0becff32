"""The same training step in plain PyTorch, written by hand and compiled as far as it goes.

`loss`: the draw of the binary batch and the loss are compiled, autograd and the fused Adam follow.
`step`: gradients and Adam too, all in one graph: no autograd engine, no optimizer object is left at run time.
`bf16`: the networks under autocast.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.work import CASES, LEARNING_RATE, Case, Work, check_bf16

Tensors = dict[str, Tensor]
RANDOM = {"fallback_random": True}  # torch's own generator: an eighth faster than the one that is compiled in


class Network(nn.Module):
    """Encoder and decoder."""

    def __init__(self, case: Case, bf16: bool) -> None:
        super().__init__()
        self.bf16 = bf16
        self.encoder = nn.Sequential(
            nn.Linear(case.pixels, case.hidden), nn.ReLU(), nn.Linear(case.hidden, 2 * case.latent)
        )
        self.decoder = nn.Sequential(
            nn.Linear(case.latent, case.hidden), nn.ReLU(), nn.Linear(case.hidden, case.pixels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """−ELBO per image, its KL in closed form."""
        mu, log_sigma = self.through(self.encoder, x).chunk(2, -1)
        sigma = log_sigma.exp()
        logits = self.through(self.decoder, mu + sigma * torch.randn_like(mu))
        kl = 0.5 * (mu.square() + sigma.square() - 1).sum() - log_sigma.sum()
        return (F.binary_cross_entropy_with_logits(logits, x, reduction="sum") + kl) / len(x)

    def through(self, part: nn.Module, x: Tensor) -> Tensor:
        """What a part gives, in float32."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            return part(x).float()


def drawn(grey: Tensor, levels: int) -> Tensor:
    """Zeros and ones, P(1) = grey / (levels − 1)."""
    return (torch.rand(grey.shape, device=grey.device) * (levels - 1) < grey).float()


def setup(case: str, threads: int, compiled: str, bf16: bool = False, device: str = "cpu") -> Work:
    """A training loop."""
    torch.set_num_threads(threads)
    if bf16:
        check_bf16(case, device)
    sizes = CASES[case]
    images = torch.from_numpy(sizes.images()).to(device)
    network = Network(sizes, bf16).to(device)
    options = {**RANDOM, "cpp_wrapper": device == "cpu"}  # no Python between the kernels
    step = {"loss": loss_step, "step": whole_step}[compiled](network, sizes.levels, options)
    rows = map(torch.from_numpy, sizes.row_numbers())

    def run(steps: int) -> int:
        for _ in range(steps):
            step(images.index_select(0, next(rows).to(device)))
        if device == "cuda":
            torch.cuda.synchronize()
        return steps

    return Work(run, {"parameters": sum(p.numel() for p in network.parameters())})


def loss_step(network: Network, levels: int, options: dict[str, bool]):
    """Compiled loss, fused Adam."""
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, fused=True)
    loss = torch.compile(lambda grey: network(drawn(grey, levels)), options=options)

    def step(grey: Tensor) -> None:
        optimizer.zero_grad()
        loss(grey).backward()
        optimizer.step()

    return step


def whole_step(network: Network, levels: int, options: dict[str, bool]):
    """One graph: batch, loss, gradients, Adam in place."""
    weights = {name: p.detach() for name, p in network.named_parameters()}
    first = {name: torch.zeros_like(w) for name, w in weights.items()}
    second = {name: torch.zeros_like(w) for name, w in weights.items()}
    count = torch.zeros((), device=next(iter(weights.values())).device)

    def loss(weights: Tensors, x: Tensor) -> Tensor:
        return torch.func.functional_call(network, weights, (x,))

    @torch.compile(fullgraph=True, options=options)
    def step(grey: Tensor) -> None:
        gradients = torch.func.grad(loss)(weights, drawn(grey, levels))
        count.add_(1)
        rate, spread = LEARNING_RATE / (1 - 0.9**count), 1 / (1 - 0.999**count)
        for name, gradient in gradients.items():
            first[name].lerp_(gradient, 0.1)
            second[name].lerp_(gradient.square(), 0.001)
            weights[name].sub_(rate * first[name] / ((spread * second[name]).sqrt() + 1e-8))

    return step
