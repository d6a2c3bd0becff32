"""A run that was stopped, whatever stopped it, ends with the bytes of a run that never was."""

import json
import signal
import time

import pytest
import torch
from helpers import content, copy_of, finish, killed_at, ok, probgen, refused, start, trained

import probgen.commands.recorder as commands
import probgen.commands.train as train_command
import probgen.inference.loop as loop
from probgen.inference.trainer import Trainer

pytestmark = pytest.mark.usefixtures("untyped")  # long: annotations are checked by the shorter tests

PAIR = '''
import pyro, torch
import pyro.distributions as dist
from torch import nn

class Dropped(nn.Module):
    """A pair whose encoder drops units in training, and which draws from every generator."""

    def __init__(self, image_shape, latent_dim: int = 2):
        super().__init__()
        self.latent_dim = latent_dim
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.3))
        self.head, self.decoder = nn.Linear(16, 2 * latent_dim), nn.Linear(latent_dim, 64)

    def model(self, x):
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latent_dim), 1.0).to_event(1))
            logits = self.decoder(z).reshape(-1, 1, 8, 8)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)

    def guide(self, x):
        mu, log_sigma = self.head(self.encoder(x)).chunk(2, -1)
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.Normal(mu, log_sigma.exp()).to_event(1))
'''

SMALL = ("--data", "digits", "--batch-size", 300, "--set", "latent_dim=2")
VAE = ("vae", *SMALL, "--set", "hidden=16")
PIXELS = ("--data", "digits", "--batch-size", 16, "--set", "features=4")
GAN = ("gan", "--data", "digits", "--batch-size", 40, "--steps", 8, "--set", "hidden=8")
FORCED = ("--set", "student_forcing=0.5", "--set", "forcing_warmup=4")
CASES = {
    "grey": (*VAE, "--steps", 14),
    "dynamic binarization": (*VAE, "--steps", 14, "--binarize", "dynamic"),
    "ema": (*VAE, "--steps", 14, "--ema", 0.9),
    "patience": (*VAE, "--steps", 14, "--patience", 3),
    "early stop": (*VAE, "--steps", 60, "--patience", 1, "--lr", 0.2, "--clip-norm", 1),
    "cosine": (*VAE, "--steps", 14, "--schedule", "cosine", "--lr-warmup", 5, "--clip-norm", 1),
    "KL warm-up": (*VAE, "--steps", 14, "--set", "kl_warmup=10", "--set", "beta=2"),
    "iwae": (*VAE, "--steps", 14, "--set", "objective=iwae", "--set", "num_particles=4"),
    "all together": (
        *VAE,
        "--steps",
        30,
        "--binarize",
        "dynamic",
        "--ema",
        0.9,
        "--patience",
        4,
        "--schedule",
        "linear",
    ),
    "dropout": ("pair.py:Dropped", *SMALL, "--steps", 14, "--binarize", "dynamic"),
    "points": ("vae", "--data", "ring:300", "--set", "hidden=16", "--batch-size", 64, "--steps", 14),
    "svi": ("gaussian", "--data", "digits", "--set", "estimator=svi", "--batch-size", 300, "--steps", 8),
    "sparse records": (*VAE, "--steps", 14),
    "labels": ("gated-pixelcnn", *PIXELS, "--steps", 6, "--set", "condition=label", "--set", "blocks=1"),
    "student forcing": ("raster-lstm", *PIXELS, "--steps", 6, *FORCED),
    "student forcing, by rows": ("row-lstm", *PIXELS, "--steps", 6, *FORCED, "--set", "conditional=logistic-mixture"),
    "two players": ("gan", "--data", "ring:300", "--batch-size", 64, "--steps", 12, "--set", "hidden=16"),
    "two players, labels": (
        *GAN,
        *("--ema", 0.9, "--schedule", "linear", "--clip-norm", 1, "--set", "condition=label"),
        *("--set", "loss=wasserstein", "--set", "discriminator_steps=2", "--set", "minibatch_statistics=true"),
    ),
    "two players, packs": (
        *GAN,
        *("--ema", 0.9, "--set", "discriminator_steps=2", "--set", "packing=2", "--set", "instance_noise=0.3"),
        *("--set", "spectral_norm=true", "--set", "minibatch_statistics=true", "--set", "loss=wasserstein"),
    ),
    "two players, batch norm": (
        *("gan", "--data", "sprites:60", "--batch-size", 8, "--steps", 4, "--ema", 0.9, "--set", "hidden=4"),
        *("--set", "network=dcgan", "--set", "loss=non-saturating", "--set", "latent_dim=2"),
    ),
    "student forcing, labels": ("diagonal-bilstm", *PIXELS, "--steps", 6, *FORCED, "--set", "condition=label"),
}


