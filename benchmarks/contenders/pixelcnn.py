"""Training steps of a PixelCNN of 15 blocks: `Trainer.step()`, in the form of choice."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.contenders.with_probgen import config_of, trained
from benchmarks.work import CASES, Work, check_bf16
from probgen.inference.batches import TensorImages
from probgen.inference.trainer import Trainer
from probgen.layers.causal import CausalConv2d
from probgen.models import PixelCNN

BATCH = 16


class MaskedConv2d(nn.Module):
    """The weight times the mask, convolved by torch; `whole`: over the whole kernel, as papers and tutorials write it.

    Otherwise over its upper half, as the layer whose place it takes.
    """

    mask: Tensor

    def __init__(self, layer: CausalConv2d, whole: bool) -> None:
        super().__init__()
        weight, mask = layer.weight.detach(), layer.mask
        if whole:
            weight, mask = (F.pad(each, (0, 0, 0, layer.above)) for each in (weight, mask))
        self.weight, self.bias = nn.Parameter(weight.clone()), nn.Parameter(layer.bias.detach().clone())
        self.register_buffer("mask", mask)
        self.border = (layer.aside, layer.aside, layer.above, layer.above if whole else 0)

    def forward(self, x: Tensor, cursor: None = None) -> Tensor:
        """All pixels at once."""
        return F.conv2d(F.pad(x, self.border), self.weight * self.mask, self.bias)


def in_torchs_form(network: nn.Module, whole: bool) -> None:
    """The same function, every causal convolution by torch, forward and backward."""
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, CausalConv2d):
                setattr(parent, name, MaskedConv2d(layer, whole))


def setup(
    case: str,
    threads: int,
    compiled: str,
    form: str = "probgen",
    precision: str = "32-true",
    device: str = "cpu",
) -> Work:
    """A trainer. form: `half` or `whole` kernels, by torch in its default layout; else what the model does itself."""
    torch.set_num_threads(threads)
    if precision == "bf16-mixed":
        check_bf16(case, device)
    side, quick = CASES[case].side, case == "quick"
    images = torch.from_numpy(CASES[case].images()).view(-1, 1, side, side) % 2
    model = PixelCNN(images.shape[1:], 2, features=2 if quick else 32, blocks=1 if quick else 15, kernel=3)
    if form != "probgen":
        in_torchs_form(model.network, whole=form == "whole")
        model.network.to(memory_format=torch.contiguous_format)
    model = model.to(device=device)
    work = trained(Trainer(model, TensorImages(images.to(device)), config_of(BATCH, compiled, precision), device))
    return Work(work.run) if form == "whole" else work  # it holds weights that are masked, and has more of them
