"""`probgen train`: a configuration, a run directory, and the loop between them."""

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from probgen.commands.common import check_data, choose_device
from probgen.commands.configure import continued, new_config
from probgen.commands.film import check_film, cut
from probgen.commands.launch import check_hosts, check_launch, given_by_launcher, helping, is_first, launched
from probgen.commands.pictures import draw_progress
from probgen.commands.recorder import Helper, RunRecorder, stop_signals
from probgen.console import stderr_console
from probgen.data import ImageData, Split, load_data
from probgen.errors import UserError
from probgen.inference.checks import check_pair
from probgen.inference.fit import AnyTrainer, trainer_for
from probgen.inference.loop import Loop, Recorder, in_words
from probgen.inference.processes import AgreedError, LostProcessError
from probgen.inference.traces import as_real
from probgen.inference.trainer import TrainConfig, TrainingError, initialize
from probgen.inference.validation import validation_terms
from probgen.models.registry import is_user_file
from probgen.runs import Run, RunConfig, build_model

MOST_VALIDATION_IMAGES = 5_000
NO_TERMS = ("step", "epoch", "split", "time", "seconds")


def train(
    model: str | None,
    given: Mapping[str, Any],
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train `model` as `given` says (fields of `RunConfig`, only those that the user gave) into `out`.

    Everything that may be wrong with the input is found before anything is written, deleted or launched. Returns a
    summary: model, run, steps, whether it finished, the last validation's terms; nothing in a process that only helps.
    """
    if resume and overwrite:
        raise UserError("both --resume and --overwrite came, expected one of them")
    started, given = time.time(), given_by_launcher(given)
    if not is_first(given):
        help_first(model, given, out, resume=resume)
        return {}
    config, data = resumed(out, model, given) if resume else planned(model, given)
    run, device = Run(out, config), choose_device(config.device)
    pyro.set_rng_seed(config.seed)
    pair: Any = build_model(config, model).to(device)
    check_pair(pair, as_real(data.train.batch(torch.arange(min(3, len(data.train)))).to(device)))
    check_launch(config, pair, len(data.train), device)
    closed_form = getattr(pair, "estimator", None) == "closed-form"
    if config.animate:
        check_film(pair, data)
    trainer = None if closed_form else make_trainer(pair, data, config, device)
    solving = time.monotonic()
    if closed_form:
        pair.maximum_likelihood(data.train.images)
    solving = time.monotonic() - solving
    if not resume:
        run.check_free(overwrite=overwrite)
    with run.locked():
        run.write_config() if resume else run.begin(overwrite=overwrite)
        summary = solved(run, pair, data, solving) if trainer is None else climb(run, trainer, data, quiet)
    seconds = round(time.time() - started, 1)
    each = "image" if data.vocabulary is None else "sentence"
    return {"model": model or config.model, "run": str(out), "each": each, **summary, "seconds": seconds}


def resumed(out: Path, model: str | None, given: Mapping[str, Any]) -> tuple[RunConfig, ImageData]:
    """The configuration of the run in `out`, and its data."""
    config = continued(Run.open(out).config, model, given, out)
    data = load_data(config.data, data_dir=config.data_dir, binarize=config.binarize)
    check_data(data, config.image_shape, config.levels, config.vocabulary)
    return config, data


def planned(model: str | None, given: Mapping[str, Any]) -> tuple[RunConfig, ImageData]:
    """The configuration of a new run, and its data."""
    if not model:
        raise UserError("no model came: probgen train MODEL --data D --out RUN; see `probgen models`")
    name, binarize = given.get("data", "digits"), given.get("binarize", "none")
    data = load_data(name, data_dir=given.get("data_dir"), binarize=binarize)
    return new_config(model, given, data), data


def make_trainer(pair: Any, data: ImageData, config: RunConfig, device: torch.device) -> AnyTrainer:
    """The pair in training. Raises UserError for parameters that a run directory could not hold."""
    fields = {name: getattr(config, name) for name in TrainConfig.__dataclass_fields__}
    initialize(pair, data.train)
    trainer = trainer_for(pair, data.train, TrainConfig(**fields), device)
    if trainer.loose_parameters():
        raise UserError(
            f"{type(pair).__name__} makes parameters with pyro.param, which a run directory does not hold: "
            "make them torch.nn.Parameter attributes of the class"
        )
    return trainer


def solved(run: Run, pair: Any, data: ImageData, seconds: float) -> dict[str, Any]:
    """Record a maximum likelihood that was found in closed form: no steps were taken."""
    pair.eval()
    terms = validation_terms(pair, as_real(validation_images(data.valid)))
    run.save_weights(pair.state_dict())
    run.rewind_metrics(-1)
    run.append_metrics({"step": 0, "epoch": 0.0, "split": "valid", **terms, "seconds": round(seconds, 3)})
    draw_progress(run, pair, data, [])
    return {"steps": 0, "finished": True, "closed_form": True, "valid": terms}


def climb(run: Run, trainer: AnyTrainer, data: ImageData, quiet: bool) -> dict[str, Any]:
    """Gradient steps, from the last checkpoint if there is one."""
    with stop_signals() as stop, RunRecorder(run, data, stop) as recorder:
        loop = loop_of(trainer, data, recorder, quiet)
        recorder.restore(loop)
        try:
            group = launched(run.config.devices, run.config.num_nodes, trainer.device)
            with group as (processes, _), processes.errors_in_one_line():
                processes.from_first(run.config.model_dump_json)
                processes.agree(None)
                loop.join(processes)
                loop.run()
                recorder.save(loop)
        except (TrainingError, LostProcessError) as error:
            raise UserError(f"{error}; the checkpoint of step {recorder.saved_step} is kept in {run.path}") from error
        if loop.finished:
            trainer.load_weights(loop.final_weights())
            draw_progress(run, trainer.pair.eval(), data, run.read_metrics())
            if run.config.animate:
                cut(run)
    found = [r for r in run.read_metrics() if r["split"] == "valid"]
    terms = {k: v for k, v in found[-1].items() if k not in NO_TERMS} if found else {}
    summary = {"steps": trainer.steps_done, "finished": loop.finished, "closed_form": False, "valid": terms}
    summary |= {"compiled": trainer.compiled, "not_compiled": trainer.not_compiled}
    if loop.best is not None:
        summary["best"] = {"step": loop.best["step"], "loss": loop.best["loss"]}
    return summary


def loop_of(trainer: AnyTrainer, data: ImageData, recorder: Recorder, quiet: bool) -> Loop:
    """The loop over steps, validated on the first images of the validation set."""
    valid = validation_images(data.valid).to(trainer.device)
    labels = None if data.valid.labels is None else data.valid.labels[: len(valid)]
    return Loop(trainer, valid=valid, valid_labels=labels, recorder=recorder, quiet=quiet)


def help_first(model: str | None, given: Mapping[str, Any], out: Path, *, resume: bool) -> None:
    """A process beside the first: it takes the same steps, and leaves files and messages to that one."""
    known = Run.open(out).config if resume and (out / "config.json").is_file() else None
    device = choose_device(given.get("device") or (known.device if known else "auto"))
    devices, num_nodes = (given.get(name, getattr(known, name, 1)) for name in ("devices", "num_nodes"))
    check_hosts(devices, num_nodes)
    with suppress(AgreedError, LostProcessError, TrainingError, KeyboardInterrupt), stop_signals() as stop:
        helping()
        with launched(devices, num_nodes, device) as (processes, own_device), processes.errors_in_one_line():
            config = RunConfig.model_validate_json(processes.from_first(str))
            loop, trouble = None, None
            try:
                loop = helping_loop(config, model, own_device, stop)
            except UserError as error:
                trouble = f"process {processes.rank}: {error}"
            processes.agree(trouble)
            assert loop is not None
            loop.join(processes)
            loop.run()


def helping_loop(config: RunConfig, model: str | None, device: torch.device, stop: list[int]) -> Loop:
    """The first process's loop without its run directory: the same data, the same fresh weights."""
    data = load_data(config.data, data_dir=config.data_dir, binarize=config.binarize)
    check_data(data, config.image_shape, config.levels, config.vocabulary)
    pyro.set_rng_seed(config.seed)
    pair = build_model(config, model).to(device)
    return loop_of(make_trainer(pair, data, config, device), data, Helper(stop), quiet=True)


def validation_images(split: Split) -> Tensor:
    """The images whose bound is watched: at most 5,000, the first ones."""
    return split.batch(torch.arange(min(MOST_VALIDATION_IMAGES, len(split))))


def tell(summary: Mapping[str, Any]) -> None:
    """How a run ended, for people, on stderr."""
    console, run = stderr_console(), summary["run"]
    terms = ", ".join(f"{name} {value:.4g}" for name, value in in_words(summary["valid"]).items())
    model = f"{summary['model']} " if is_user_file(summary["model"]) else ""
    if summary["finished"]:
        option = f" --model {model}".rstrip() if model else ""
        lines = [
            f"trained {summary['model']} in {summary['seconds']:.0f} s; on validation {summary['each']}s: {terms}",
            f"look at {run}/pictures; next: probgen evaluate {run}{option}",
        ]
    else:
        step = summary["steps"]
        lines = [f"stopped after step {step}, saved; go on with: probgen train {model}--out {run} --resume"]
    for line in lines:
        console.print(line, highlight=False, markup=False)