@pytest.fixture(autouse=True)
def _workplace(tmp_path, monkeypatch):
    """Checkpoints as often as possible, no pictures, the user's file in the present directory."""
    for name in ("vae", "gaussian"):  # before pictures are switched off: other tests look at theirs
        trained(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr(commands, "draw_progress", lambda *_: None)
    monkeypatch.setattr(train_command, "draw_progress", lambda *_: None)
    (tmp_path / "pair.py").write_text(PAIR)


def resume(run, case):
    model = [case[0]] if ".py" in case[0] else []
    return ok("train", *model, "--out", run, "--resume", "--quiet", "--json")


def metrics(run):
    """Every record without its times."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k not in ("time", "seconds")} for record in records]


def assert_same_run(one, other):
    assert (one / "weights.safetensors").read_bytes() == (other / "weights.safetensors").read_bytes()
    assert metrics(one) == metrics(other)
    states = [torch.load(run / "checkpoint.pt", weights_only=True) for run in (one, other)]
    assert states[0]["trainer"]["steps_done"] == states[1]["trainer"]["steps_done"]
    assert torch.equal(states[0]["trainer"]["random"]["torch"], states[1]["trainer"]["random"]["torch"])


@pytest.mark.parametrize("name", CASES)
def test_a_killed_run_ends_as_if_it_had_not_been(name, tmp_path, monkeypatch):
    if name == "sparse records":  # one each seven steps: a checkpoint with none of the last steps written down
        monkeypatch.setattr(loop, "NUM_RECORDS", 4)
    case, runs = CASES[name], (tmp_path / "whole", tmp_path / "killed")
    ok("train", *case, "--out", runs[0], "--quiet")
    last = metrics(runs[0])[-1]["step"]
    assert (last < case[case.index("--steps") + 1]) == (name == "early stop")
    killed_at(1, *case, "--out", runs[1])
    killed_at(last - 1, *case[: 1 if ".py" in case[0] else 0], "--out", runs[1], "--resume")
    found = resume(runs[1], case).json
    assert found["finished"]
    assert_same_run(*runs)


def test_two_seeds_differ(tmp_path):
    """Else equality would say nothing."""
    for seed in (0, 1):
        ok("train", *VAE, "--steps", 3, "--seed", seed, "--out", tmp_path / str(seed), "--quiet")
    assert (tmp_path / "0" / "weights.safetensors").read_bytes() != (
        tmp_path / "1" / "weights.safetensors"
    ).read_bytes()
    assert metrics(tmp_path / "0") != metrics(tmp_path / "1")


def test_parameters_made_inside_the_programs_are_kept(tmp_path):
    """`pyro.param` in a guide: trained, hence saved, resumed and evaluated; or the pair is refused."""
    text = PAIR.replace("mu, log_sigma = self.head(self.encoder(x)).chunk(2, -1)", PARAM)
    (tmp_path / "pair.py").write_text(text)
    case, runs = CASES["dropout"], (tmp_path / "whole", tmp_path / "killed")
    result = probgen("train", *case, "--lr", 0.1, "--out", runs[0], "--json", "--quiet")
    if result.code == 2:
        assert "pyro.param" in result.stderr or "'mu'" in result.stderr
        return
    import pyro

    trained_elbo = result.json["valid"]["elbo"]
    pyro.clear_param_store()  # as in a new process
    found = ok("evaluate", runs[0], "--model", case[0], "--split", "valid", "--json").json
    assert found["estimates"]["elbo"]["value"] == pytest.approx(trained_elbo, abs=1.0)
    pyro.clear_param_store()
    killed_at(5, *case, "--lr", 0.1, "--out", runs[1])
    pyro.clear_param_store()
    resume(runs[1], case)
    assert_same_run(*runs)


PARAM = """mu = pyro.param("mu", lambda: torch.full((2,), 3.0)).expand(len(x), 2)
        log_sigma = pyro.param("log_sigma", lambda: torch.full((2,), -3.0)).expand(len(x), 2)"""


# --- stops by signals


def test_sigint_then_sigkill_then_resume(tmp_path, monkeypatch):
    """Real processes: Ctrl-C, another process killed on the way, a third that ends."""
    monkeypatch.setattr(commands, "SECONDS_BETWEEN_CHECKPOINTS", 20.0)
    case = (*VAE, "--steps", 240, "--binarize", "dynamic", "--ema", 0.99, "--schedule", "cosine")
    run = tmp_path / "run"
    process = start("train", *case, "--out", run, cwd=tmp_path)
    wait_for_step(run, 20, process)
    process.send_signal(signal.SIGINT)
    done = finish(process)
    assert done.code == 130
    assert done.stdout == ""
    assert f"probgen train --out {run} --resume" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    stopped = torch.load(run / "checkpoint.pt", weights_only=True)["trainer"]["steps_done"]
    assert 20 <= stopped < 200
    assert f"step {stopped}" in done.stderr

    process = start("train", "--out", run, "--resume", cwd=tmp_path)
    wait_for_step(run, stopped + 40, process)
    process.kill()
    assert finish(process).code == -signal.SIGKILL
    assert metrics(run)[-1]["step"] < 240

    ok("train", "--out", run, "--resume", "--quiet")
    ok("train", *case, "--out", tmp_path / "whole", "--quiet")
    assert_same_run(run, tmp_path / "whole")


def wait_for_step(run, step, process):
    """Until metrics.jsonl tells of a step."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if (run / "metrics.jsonl").exists():
            lines = (run / "metrics.jsonl").read_text().splitlines()[:-1]
            if lines and json.loads(lines[-1])["step"] >= step:
                return
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"step {step} was not reached: {process.communicate()}")


