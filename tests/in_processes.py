"""Jobs in several real processes, forked from one interpreter that has imported everything: a second each, not ten.

    python in_processes.py JOBS.json RESULTS

A job is a function of this file, run in a group of processes, or a command line, run as torchrun would; RESULTS gets
NAME-RANK.pt for the former, NAME-RANK.json (exit code, both streams) for the latter.
"""

import json
import os
import shutil
import signal
import socket
import sys
import traceback
from pathlib import Path

import lightning_fabric  # noqa: F401
import pyro
import pyro.distributions as dist
import torch
from helpers import probgen as command_line
from small_players import small
from torch import nn

import probgen.cli  # noqa: F401  so that no process has to
import probgen.commands.recorder as recorder
import probgen.commands.train as train_command
from probgen.data import load_data
from probgen.inference.adversarial.trainer import AdversarialTrainer
from probgen.inference.batches import TensorImages
from probgen.inference.compiled import function
from probgen.inference.compiled.recording import interpreted
from probgen.inference.processes import Group
from probgen.inference.trainer import TrainConfig, Trainer, TrainingError, initialize
from probgen.models import VAE, PixelCNN

WORLD, BATCH, STEPS = 2, 33, 4  # an odd batch: one process has an image more
NORMALIZED = {"discriminator_norm": "batch"}


def pixelcnn():
    """Nothing is latent, nothing is drawn."""
    return PixelCNN((1, 8, 8), 17, features=4, blocks=1)


def vae():
    return VAE((1, 8, 8), 17, latent_dim=2, hidden=(16,))


class Pixels(nn.Module):
    """x ~ N(μ, σ²), each pixel its own; in float64, for Adam's first steps are g / |g|, rounding errors and all."""

    def __init__(self):
        super().__init__()
        self.mu = nn.Parameter(torch.zeros(1, 8, 8, dtype=torch.float64))
        self.log_sigma = nn.Parameter(torch.ones(1, 8, 8, dtype=torch.float64))

    def model(self, x):
        with pyro.plate("images", len(x)):
            pyro.sample("x", dist.Normal(self.mu, self.log_sigma.exp()).to_event(3), obs=x)

    def guide(self, x):
        pass


class Normalized(VAE):
    """A VAE whose encoder has batch norm, which keeps running statistics."""

    def __init__(self):
        super().__init__((1, 8, 8), 17, latent_dim=2, hidden=(16,))
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))


PAIRS = {
    "pixels": Pixels,
    "pixelcnn": pixelcnn,
    "double pixelcnn": lambda: pixelcnn().double(),
    "vae": vae,
    "normalized": Normalized,
}


def trainer_of(name, **config):
    """A pair in training; the same weights in every process."""
    pyro.set_rng_seed(0)
    digits = TensorImages(load_data("digits").train.images[:200])
    pair = PAIRS[name]()
    initialize(pair, digits)
    return Trainer(pair, digits, TrainConfig(steps=STEPS, batch_size=BATCH, lr=0.01, **config))


def joined(name, group, **config):
    """The same among several processes, with noise of one's own."""
    trainer = trainer_of(name, **config)
    trainer.join(group)
    pyro.set_rng_seed(100 + group.rank)
    return trainer


def gradient_of_a_vae(group):
    trainer = joined("vae", group)
    batch = trainer.batch(0)
    step = trainer.together(trainer.gradients(*batch), batch)
    return {"gradient": step.gradients, "loss": step.loss, "rows": len(batch[0])}


def gradient_of_a_pixelcnn(group):
    trainer = joined("pixelcnn", group)
    batch = trainer.batch(0)
    step = trainer.together(trainer.gradients(*batch), batch)
    return {"gradient": step.gradients, "loss": step.loss}


def steps_without_noise(group):
    trainer = joined("pixels", group, clip_norm=10.0, ema=0.9)
    terms = [trainer.step() for _ in range(STEPS)]
    return {"weights": trainer.weights(), "average": trainer.average, "loss": [float(t["loss"]) for t in terms]}


def steps_in_another_layout(group):
    trainer = joined("double pixelcnn", group)
    assert not all(p.is_contiguous() for p in trainer.parameters), "its convolutions lie as torch lays them"
    terms = [trainer.step() for _ in range(STEPS)]
    return {"weights": trainer.weights(), "loss": [float(t["loss"]) for t in terms]}


def running_statistics(group):
    trainer = joined("normalized", group)
    for _ in range(STEPS):
        trainer.step()
    return trainer.weights()


