"""The two players of a run on one batch: the game's value, and who gets which gradient."""

import torch
from jaxtyping import Float64
from torch import Tensor

from probgen.explanations.lines import Chain, Line, mean_of
from probgen.explanations.subject import Subject
from probgen.inference.adversarial.losses import Loss, make_loss

LOSS, AUTOGRAD = "probgen.inference.adversarial.losses.make_loss", "torch.autograd.grad"

FORMULAS = {
    "minimax": "E_x[log D(x)] + E_z[log(1 − D(G(z)))]",
    "non-saturating": "E_x[log D(x)] + E_z[log(1 − D(G(z)))]",
    "least-squares": "−½ E_x[(D(x) − 1)²] − ½ E_z[D(G(z))²]",
    "hinge": "E_x[min(0, D(x) − 1)] + E_z[min(0, −1 − D(G(z)))]",
    "wasserstein": "E_x[D(x)] − E_z[D(G(z))]",
    "relativistic": "E[log σ(D(x) − D(G(z)))]",
}


def written_out(name: str, real: Float64[Tensor, " n"], fake: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    """What is averaged in V, as in `FORMULAS`, for each pair of a real and a generated image."""
    forms = {
        "minimax": log_sigmoid(real) + log_sigmoid(-fake),
        "non-saturating": log_sigmoid(real) + log_sigmoid(-fake),
        "least-squares": -((real - 1) ** 2) / 2 - fake**2 / 2,
        "hinge": (real - 1).clamp_max(0) + (-1 - fake).clamp_max(0),
        "wasserstein": real - fake,
        "relativistic": log_sigmoid(real - fake),
    }
    return forms[name]


def log_sigmoid(s: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    """log σ(s) = −log(1 + e^−s), finite however sure a discriminator is; log(1 − σ(s)) is that of −s."""
    return -torch.logaddexp(torch.zeros_like(s), -s)


class Game:
    """Both players of a run on one batch: logits, and their gradients."""

    def __init__(self, subject: Subject, loss: Loss) -> None:
        self.pair, self.loss, packing = subject.pair, loss, subject.pair.objective.packing
        self.num = len(subject.images) - len(subject.images) % packing
        self.labels = [] if subject.labels is None else [subject.labels[: self.num]]
        self.x = subject.images[: self.num]
        self.real = self.judged(self.x)
        self.fake = self.judged(self.pair.model(self.num, *self.labels))
        self.players = {
            name: [p for p in getattr(self.pair, name).parameters() if p.requires_grad]
            for name in ("generator", "discriminator")
        }

    def judged(self, images: Tensor) -> Tensor:
        """A logit for each image, or pack."""
        return self.pair.judge(self.pair.seen(images), *self.labels)

    def norm(self, of: Tensor, player: str) -> float:
        """The norm of a number's gradient in a player's parameters; 0 where there is no path."""
        if not of.requires_grad:
            return 0.0
        return float(torch.nn.utils.get_total_norm(self.gradients(of, player)))

    def gradients(self, of: Tensor, player: str) -> tuple[Tensor, ...]:
        """A number's gradient in each of a player's parameters; 0 in those without a path."""
        return torch.autograd.grad(of, self.players[player], retain_graph=True, materialize_grads=True)

    def value(self) -> tuple[Chain, ...]:
        """V by the loss, as it is written; and of two halves with draws of their own."""
        real, fake = self.real.detach(), self.fake.detach()
        each, middle = written_out(self.loss.name, real, fake), len(real) // 2
        lines = [
            Line("", "V(D, G)", float(self.loss.value(real, fake)), f"loss={self.loss.name}, as it is trained", LOSS),
            Line("=", FORMULAS[self.loss.name], float(each.mean()), "written out, over the same images"),
        ]
        told = Chain("the value", tuple(lines), self.unit)
        if middle > 1:
            first, second = (mean_of(part) for part in (each[:middle], each[middle:]))
            halves = (
                Line("", "V(D, G), of the first half of them", first, "a sample of x and z"),
                Line("=", "V(D, G), of the second half", second, "another: the same expectations"),
            )
            return told, Chain("the value is an expectation", halves, self.unit)
        return (told,)

    def both_players(self) -> tuple[Chain, Chain, Chain]:
        """Which gradients there are: each term's, in each player's parameters."""
        whole = self.loss.value(self.real, self.fake)
        by_fake, by_real = (
            self.loss.value(self.real.detach(), self.fake),
            self.loss.value(self.real, self.fake.detach()),
        )
        generator = (
            Line("", "|∂V/∂θ|, θ the generator's parameters", self.norm(whole, "generator"), "of all of V", AUTOGRAD),
            Line("=", "|∂V/∂θ|, D(x) held fixed", self.norm(by_fake, "generator"), "its path is D(G(z))", AUTOGRAD),
        )
        nothing = (
            Line("", "|∂V/∂θ|, D(G(z)) held fixed", self.norm(by_real, "generator"), "what is left", AUTOGRAD),
            Line("=", "0", 0.0, "real images do not depend on G"),
        )
        sides = (self.gradients(by, "discriminator") for by in (by_fake, by_real))
        joined = [a + b for a, b in zip(*sides, strict=True)]
        discriminator = (
            Line("", "|∂V/∂φ|, φ the discriminator's", self.norm(whole, "discriminator"), "of all of V", AUTOGRAD),
            Line("=", "|∂V/∂φ through D(x) + ∂V/∂φ through D(G(z))|", float(torch.nn.utils.get_total_norm(joined)),
                 "it learns from both", AUTOGRAD),
        )  # fmt: skip
        unit = "per unit of parameters"
        return (
            Chain("the generator learns from generated images alone", generator, unit),
            Chain("the generator learns nothing from real images", nothing, unit),
            Chain("the discriminator learns from both", discriminator, unit),
        )

    def saturation(self) -> tuple[Chain, Chain]:
        """Both classical generators' gradients, were the logit that of a probability."""
        chains = []
        d = self.fake.detach().sigmoid()
        told = {"minimax": "log(1 − D(G(z)))", "non-saturating": "[−log D(G(z))]"}
        slopes = {"minimax": ("−D(G(z))", -d), "non-saturating": ("−(1 − D(G(z)))", d - 1)}
        for name, of in told.items():
            formula, slope = slopes[name]
            by_hand = (slope * self.fake).mean()
            lines = (
                Line("", f"|∂/∂θ E_z {of}|", self.norm(make_loss(name).generator(self.fake), "generator"), name, LOSS),
                Line(
                    "=",
                    f"|E_z[{formula} · ∂s/∂θ]|, s the logit",
                    self.norm(by_hand, "generator"),
                    "chain rule",
                    AUTOGRAD,
                ),
            )
            chains.append(Chain(f"the {name} generator{self.caveat}", lines, "per unit of parameters"))
        return chains[0], chains[1]

    @property
    def unit(self) -> str:
        """Of V: nats where it has a logarithm."""
        return "nats" if "log" in FORMULAS[self.loss.name] else ""

    @property
    def caveat(self) -> str:
        """That this run's logit is no probability's, where it is not."""
        return "" if self.loss.is_probability else ", were the logit a probability's"

    def sides(self) -> str:
        """D on both sides, or the logits' means."""
        real, fake = self.real.detach(), self.fake.detach()
        if self.loss.is_probability:
            return (
                f"On average D(x) = {float(real.sigmoid().mean()):.3f} on real and D(G(z)) = "
                f"{float(fake.sigmoid().mean()):.3f} on generated images."
            )
        return (
            f"The logit's mean is {float(real.mean()):.3f} on real and {float(fake.mean()):.3f} on generated images."
        ).replace("-", "−")