def interrupt_at(monkeypatch, step):
    """Ctrl-C during a step."""
    real = Trainer.step

    def interrupted(self):
        if self.steps_done == step:
            signal.raise_signal(signal.SIGINT)
        return real(self)

    monkeypatch.setattr(Trainer, "step", interrupted)


def test_after_ctrl_c_a_users_pair_is_told_how_to_go_on(tmp_path, monkeypatch):
    """The command that the message gives works when typed in."""
    interrupt_at(monkeypatch, 5)
    run = tmp_path / "run"
    result = probgen("train", *CASES["dropout"], "--out", run)
    assert result.code == 130
    command = result.stderr.split("go on with: probgen ")[1].split()
    found = ok(*command, "--json").json
    assert (found["steps"], found["finished"]) == (14, True)


def test_a_stopped_run_tells_machines_too(tmp_path, monkeypatch):
    interrupt_at(monkeypatch, 5)
    result = probgen("train", *VAE, "--steps", 30, "--out", tmp_path / "run", "--quiet", "--json")
    assert (result.code, result.stderr) == (130, "")
    assert (result.json["steps"], result.json["finished"]) == (6, False)
    ok("evaluate", tmp_path / "run", "--num", 3)


def test_the_signal_handlers_are_put_back(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    ok("train", *VAE, "--steps", 2, "--out", tmp_path / "run", "--quiet")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


# --- what can be resumed


@pytest.mark.parametrize("name", ["vae", "gaussian"])
def test_a_finished_run_stays_as_it_is(name, tmp_path):
    run = copy_of(name, tmp_path)
    before = content(run)
    found = ok("train", "--out", run, "--resume", "--json", "--quiet").json
    assert found["finished"]
    after = content(run)
    assert after["weights.safetensors"] == before["weights.safetensors"]
    assert after["config.json"] == before["config.json"]
    if name == "vae":
        assert after["metrics.jsonl"] == before["metrics.jsonl"]


@pytest.mark.parametrize(
    "args",
    [
        (), ("vae",), ("--data", "digits"), ("--steps", 3), ("--set", "hidden=16"),
        ("--set", "latent_dim=3"), ("--lr", 0.001), ("--device", "cpu"), ("--device", "auto"), ("--set", "beta=1"),
        ("--config", "RUN/config.json"),
    ],
)  # fmt: skip
def test_what_agrees_may_be_given_again(args, tmp_path):
    run = copy_of("vae", tmp_path)
    args = [str(word).replace("RUN", str(run)) for word in args]
    ok("train", *args, "--out", run, "--resume", "--quiet")


def test_a_list_in_a_file_agrees_with_the_same_list(tmp_path):
    (tmp_path / "c.toml").write_text('model = "vae"\nsteps = 3\n[options]\nhidden = [16, 8]\n')
    for flag in ((), ("--resume",)):
        ok("train", "--config", "c.toml", "--out", "run", *flag, "--quiet")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("ppca",), ("ppca", "vae")),
        (("--steps", 5), ("steps=5", "steps=3")),
        (("--epochs", 5), "epochs"),
        (("--lr", 0.5), ("lr=0.5", "lr=0.001")),
        (("--seed", 1), ("seed=1", "seed=0")),
        (("--data", "sprites"), ("sprites", "digits")),
        (("--binarize", "static"), ("static", "none")),
        (("--set", "latent_dim=5"), ("latent_dim", "5", "3")),
        (("--ema", 0.9), "ema"),
        (("--patience", 5), "patience"),
    ],
)
def test_what_disagrees_is_refused(args, says, tmp_path):
    run = copy_of("vae", tmp_path)
    before = content(run)
    refused("train", *args, "--out", run, "--resume", says=says)
    assert content(run) == before


