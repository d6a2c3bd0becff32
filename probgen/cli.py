"""The command line: parses, calls, prints. No mathematics, and nothing heavy imported until a command runs."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from probgen.console import prepare_process
from probgen.errors import UserError

OUT_OF_MEMORY = "there is not enough memory for this: take a smaller model, batch or number of images"

app = typer.Typer(
    name="probgen",
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Deep generative models as Pyro programs; every number says what it is: exact, a bound, an estimate, none.\n\n"
    "Start with: [bold]probgen demo[/bold], or\n\n"
    "[bold]probgen train vae --data digits --out runs/vae[/bold], then [bold]probgen evaluate runs/vae[/bold]",
)

RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, made by `probgen train --out`.")]
OutFile = Annotated[Path, typer.Option("--out", help="The file to write.")]
DataDir = Annotated[Path | None, typer.Option(help="Where data files are; else PROBGEN_DATA, else the user's cache.")]
Model = Annotated[str | None, typer.Option(help="FILE.py:CLASS again, for a run of your own class.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Same seed, same result.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead of text.")]
SplitName = Annotated[str, typer.Option(help="train, valid or test.")]
ModelName = Annotated[str | None, typer.Argument(metavar="MODEL", help="A name of `probgen models`, or FILE.py:CLASS.")]
Data = Annotated[str | None, typer.Option(help="A name of `probgen datasets`, a file or a folder. \\[digits]")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="OPTION=VALUE", help="An option of the model (see `probgen models`); repeat."),
]
Mean = Annotated[bool, typer.Option("--mean", help="Show E\\[x | z], smoother, instead of a draw from p(x).")]
Between = Annotated[
    tuple[int, int] | None, typer.Option(metavar="I J", help="Morph test image I into test image J instead.")
]
Label = Annotated[int | None, typer.Option(help="Draw from p(x | label), of a model trained with condition=label.")]
Particles = Annotated[int, typer.Option(help="Draws of z per image.")]


@app.command()
def train(
    model: ModelName = None,
    data: Data = None,
    out: Annotated[Path | None, typer.Option(help="The run directory to make. \\[runs/MODEL-DATA]")] = None,
    data_dir: DataDir = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the training images. \\[50]")] = None,
    steps: Annotated[int | None, typer.Option(help="Gradient steps, instead of epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step, of all devices. \\[128]")] = None,
    lr: Annotated[float | None, typer.Option(help="Adam's learning rate. \\[0.001]")] = None,
    schedule: Annotated[str | None, typer.Option(help="Of the rate: constant, linear, cosine. \\[constant]")] = None,
    lr_warmup: Annotated[int | None, typer.Option(help="Steps over which the rate first rises. \\[0]")] = None,
    clip_norm: Annotated[float | None, typer.Option(help="Largest norm of the gradient.")] = None,
    ema: Annotated[float | None, typer.Option(help="Keep a moving average of the weights, e.g. 0.999.")] = None,
    patience: Annotated[int | None, typer.Option(help="Stop after so many validations without a gain.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, batches and noise. \\[0]")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda. \\[auto]")] = None,
    devices: Annotated[int | None, typer.Option(help="GPUs, or processes on the CPU, of each host. \\[1]")] = None,
    num_nodes: Annotated[int | None, typer.Option(help="Hosts, each with as many. \\[1]")] = None,
    strategy: Annotated[
        str | None, typer.Option(help="Of several processes: auto, or ddp, which it is. \\[auto]")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="Of networks: 32-true or bf16-mixed. \\[32-true]")] = None,
    compile_: Annotated[
        str | None,
        typer.Option(
            "--compile",
            help="Compile the step: on, off, or auto, if the run is long; may be changed with --resume, the last "
            "digits then differ by rounding. \\[auto]",
        ),
    ] = None,
    binarize: Annotated[str | None, typer.Option(help="none, static, dynamic or threshold. \\[none]")] = None,
    animate: Annotated[
        bool | None, typer.Option("--animate", help="Also a film of samples, RUN/pictures/training.gif.")
    ] = None,
    set_: Settings = None,
    config: Annotated[Path | None, typer.Option(help="A .toml or .json file with any of these; flags win.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped run, as if never stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that is there.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no summary.")] = False,
    json_: Json = False,
    again: Annotated[str | None, typer.Option("--model", help="The same as MODEL.")] = None,
) -> None:
    """Train a model: [bold]probgen train vae --data digits --out runs/vae --set latent_dim=8[/bold]

    Ctrl-C saves; [bold]probgen train --out RUN --resume[/bold] goes on as if nothing had happened.
    """
    from probgen.commands.configure import gather
    from probgen.commands.train import tell
    from probgen.commands.train import train as run_training

    flags = {
        "data": data, "data_dir": data_dir and str(data_dir), "epochs": epochs, "steps": steps,
        "batch_size": batch_size, "lr": lr, "schedule": schedule, "lr_warmup": lr_warmup, "clip_norm": clip_norm,
        "ema": ema, "patience": patience, "seed": seed, "device": device, "binarize": binarize,
        "animate": animate, "compile": compile_, "devices": devices, "num_nodes": num_nodes, "strategy": strategy,
        "precision": precision,
    }  # fmt: skip
    if model and again and model != again:
        raise UserError(f"MODEL {model} and --model {again} came, expected one of them")
    name, given = gather(model or again, flags, set_ or [], config)
    place = out or Path("runs") / f"{Path(name or 'run').stem}-{Path(str(given.get('data', 'digits'))).stem}"
    summary = run_training(name, given, place, resume=resume, overwrite=overwrite, quiet=quiet)
    if not summary:  # one of several processes, of which the first tells how it ended
        return
    if not quiet:
        tell(summary)
    if json_:
        print_json(summary)
    if not summary["finished"]:
        raise typer.Exit(130)


@app.command()
def sample(
    run: RunPath,
    out: Annotated[Path | None, typer.Option(help="The file to write; sentences are printed without it.")] = None,
    num: Annotated[int, typer.Option(help="How many images, or sentences.")] = 64,
    seed: Seed = 0,
    temperature: Annotated[
        float, typer.Option(help="Factor on the spread of a Gaussian prior, or of each pixel's or word's distribution.")
    ] = 1.0,
    mean: Mean = False,
    label: Label = None,
    animate: Annotated[Path | None, typer.Option(help="Also a film, .gif, of the pixels as they come.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Of a run of text: how every sentence begins.")] = None,
    model: Model = None,
    device: Device = "auto",
) -> None:
    """Draw images from p(x): [bold]probgen sample RUN --num 64 --out samples.png[/bold] (or .npz: `images`).

    Of a run of text: [bold]probgen sample RUN --num 5 --prompt "The wind"[/bold] (--out: .txt or .json).
    """
    from probgen.commands.sample import sample_run
    from probgen.commands.texts import is_text_run, sample_sentences

    if is_text_run(run):
        unfit = {"--mean": mean, "--label": label, "--animate": animate}
        sentences = sample_sentences(
            run, num, out, prompt, seed=seed, temperature=temperature, model=model, device=device, unfit=unfit
        )
        said(out) if out else print(*sentences, sep="\n")
        return
    if prompt is not None or out is None:
        came = "no --out came" if prompt is None else "--prompt came, but this run was trained on images"
        raise UserError(f"{came}: probgen sample RUN --out samples.png")
    sample_run(
        run, num, out, seed=seed, temperature=temperature, model=model, device=device, mean=mean, label=label,
        animate=animate,
    )  # fmt: skip
    for file in filter(None, (out, animate)):
        said(file)


@app.command()
def complete(
    run: RunPath,
    out: OutFile,
    num: Annotated[int, typer.Option(help="How many images, evenly spread over the split.")] = 8,
    keep: Annotated[str, typer.Option(help="top, left (half), or a .png/.npy: its nonzero pixels are known.")] = "top",
    draws: Annotated[int, typer.Option(help="Completions of each image.")] = 6,
    label: Label = None,
    split: SplitName = "test",
    seed: Seed = 0,
    data_dir: DataDir = None,
    model: Model = None,
    device: Device = "auto",
) -> None:
    """What may follow: images of which a part is known, each with several completions drawn pixel by pixel.

    In raster order: a drawn pixel is conditioned on earlier ones only. What is known below it stays, but has no
    influence on it; keep the top for completions that fit.
    """
    from probgen.commands.pixels import complete_run

    complete_run(
        run, num, keep, out, draws=draws, split=split, label=label, seed=seed, data_dir=data_dir, model=model,
        device=device,
    )  # fmt: skip
    said(out)


@app.command()
def reconstruct(
    run: RunPath,
    out: OutFile,
    num: Annotated[int, typer.Option(help="How many images.")] = 20,
    split: SplitName = "test",
    data_dir: DataDir = None,
    model: Model = None,
    device: Device = "auto",
) -> None:
    """Images over what the model makes of them after squeezing them through its code."""
    from probgen.commands.sample import reconstruct_run

    reconstruct_run(run, num, out, split=split, data_dir=data_dir, model=model, device=device)
    said(out)


@app.command()
def traverse(
    run: RunPath,
    out: OutFile,
    between: Between = None,
    num: Annotated[
        int, typer.Option(help="At most so many rows: the dimensions with the largest KL; of a GAN, walks (up to 100).")
    ] = 16,
    data_dir: DataDir = None,
    model: Model = None,
    device: Device = "auto",
) -> None:
    """What each latent dimension does to an image, one row each; for two dimensions, the whole plane.

    Of a GAN, which finds no z for an image: walks from one z to another, one row each.
    """
    from probgen.commands.traverse import traverse_run

    traverse_run(run, out, between=between, num=num, data_dir=data_dir, model=model, device=device)
    said(out)


@app.command()
def evaluate(
    run: RunPath,
    split: SplitName = "test",
    particles: Annotated[int | None, typer.Option(help="Draws of z per image. \\[100]")] = None,
    num: Annotated[int | None, typer.Option(help="Only the first so many images.")] = None,
    method: Annotated[str | None, typer.Option(help="elbo, iwae, ais (annealing), bdmc (both sides).")] = None,
    chains: Annotated[int, typer.Option(help="Of ais and bdmc, for each image.")] = 16,
    distributions: Annotated[int, typer.Option(help="Of ais and bdmc: steps from prior to posterior.")] = 500,
    schedule: Annotated[str, typer.Option(help="Of ais and bdmc: sigmoidal, or adaptive.")] = "sigmoidal",
    sentence: Annotated[str | None, typer.Option(help="Of a run of text: this one, symbol by symbol.")] = None,
    samples: Annotated[
        int | None, typer.Option(help="Also draw so many and judge them; a GAN is judged without it too.")
    ] = None,
    sigma: Annotated[
        float | None,
        typer.Option(help="Of ais on a GAN: the noise added to its images in \\[0, 1], or points. \\[0.1]"),
    ] = None,
    compile_: Annotated[
        str, typer.Option("--compile", help="Compile importance weights and chains: on, off, or auto, if it repays.")
    ] = "auto",
    seed: Seed = 0,
    data_dir: DataDir = None,
    model: Model = None,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """What the model can say about log p(x): exact, bounds, or nothing, and why.

    A GAN has no likelihood: its samples are judged instead, by their distance from the data in named features.
    """
    from probgen.commands.evaluate import Annealing, evaluate_run
    from probgen.commands.texts import sentence_run
    from probgen.tables import print_evaluation, print_sentence

    if sentence is not None:
        scored = sentence_run(run, sentence, model=model, device=device)
        print_json(scored) if json_ else print_sentence(scored)
        return
    result = evaluate_run(
        run, split=split, particles=particles, num=num, data_dir=data_dir, model=model, device=device, seed=seed,
        method=method, annealing=Annealing(chains, distributions, schedule), samples=samples, sigma=sigma,
        compile=compile_, strict=True, quiet=json_,
    )  # fmt: skip
    print_json(result) if json_ else print_evaluation(result)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN…", help="Two or more runs of the same data.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to make: numbers, table, page.")],
    split: SplitName = "test",
    samples: Annotated[
        int | None, typer.Option(help="Of each run. \\[10,000, at most the split; 1,000 where pixels are drawn]")
    ] = None,
    particles: Particles = 100,
    num: Annotated[int | None, typer.Option(help="log p(x) of the first so many images only.")] = None,
    seed: Seed = 0,
    data_dir: DataDir = None,
    model: Model = None,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Models of all families in one table: [bold]probgen compare runs/vae runs/gan --out comparison[/bold]

    What each knows of log p(x), how near its samples are to real images, what it costs; and a page, DIR/index.html.
    """
    from probgen.commands.compare import compare_runs
    from probgen.tables_compare import print_comparison_of_runs

    result = compare_runs(
        runs, out, split=split, samples=samples, particles=particles, num=num, seed=seed, data_dir=data_dir,
        model=model, device=device, quiet=json_,
    )  # fmt: skip
    print_json(result) if json_ else print_comparison_of_runs(result)
    said(out / "index.html")