def one_process_diverges(group):
    trainer = joined("vae", group)
    if group.rank == 1:
        trainer.pair.encoder.register_forward_hook(lambda _module, _x, y: y * torch.nan)
    try:
        trainer.step()
    except TrainingError as error:
        return str(error)


def one_process_wants_to_stop(group):
    trainer, heard = joined("vae", group), []
    for step in range(STEPS):
        heard.append(group.stop_agreed(group.rank == 1 and step >= 1))
        trainer.step()
    return heard


def players_of(processes=None, options=None, **config):
    """Two players in training, the same in every process, on labelled points."""
    points = torch.randn(40, 3, generator=torch.Generator().manual_seed(1)).double()
    options = options or {"regularizer": "r1+r2", "gamma": 0.5, "num_classes": 2, "condition": "label"}
    pair = small(loss="relativistic", instance_noise=0.1, **options)
    config = {"steps": STEPS, "batch_size": BATCH, "lr": 0.01} | config
    trainer = AdversarialTrainer(pair, TensorImages(points, torch.arange(40) % 2), TrainConfig(**config))
    if processes is not None:
        trainer.join(processes)
        pyro.set_rng_seed(100 + processes.rank)
    return trainer


def gradients_of(trainer):
    """Of both players' turns at the same weights, for nobody moves; and what is told of them."""
    found = {}
    trainer.move = lambda name, gradients, norm: found.update({name: (gradients, norm)})
    terms = trainer.step()
    statistics = {name: kept for name, kept in trainer.pair.named_buffers() if "running" in name}
    return {"terms": terms, "found": found, "statistics": statistics, "rows": len(trainer.batch(0)[0])}


def gradients_of_two_players(group):
    return gradients_of(players_of(group))


def gradients_of_normalized_players(group):
    return gradients_of(players_of(group, NORMALIZED))


def steps_of_two_players(group, **config):
    trainer = players_of(group, NORMALIZED, ema=0.9, clip_norm=1.0, **config)
    terms = [trainer.step() for _ in range(STEPS)]
    assert trainer.compiled == ("compile" in config)
    return {"weights": trainer.weights(), "average": trainer.average, "terms": terms}


def recorded_steps_of_two_players(group):
    function.compiled = lambda graph, _: interpreted(graph)  # no compiler is waited for
    return steps_of_two_players(group, compile="on")


def a_player_diverges_in_one_process(group):
    trainer = players_of(group)
    if group.rank == 1:
        trainer.pair.generator.register_forward_hook(lambda _module, _z, x: x * torch.nan)
    before = trainer.weights()
    try:
        trainer.step()
    except TrainingError as error:
        names = [name for name, _ in trainer.pair.named_parameters()]
        return str(error), all(torch.equal(before[name], trainer.weights()[name]) for name in names)


def in_a_group(job, rank, results):
    torch.distributed.init_process_group("gloo", rank=rank, world_size=WORLD)
    torch.save(globals()[job["function"]](Group()), results / f"{job['name']}-{rank}.pt")
    torch.distributed.destroy_process_group()


def on_the_command_line(job, rank, results):
    recorder.SECONDS_BETWEEN_CHECKPOINTS = 0.0
    recorder.draw_progress = train_command.draw_progress = lambda *_: None
    if "die_at" in job:
        for kind in (Trainer, AdversarialTrainer):
            kind.step = killed_at(kind.step, job["die_at"])
    if job.get("raise_in") == rank:
        Trainer.step = raising
    done = command_line(*job["args"])
    (results / f"{job['name']}-{rank}.json").write_text(json.dumps(done._asdict()))


def killed_at(real, step):
    def dying(self):
        if self.steps_done == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self)

    return dying


def raising(_trainer):
    raise ValueError("a program's own\n  error")


def free_port():
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def fork(job, rank, port, results):
    """A process of the job; what goes wrong in it is told on stderr."""
    if process := os.fork():
        return process
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD), "LOCAL_WORLD_SIZE": str(WORLD),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "tests",
    }  # fmt: skip
    try:
        (in_a_group if "function" in job else on_the_command_line)(job, rank, results)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(0)


def main(jobs, results):
    for job in jobs:
        if "copy" in job:
            shutil.copytree(*job["copy"])
            continue
        port = free_port()
        for process in [fork(job, rank, port, results) for rank in range(WORLD)]:
            os.waitpid(process, 0)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