def test_nothing_to_resume(tmp_path):
    refused("train", "--out", tmp_path / "missing", "--resume", says=("missing", "does not exist"))
    (tmp_path / "folder").mkdir()
    refused("train", "--out", tmp_path / "folder", "--resume", says=("folder", "no run directory"))
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("lost", [["checkpoint.pt", "weights.safetensors", "metrics.jsonl"], ["metrics.jsonl"]])
def test_a_run_killed_before_its_first_checkpoint_starts_anew(lost, tmp_path):
    case, runs = (*VAE, "--steps", 6, "--binarize", "dynamic"), (tmp_path / "whole", tmp_path / "killed")
    ok("train", *case, "--out", runs[0], "--quiet")
    killed_at(0, *case, "--out", runs[1])
    for name in lost:
        (runs[1] / name).unlink(missing_ok=True)
    resume(runs[1], case)
    assert_same_run(*runs)


def test_a_last_line_that_was_cut_off_is_made_again(tmp_path):
    case, runs = (*VAE, "--steps", 10), (tmp_path / "whole", tmp_path / "killed")
    ok("train", *case, "--out", runs[0], "--quiet")
    killed_at(6, *case, "--out", runs[1])
    with open(runs[1] / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "ep')
    ok("info", runs[1])
    resume(runs[1], case)
    assert_same_run(*runs)