@app.command()
def elbo(
    run: RunPath,
    num: Annotated[int | None, typer.Option(help="Only the first so many images.")] = None,
    index: Annotated[int | None, typer.Option(help="One image, by its place in the split.")] = None,
    split: SplitName = "test",
    particles: Particles = 1,
    out: Annotated[Path | None, typer.Option(help="Also draw the terms into this .png.")] = None,
    seed: Seed = 0,
    data_dir: DataDir = None,
    model: Model = None,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """The pair's equation and the three terms of log p(x), with their numbers; one image, or the mean of many."""
    from probgen.commands.elbo import elbo_run
    from probgen.tables import print_elbo

    result = elbo_run(
        run, split=split, num=num, index=index, particles=particles, data_dir=data_dir, model=model, device=device,
        seed=seed, out=out,
    )  # fmt: skip
    print_json(result) if json_ else print_elbo(result)
    if out:
        said(out)


@app.command()
def explain(
    topic: Annotated[
        str | None, typer.Argument(metavar="TOPIC", help="One of the list that `probgen explain` prints.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(metavar="RUN", help="On this trained run, instead of a small exact model.")
    ] = None,
    index: Annotated[int | None, typer.Option(help="Of a run: which image, by its place in the split. \\[0]")] = None,
    split: Annotated[str | None, typer.Option(help="Of a run: train, valid or test. \\[test]")] = None,
    seed: Seed = 0,
    data_dir: DataDir = None,
    model: Model = None,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """A derivation line by line, each line followed by its number: [bold]probgen explain elbo[/bold]

    Every line is computed by its own expression, in float64, and compared with the line before it.

    Beside its number stands the difference: exact ones agree to about 1e-15, sampled ones within a few standard errors.

    Then the reason for the step, and the function that computed the number; at the end, whether all equals signs hold.

    Without --run on a small model where everything is known; with it on one image of the run's data, or many.

    Topics: maximum-likelihood, kl, chain-rule, elbo, reparameterization, iwae, gan.
    """
    from probgen.commands.explain import explain as explained
    from probgen.commands.explain import list_topics
    from probgen.tables_explain import print_derivation, print_topics

    if topic is None:
        if run is not None:
            raise UserError(f"--run {run} came without a topic: see `probgen explain` for the list")
        rows = list_topics()
        print_json({"topics": rows}) if json_ else print_topics(rows)
        return
    result = explained(
        topic, run, index=index, split=split, data_dir=data_dir, model=model, device=device, seed=seed, quiet=json_
    )
    print_json(result) if json_ else print_derivation(result)


@app.command()
def diagnose(
    run: RunPath,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to make: figures, numbers, draws.")],
    index: Annotated[int, typer.Option(help="The image, by its place in the split.")] = 0,
    split: SplitName = "test",
    chains: Annotated[int, typer.Option(help="Of NUTS; two or more can be compared with each other.")] = 4,
    samples: Annotated[int, typer.Option(help="Draws of each chain.")] = 500,
    warmup: Annotated[int, typer.Option(help="Steps of each chain before, in which it finds its step size.")] = 500,
    particles: Annotated[int, typer.Option(help="Draws from the guide for ELBO, log p(x) and Pareto k̂.")] = 1000,
    start: Annotated[str, typer.Option(help="Of chains: guide, or prior (finds modes unknown to it).")] = "guide",
    seed: Seed = 0,
    data_dir: DataDir = None,
    model: Model = None,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Is the guide any good? For one image: q(z | x) beside p(z | x) as NUTS draws it, and the KL between them.

    Shift and spread tell where the guide is wrong, pairs.png which correlations it misses.

    The KL is what that costs of log p(x); Pareto k̂ says whether its draws could stand for the posterior.

    R̂ near 1 says that NUTS itself can be believed.
    """
    from probgen.commands.diagnose import Sampling, diagnose_run
    from probgen.tables import print_diagnosis

    result = diagnose_run(
        run, index, out, split=split, sampling=Sampling(chains, samples, warmup, particles, start), seed=seed,
        data_dir=data_dir, model=model, device=device, quiet=json_,
    )  # fmt: skip
    print_json(result) if json_ else print_diagnosis(result)
    said(out)


@app.command()
def gradients(
    run: RunPath,
    out: Annotated[Path | None, typer.Option(help="Also draw them into this .png.")] = None,
    num: Annotated[int, typer.Option(help="The ELBO's mean over the first so many images.")] = 1,
    draws: Annotated[int, typer.Option(help="Of each gradient.")] = 500,
    split: SplitName = "test",
    seed: Seed = 0,
    data_dir: DataDir = None,
    model: Model = None,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """The reparameterized and the score-function gradient of one ELBO: equal means, very different variances.

    Of a GAN: what the saturating and the non-saturating loss leave of the generator's gradient as D(G(z)) → 0.
    """
    from probgen.commands.gradients import gradients_run
    from probgen.tables import print_gradients
    from probgen.tables_samples import print_adversarial_gradients

    result = gradients_run(
        run, out, num=num, draws=draws, split=split, data_dir=data_dir, model=model, device=device, seed=seed,
        quiet=json_,
    )  # fmt: skip
    show = print_adversarial_gradients if "players" in result else print_gradients
    print_json(result) if json_ else show(result)
    if out:
        said(out)


@app.command()
def info(
    run: RunPath,
    graph: Annotated[Path | None, typer.Option(help="Also draw the sites as a graph: .gv, .png, .svg, .pdf.")] = None,
    field: Annotated[Path | None, typer.Option(help="Also draw what one pixel depends on, into this .png.")] = None,
    model: Model = None,
    json_: Json = False,
) -> None:
    """What a run directory holds: model, its equation, options, training, last numbers."""
    from probgen.commands.listing import describe_run
    from probgen.tables import print_info

    result = describe_run(run, model, graph, field)
    print_json(result) if json_ else print_info(result)
    for file in filter(None, (graph, field)):
        said(file)


@app.command()
def models(json_: Json = False) -> None:
    """The models: kind, sites, options and their defaults."""
    from probgen.commands.listing import list_models
    from probgen.tables import print_models

    rows = list_models()
    print_json({"models": rows}) if json_ else print_models(rows)


@app.command()
def datasets(data_dir: DataDir = None, json_: Json = False) -> None:
    """The data sets: size, shape, levels, labels, factors, and whether they are here."""
    from probgen.commands.listing import list_datasets
    from probgen.tables import print_datasets

    rows = list_datasets(data_dir)
    print_json({"datasets": rows}) if json_ else print_datasets(rows)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The folder to make.")] = Path("demo"),
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Train every kind of model on real handwritten digits, and put pictures and one table into a folder."""
    from probgen.commands.demo import run_demo

    run_demo(out, quiet=quiet)


@app.callback(invoke_without_command=True)
def main_options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    """Options before the command."""
    if version:
        from probgen.version import __version__

        print(__version__)
        raise typer.Exit


def print_json(result: Any) -> None:
    """One line of JSON, the last on stdout; nan and infinity, which JSON lacks, as null."""
    print(json.dumps(plain(result), ensure_ascii=False, allow_nan=False))


def plain(value: Any) -> Any:
    """Only what JSON has."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)


def said(path: Path) -> None:
    """Tell where the result is."""
    print(f"wrote {path}", file=sys.stderr)


def complain(message: str) -> int:
    """One line on stderr, whatever came; the exit code for what the user can mend.

    Of several processes that torchrun has started all complain of the same: only the first tells it.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("RANK") == "0":
        print("probgen: " + " ".join(message.split()), file=sys.stderr)
    return 2


def run() -> None:
    """Run the command line. Exit codes: 0; 2 for what the user can mend, one line; 130 after Ctrl-C."""
    prepare_process()
    if len(sys.argv) < 2:
        sys.exit(complain("no command came: try `probgen demo`, or see `probgen --help`"))
    try:
        code = app(standalone_mode=False) or 0
    except UserError as error:
        code = complain(str(error))
    except KeyboardInterrupt:
        code = 130
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            code = 0
        else:
            code = complain(f"{error.filename or 'a file'}: {error.strerror or error}")
    except MemoryError:
        code = complain(OUT_OF_MEMORY)
    except Exception as error:
        if "allocate memory" in str(error) or "out of memory" in str(error):
            sys.exit(complain(OUT_OF_MEMORY))
        if not hasattr(error, "format_message"):  # click's own way of saying that the words were wrong
            raise
        code = complain(f"{error.format_message().rstrip('.')} (see probgen --help)")
    sys.exit(code)
