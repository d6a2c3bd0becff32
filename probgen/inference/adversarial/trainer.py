"""Two players in turn, one alternating step at a time (Goodfellow et al. 2014, algorithm 1).

    discriminator   φ ← Adam( ∇_φ L_D(D(x), D(G(z))) + penalty )      so many times
    generator       θ ← Adam( ∇_θ L_G(D(G(z))) )                      once

The other player stands still meanwhile, weights and buffers. Real and generated images pass through the discriminator
apart, so that batch norm never mixes them; its running statistics are those of real images alone.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import pyro
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from probgen.inference.adam import FusedAdam, all_laid_out, clipped
from probgen.inference.adversarial.checks import check_play, check_shares, culprit, diverged, trainable
from probgen.inference.adversarial.losses import make_loss
from probgen.inference.adversarial.penalties import penalty
from probgen.inference.adversarial.players import averaged, batches_per_step, buffers_kept, frozen
from probgen.inference.adversarial.turn import RecordedTurn, Update
from probgen.inference.batches import BatchOrder, Images, batches_of
from probgen.inference.compiled.recording import NotStaticError
from probgen.inference.objective import StepTerms
from probgen.inference.processes import ALONE, Exchange, Processes, running_statistics
from probgen.inference.randomness import random_state, set_random_state
from probgen.inference.threads import is_small, one_thread
from probgen.inference.traces import as_real, evaluating
from probgen.inference.trainer import (
    TrainConfig,
    TrainingError,
    check_moments,
    check_steps,
    moving_decay,
    set_mode,
)
from probgen.layers.generators import check_labels

CHUNK = 1000  # images judged at once in validation


class AdversarialTrainer:
    """An implicit sampler in training: `step()` lets both players move; `state_dict()` is all that the next depends on.

    pair: an `ImplicitSampler` that is a module. images: the training set. device: where the pair already is.
    With `config.ema` the average is the generator's, with the buffers of batch norm, and is what is sampled and saved.

    Raises UserError for settings that do not go together.
    """

    def __init__(self, pair: Any, images: Images, config: TrainConfig, device: torch.device | str = "cpu") -> None:
        self.pair, self.images, self.config, self.device = pair, images, config, torch.device(device)
        self.play = pair.objective
        self.loss = make_loss(self.play.loss, self.play.label_smoothing)
        self.order = BatchOrder(len(images), config.batch_size, config.seed)
        self.batches = batches_of(pair, images, self.order, self.device)
        self.check_labels(getattr(images, "labels", None), len(images))
        self.batches_per_step = batches_per_step(self.play)
        self.processes: Processes = ALONE
        self.exchanges: dict[str, Exchange] = {}
        self.players = {name: trainable(pair, name) for name in ("discriminator", "generator")}
        self.parameters = [p for player in self.players.values() for p in player]
        betas = (self.play.beta1, self.play.beta2)
        self.optimizers = {name: FusedAdam(player, lr=config.lr, betas=betas) for name, player in self.players.items()}
        check_play(pair, self.order.batch_size, config)
        x, *y = self.batch(0)  # labels that are wanted and missing are told now
        judged = partial(self.judged, len(x), *y)
        self.alone = self.device.type == "cpu" and is_small(pair, judged)
        self.average = [p.detach().clone() for p in averaged(pair)] if config.ema else []
        self.steps_done = 0
        self.noise: float | Tensor = self.play.instance_noise
        self.recorded = {name: self.recording(name) for name in self.players} if config.compiles else {}
        self.not_compiled: str | None = None

    def check_labels(self, y: Tensor | None, num: int) -> None:
        """Raise UserError for labels that are no classes of the sampler's: networks in training do not look at them."""
        num_classes = getattr(self.pair, "num_classes", None)
        if getattr(self.pair, "takes_labels", False) and num_classes is not None:
            check_labels(y, num_classes, num)

    def join(self, processes: Processes) -> None:
        """Take a share of each batch from now on, and each player's step together with the other processes.

        Every share has statistics of its own where a layer looks at the whole batch, batch norm among them. Raises
        UserError where a share would be no whole number of packs, or too small.
        """
        check_shares(self.pair, self.order.batch_size, processes.world)
        self.processes = processes
        several = self.players if processes.world > 1 else {}
        self.exchanges = {name: Exchange(processes, player) for name, player in several.items()}

    # --- one step

    def step(self) -> dict[str, Any]:
        """Both players' updates; gives each one's terms, gradient norms, and the learning rate.

        Raises TrainingError, naming the player that has diverged, at a loss or gradient that is nan or infinite. The
        player whose turn it is has not moved then; where that is the generator, the discriminator already has: what to
        go on from is the state last saved.
        """
        with one_thread() if self.alone else nullcontext():
            return self.moved()

    def moved(self) -> dict[str, Any]:
        """One step, by as many threads as there are."""
        set_mode(self.pair, training=True)
        lr = self.config.lr_at(self.steps_done)
        for name, factor in (("discriminator", self.play.discriminator_lr), ("generator", 1.0)):
            self.optimizers[name].param_groups[0]["lr"] = lr * factor
        self.noise = self.play.instance_noise * (1 - self.steps_done / self.config.steps)
        first = self.steps_done * self.batches_per_step
        with pyro.validation_enabled(False):
            for number in range(first, first + self.play.discriminator_steps):
                terms = self.turn("discriminator", *self.batch(number))
            last = first + self.batches_per_step - 1
            terms |= self.turn("generator", *self.batch(last))  # a new batch only where the loss looks at one
        self.update_average()
        self.steps_done += 1
        return terms | {"lr": lr}

    def batch(self, number: int) -> tuple[Tensor, ...]:
        """This process's part of batch `number` of the endless row: images, and labels to a sampler with classes."""
        return self.batches(number, self.processes.rank, self.processes.world)

    def judged(self, num: int, *y: Tensor) -> Tensor:
        """Logits of generated images."""
        return self.pair.judge(self.pair.seen(self.pair.model(num, *y)), *y)

    def turn(self, name: str, *batch: Tensor) -> dict[str, Any]:
        """One update of a player; its terms, of all processes' images."""
        terms = self.taken(name, *batch)
        return self.of_all(name, terms, len(batch[0])) if self.exchanges else terms

    @torch.no_grad()
    def of_all(self, name: str, terms: dict[str, Any], num: int) -> dict[str, Any]:
        """A turn's terms of all processes' images, from those of this one's `num`; the player's statistics likewise."""
        statistics = running_statistics(getattr(self.pair, name))
        parts = [*terms.values(), *statistics]
        row = torch.cat([part.detach().double().flatten() for part in parts]) * (num / self.order.batch_size)
        self.processes.total(row)
        means = row.split([part.numel() for part in parts])
        for buffer, mean in zip(statistics, means[len(terms) :], strict=True):
            buffer.copy_(mean.view_as(buffer))
        return {term: mean.view(()) for term, mean in zip(terms, means, strict=False)}

    def taken(self, name: str, *batch: Tensor) -> dict[str, Any]:
        """One update of a player, compiled if it is to be; its terms, of this process's images."""
        eager = {"discriminator": self.discriminator_step, "generator": self.generator_step}[name]
        if not self.recorded:
            return eager(*batch)
        before = torch.get_rng_state()
        try:
            gradients, terms = self.recorded[name](self.noise, *batch)
        except NotStaticError as error:
            self.recorded, self.not_compiled = {}, str(error)
            return eager(*batch)
        if not torch.isfinite(terms[f"{name}_loss"] + terms[f"{name}_gradient"]):
            torch.set_rng_state(before)
            return eager(*batch)  # which knows whose the fault is
        found, norm = all_laid_out(gradients, self.players[name]), terms[f"{name}_gradient"]
        return terms | {f"{name}_gradient": self.together(name, terms[f"{name}_loss"], found, norm, len(batch[0]))}

    def recording(self, name: str) -> RecordedTurn:
        """A player's turn, to be recorded when it first comes."""
        steps = {"discriminator": self.discriminator_step, "generator": self.generator_step}
        return RecordedTurn(self, steps[name], self.players[name])

    @property
    def compiled(self) -> bool:
        """Whether the turns are compiled, or are to be."""
        return bool(self.recorded)

    def discriminator_step(
        self, x: Shaped[Tensor, "b *shape"], *y: Tensor, update: Update | None = None
    ) -> dict[str, Any]:
        """Lower L_D on one batch of data and as many draws, of the same labels where there are any.

        update: what to do with the loss, in place of `self.update`.
        """
        with torch.no_grad(), buffers_kept(self.pair.generator):
            fake = self.noisy(self.pair.seen(self.pair.model(len(x), *y)))
            real = self.noisy(self.pair.seen(x))
        regularized = self.play.regularizer != "none"
        real, fake = (part.requires_grad_(regularized) for part in (real, fake))

        def judge(seen: Tensor) -> Tensor:
            return self.pair.judge(seen, *y)

        on_real = judge(real)
        with buffers_kept(self.pair.discriminator):  # as the real images have left them
            on_fake = judge(fake)
            cost = penalty(self.play.regularizer, judge, real, fake, self.play.gamma, on_real, on_fake)
            loss = self.loss.discriminator(on_real, on_fake)
            norm = (update or self.update)("discriminator", loss + cost, fake, on_fake)
        terms = self.scores(on_real.detach(), on_fake.detach())
        terms |= {"discriminator_loss": loss.detach(), "discriminator_gradient": norm}
        return terms | ({"penalty": cost.detach()} if regularized else {})

    def generator_step(self, x: Shaped[Tensor, "b *shape"], *y: Tensor, update: Update | None = None) -> dict[str, Any]:
        """Lower L_G on draws, as many as there are images in x, and of their labels; `update` as above."""
        with buffers_kept(self.pair.discriminator):
            with frozen(self.players["discriminator"]):
                fake = self.noisy(self.pair.seen(self.pair.model(len(x), *y)))
                fake.retain_grad()  # looked at where the generator's is no number
                on_fake, on_real = self.pair.judge(fake, *y), None
                if self.loss.needs_real:
                    with torch.no_grad():
                        on_real = self.pair.judge(self.noisy(self.pair.seen(x)), *y)
                loss = self.loss.generator(on_fake, on_real)
            norm = (update or self.update)("generator", loss, fake, on_fake)
        return {"generator_loss": loss.detach(), "generator_gradient": norm}

    def update(self, name: str, loss: Float[Tensor, ""], fake: Tensor, on_fake: Tensor) -> Tensor:
        """One step of a player's optimizer on its own parameters; gives the norm of its gradient.

        fake, on_fake: generated images and their logits, which tell whose the fault is where the loss is no number.
        """
        parameters = self.players[name]
        self.optimizers[name].zero_grad()
        loss.backward(inputs=parameters)
        found = [p.grad for p in parameters]
        norm = norm_of(found)

        def trouble() -> str | None:
            if torch.isfinite(loss.detach() + norm):
                return None
            sign = "gradient is not a finite number" if torch.isfinite(loss) else "loss is not a finite number"
            return diverged(self.pair, self.config, *culprit(self.pair, name, sign, fake, on_fake))

        return self.together(name, loss.detach(), found, norm, len(fake), trouble)

    def together(
        self,
        name: str,
        loss: Float[Tensor, ""],
        found: Sequence[Tensor | None],
        norm: Float[Tensor, ""],
        num: int,
        trouble: Callable[[], str | None] = lambda: None,
    ) -> Tensor:
        """A player's step on all processes' images, from the gradient of this one's `num`; gives the gradient's norm.

        trouble: what to tell of a loss or gradient of this process's that is no number. Where one has such, so have
        all after the exchange, and all raise TrainingError.
        """
        if name in self.exchanges:
            step, _ = self.exchanges[name](StepTerms(loss, {}, gradients=list(found)), num / self.order.batch_size)
            loss, found, norm = step.loss, step.gradients, norm_of(step.gradients)
        if not torch.isfinite(loss + norm):
            told = [told for told in self.processes.gather(trouble()) if told is not None]
            told += [diverged(self.pair, self.config, name, "gradient is not a finite number")]
            raise TrainingError(f"step {self.steps_done + 1}: {told[0]}")
        self.move(name, found, norm)
        return norm

    def move(self, name: str, gradients: Sequence[Tensor | None], norm: Tensor) -> None:
        """The optimizer's step on gradients of that norm."""
        clip = self.config.clip_norm
        self.optimizers[name].move(gradients if clip is None else clipped(gradients, clip, norm))

    def noisy(self, seen: Float[Tensor, "b *shape"]) -> Float[Tensor, "b *shape"]:
        """Instance noise, falling linearly to 0 at the end of the run."""
        return seen + self.noise * torch.randn_like(seen) if self.play.instance_noise > 0 else seen

    def scores(self, on_real: Float[Tensor, " p"], on_fake: Float[Tensor, " q"]) -> dict[str, Any]:
        """The value of the game and the mean of D(x) and D(G(z)); of the logits, where they make no probability."""
        value = self.loss.value(on_real, on_fake)
        if self.loss.is_probability:
            return {"value": value, "d_real": on_real.sigmoid().mean(), "d_fake": on_fake.sigmoid().mean()}
        return {"value": value, "critic_real": on_real.mean(), "critic_fake": on_fake.mean()}

    @torch.no_grad()
    def validation_terms(self, x: Shaped[Tensor, "n *shape"], y: Shaped[Tensor, " n"] | None = None) -> dict[str, Any]:
        """The scores on images that were not trained on, and as many draws; both players in `eval()` mode.

        Without batch norm, D(x) far below that of training batches says that the discriminator has learned its images
        by heart. With it the two are not comparable: in training each batch is normalized by its own statistics, real
        and generated apart, here both by the running statistics of real images. Fewer images than make one pack give
        no scores, nor do images without labels to a sampler with classes, which alone looks at y.
        """
        takes_labels = getattr(self.pair, "takes_labels", False)
        whole, size = len(x) - len(x) % self.play.packing, CHUNK - CHUNK % self.play.packing
        if not whole or (takes_labels and y is None):
            return {}
        self.check_labels(y, len(x))
        labels = () if y is None or not takes_labels else (y.to(x.device),)
        on_real, on_fake = [], []
        with evaluating(self.pair), pyro.validation_enabled(False):
            for rows in torch.arange(whole, device=x.device).split(size):
                given = [known[rows] for known in labels]
                on_real.append(self.pair.judge(self.pair.seen(as_real(x[rows])), *given))
                on_fake.append(self.pair.judge(self.pair.seen(self.pair.model(len(rows), *given)), *given))
        return {name: value.item() for name, value in self.scores(torch.cat(on_real), torch.cat(on_fake)).items()}

    # --- what a run remembers

    @torch.no_grad()
    def update_average(self) -> None:
        """average ← decay · average + (1 − decay) · the generator's numbers."""
        if self.config.ema:
            decay = moving_decay(self.config.ema, self.steps_done)
            torch._foreach_lerp_(self.average, [p.detach() for p in averaged(self.pair)], 1 - decay)

    def swap_average(self) -> None:
        """Exchange the generator's numbers with their average; a second call undoes it. Nothing without `ema`."""
        for number, average in zip(averaged(self.pair), self.average, strict=False):
            number.data, average.data = average.data, number.data

    def weights(self) -> dict[str, Tensor]:
        """A copy of all parameters and buffers of both players."""
        return {name: value.detach().clone() for name, value in self.pair.state_dict().items()}

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Put a copy made by `weights` back."""
        self.pair.load_state_dict(weights)

    def loose_parameters(self) -> dict[str, Tensor]:
        """None: the players are modules."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Weights, both optimizers, average, random state, step: the next step is a function of these alone."""
        return {
            "steps_done": self.steps_done,
            "pair": self.weights(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "average": self.average,
            "random": random_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`. Raises ValueError for one that is not of this trainer."""
        check_steps(state["steps_done"], self.config)
        for name, player in self.players.items():
            check_moments(state["optimizers"][name], player, state["steps_done"])
        if [p.shape for p in state["average"]] != [p.shape for p in self.average]:
            raise ValueError("the average is not of the generator's shapes")
        self.steps_done = state["steps_done"]
        self.load_weights(state["pair"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.average = [p.to(self.device) for p in state["average"]]
        set_random_state(state["random"])


def norm_of(gradients: Sequence[Tensor | None]) -> Float[Tensor, ""]:
    """‖∇‖ over all parameters that have one."""
    return nn.utils.get_total_norm([gradient for gradient in gradients if gradient is not None])
