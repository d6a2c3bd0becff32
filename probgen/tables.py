"""Results for people: what the commands print on stdout without `--json`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from probgen.console import stdout_console
from probgen.inference.terms_view import as_rich, with_error
from probgen.tables_samples import MEASURES, print_samples


def print_evaluation(result: Mapping[str, Any]) -> None:
    """The estimates of `probgen evaluate`, or why there is none."""
    console = stdout_console()
    binarize = "" if result["binarize"] == "none" else f", binarized: {result['binarize']}"
    thing = "sentence" if "unit" in result else "image"
    implicit = "samples" in result and not result["estimates"]
    rows = f"the {result['split']} split" if implicit else f"{result['num_images']} {result['split']} {thing}s"
    console.print(f"{result['model']} on {rows} of {result['data']}{binarize}", markup=False)
    if implicit:
        console.print("log p(x): none, the model is implicit")
    if result["estimates"]:
        dequantized = "dequantized" in result.get("note", "")
        console.print(estimates_table("", result["estimates"], dequantized, thing))
    if "gaps" in result:
        console.print()
        title = "the gap" if "bdmc_gap" in result["gaps"] else "what the ELBO loses"
        console.print(estimates_table(title, result["gaps"]))
        console.print(f"\n{result['acceptance']:.0%} of the HMC proposals accepted")
    if "perplexity" in result:
        print_per_symbol(console, result)
    elif result["bits_per_dim"] is not None:
        console.print(f"{result['bits_per_dim']:.4f} bits per dimension")
    if "observation" in result:
        print_observation(console, result["observation"])
    for key in ("warning", "note"):
        if key in result:
            console.print(f"{key}: {result[key]}", markup=False)
    if "samples" in result:
        print_samples(console, result["samples"])


def print_observation(console: Console, found: Mapping[str, Any]) -> None:
    """What annealing says of an implicit model with noise on top, and how it was run."""
    console.print(f"\nAIS {with_error(found['value'], found['stderr'])} {found['unit']}, {found['kind']}", markup=False)
    console.print(f"  of the {found['what']}", markup=False)
    console.print(
        f"  mean over the first {found['num_images']:,}; {found['chains']:,} chains for each, "
        f"{found['distributions']:,} distributions, {found['schedule']} schedule, {found['acceptance']:.0%} of the HMC "
        "proposals accepted",
        markup=False,
    )


def print_per_symbol(console: Console, result: Mapping[str, Any]) -> None:
    """Bits and perplexity for each symbol of a text."""
    unit, bits, perplexity = (result[key] for key in ("unit", "bits_per_symbol", "perplexity"))
    console.print(
        f"{bits:.4f} bits per {unit} over {result['num_symbols']:,} {unit}s; perplexity {perplexity:.2f}: as unsure of "
        f"the next {unit} as between {perplexity:.2f} equally likely ones"
    )


SPELLED = {"\n": "(end)", "<end>": "(end)", " ": "(space)", "\t": "(tab)"}


def print_sentence(result: Mapping[str, Any]) -> None:
    """How probable a sentence is, symbol by symbol."""
    console = stdout_console()
    console.print(f"log p({result['sentence']!r}) = {result['log_prob']:.2f} nats, exact", markup=False)
    print_per_symbol(console, result)
    console.print()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in (result["unit"], "log p, nats", "p"):
        table.add_column(column, justify="left" if column == result["unit"] else "right")
    for row in result["symbols"]:
        symbol = SPELLED.get(row["symbol"], row["symbol"])
        table.add_row(escape(symbol), f"{row['log_prob']:.2f}", f"{math.exp(row['log_prob']):.3g}")
    console.print(table)


def estimates_table(title: str, estimates: Mapping[str, Any], dequantized: bool = False, thing: str = "image") -> Table:
    """One row for each number: what it is, and from how many draws."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in (title, f"nats per {thing}", "what it is", "particles"):
        table.add_column(column, justify="right" if column in (f"nats per {thing}", "particles") else "left")
    for name, e in estimates.items():
        kind = e["kind"] + (", of dequantized grey levels" if dequantized and name == "log_prob" else "")
        table.add_row(NAMES.get(name, name), with_error(e["value"], e["stderr"]), kind, str(e["particles"] or ""))
    return table


NAMES = {
    "log_prob": "log p(x)",
    "elbo": "ELBO",
    "iwae": "IWAE",
    "ais": "AIS",
    "bdmc_lower": "BDMC, forwards",
    "bdmc_upper": "BDMC, backwards",
    "bdmc_gap": "between the bounds",
    "approximation": "to a factorized Gaussian",
    "amortization": "to the guide beside it",
}


def print_elbo(result: Mapping[str, Any]) -> None:
    """The pair's equation, the three terms of log p(x) with their numbers underneath, one row for each site."""
    console = stdout_console()
    count, thing = result["num_images"], result.get("each", "image")
    who = f"the mean of {count} {result['split']} {thing}s" if count > 1 else f"one {result['split']} {thing}"
    draws = f", {result['particles']} particle{'s' * (result['particles'] != 1)}" if result["particles"] else ""
    console.print(f"{result['model']} on {result['data']}, {who}{draws}, in nats\n", markup=False)
    console.print(as_rich(result))


MOST_DIMENSIONS = 10
FAR, WIDE = 0.25, 1.25  # of the posterior's standard deviation: what is called shifted, narrow, wide


def print_diagnosis(result: Mapping[str, Any]) -> None:
    """Is the guide any good? What it loses of log p(x), whether NUTS can be believed, and the worst dimensions."""
    console = stdout_console()
    who = f"{result['model']} on {result['data']}, {result['split']} image {result['index']}"
    console.print(f"{who}: the guide against {result['chains']} × {result['samples']} draws of NUTS\n", markup=False)
    told = Table(box=None, show_header=False, pad_edge=False)
    for name, key in (("log p(x)", "evidence"), ("ELBO", "elbo"), ("KL(q ‖ p(z | x))", "kl")):
        estimate = result[key]
        sign = "≥" if estimate["kind"] == "lower bound" and key != "elbo" else "="
        told.add_row(name, sign, with_error(estimate["value"], estimate["stderr"]), kind_of_number(key, estimate))
    console.print(told)
    count = "no divergences" if not result["divergences"] else f"{result['divergences']} divergences"
    r_hat, ess = (("unknown" if result[key] is None else f"{result[key]:{how}}") for key, how in HOW_SHOWN)
    verdict = "converged" if result["converged"] else "see the warnings"
    console.print(f"\nNUTS: R̂ up to {r_hat}, worth {ess} independent draws or more, {count}: {verdict}", markup=False)
    console.print(f"Pareto k̂: {tail_in_words(result)}\n", markup=False)
    console.print(marginals_table(result["marginals"]))
    for warning in result["warnings"]:
        console.print(f"warning: {warning}", markup=False)


HOW_SHOWN = (("r_hat", ".4g"), ("ess", ".0f"))


def kind_of_number(key: str, estimate: Mapping[str, Any]) -> str:
    """What a number of a diagnosis is."""
    particles = f", {estimate['particles']} particles" if estimate["particles"] else ""
    if key == "kl":
        return "nats lost or more" if estimate["kind"] == "lower bound" else "nats lost"
    return estimate["kind"] + (", IWAE" if key == "evidence" and particles else "") + particles


def tail_in_words(result: Mapping[str, Any]) -> str:
    """What Pareto k̂ says about the guide's draws."""
    k, limit = result["pareto_k"], f"{result['pareto_k_threshold']:.2f}"
    if k is None:
        return "all weights are equal, the guide is the posterior" if result["trusted"] else "one weight outweighs all"
    if result["trusted"]:
        return f"{k:.2f}, below {limit}: the guide's draws, weighted, could stand for the posterior"
    return f"{k:.2f}, over {limit}: the guide's draws cannot stand for the posterior, weighted or not"


def marginals_table(marginals: Sequence[Mapping[str, Any]]) -> Table:
    """The dimensions in which guide and posterior differ most."""
    ranked = sorted(marginals, key=lambda m: -float("inf") if m["mismatch"] is None else -m["mismatch"])
    hidden = len(ranked) - MOST_DIMENSIONS
    closer = ", closer to each other" if all(m["mismatch"] is not None for m in ranked) else ""
    caption = f"and {hidden} more{closer}" if hidden > 0 else None
    table = Table(box=None, header_style="bold", pad_edge=False, caption=caption, caption_justify="left")
    for column in ("", "posterior", "guide", "shift", "spread", "KL"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    table.add_column("the guide is")
    for m in ranked[:MOST_DIMENSIONS]:
        both = [with_error(m[f"{which}_mean"], m[f"{which}_sd"]) for which in ("posterior", "guide")]
        rest = [number(m[key], how) for key, how in COLUMNS.items()]
        table.add_row(escape(m["name"]), *both, *rest, fit_in_words(m))
    return table


COLUMNS = {"shift": "+.2f", "spread": ".2f", "mismatch": ".3f"}


def number(value: float | None, how: str) -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None else format(value, how).replace("-", "−")


def fit_in_words(marginal: Mapping[str, Any]) -> str:
    """`shifted, too narrow`, or `right` within a quarter of the posterior's standard deviation."""
    if marginal["mismatch"] is None:
        return "not comparable: NUTS stood still"
    words = ["shifted"] if abs(marginal["shift"]) > FAR else []
    words += ["too wide"] if marginal["spread"] > WIDE else ["too narrow"] if marginal["spread"] < 1 / WIDE else []
    return ", ".join(words) or "right"


def print_gradients(result: Mapping[str, Any]) -> None:
    """Both estimators of a gradient: the size of their mean, the variance of a draw, and whether the means agree."""
    console = stdout_console()
    images = f"{result['num_images']} {result['split']} image{'s' * (result['num_images'] != 1)}"
    head = f"{result['model']} on {images} of {result['data']}: the ELBO's gradient in the guide's parameters"
    console.print(head, markup=False)
    part = "" if result["coordinates"] == result["num_parameters"] else f", {result['coordinates']:,} of them measured"
    console.print(f"{result['num_parameters']:,} parameters{part}, {result['num_draws']:,} draws of each\n")
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("", "norm of the mean", "variance of a draw"):
        table.add_column(column, justify="right" if column else "left")
    for name, found in result["estimators"].items():
        table.add_row(name.replace("-", " "), f"{found['norm_of_mean']:.4g}", f"{found['variance']:.4g}")
    console.print(table)
    console.print(f"\nthe score function's variance is {result['variance_ratio']:,.4g} times the other's")
    console.print(
        f"the two means differ by {result['disagreement']:.2f} of their standard errors (root mean square; about 1 "
        "where both have one expectation)"
    )


CLOCKS = ("time", "seconds")


def print_models(rows: Sequence[Mapping[str, Any]]) -> None:
    """Every model: kind, sites, options with types and defaults."""
    console = stdout_console()
    for row in rows:
        console.print(f"[bold]{row['name']}[/bold]  {row['kind']}")
        console.print(f"  {row['summary']}", markup=False)
        console.print("  sites: " + ", ".join(f"{name} ({role})" for name, role in row["sites"].items()))
        for name, option in row["options"].items():
            console.print(f"  --set {name}={shown(option['default'])}  {option['type']}", markup=False)
        console.print()
    console.print("Your own: probgen train my_file.py:MyVAE …, a class with model(x) and guide(x).", markup=False)


def shown(value: Any) -> str:
    """A default as one would type it."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return "none" if value is None else str(value)


def print_datasets(rows: Sequence[Mapping[str, Any]]) -> None:
    """Every data set: size, shape, levels, labels, factors, whether it is here."""
    console = stdout_console()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("name", "train/valid/test", "shape", "levels", "labels", "factors", "here", "what"):
        table.add_column(column, justify="right" if column in ("levels", "labels") else "left")
    for row in rows:
        table.add_row(
            row["name"],
            "/".join(f"{n:,}" for n in row["size"]),
            "×".join(map(str, row["shape"])),
            str(row["levels"] or "real"),
            str(row["labels"] or ""),
            ", ".join(row["factors"]),
            "yes" if row["here"] else "no",
            row["description"],
        )
    console.print(table)
    console.print(
        "Your own: a .npz or .npy file, a folder of images, or a .txt file with a sentence on each line.", markup=False
    )


def print_info(info: Mapping[str, Any]) -> None:
    """A run: what was trained, how, and where it stands."""
    console = stdout_console()
    head = f"{info['run']}: {info['model']}, {info['kind']}, {info['parameters']:,} parameters"
    console.print(head, style="bold", markup=False)
    console.print("sites: " + ", ".join(f"{name} ({role})" for name, role in info["sites"].items()), markup=False)
    for line in info["equation"]:
        console.print(f"  {line}", markup=False)
    if field := info.get("receptive_field"):
        console.print(
            f"receptive field of the pixel ◎ at row {field['row']}, column {field['column']}: {field['seen']} of "
            f"{field['earlier']} earlier pixels"
        )
        for line in field["map"]:
            console.print(f"  {line}", markup=False, highlight=False)
    for title in ("objective", "options", "training"):
        given = {k: v for k, v in info.get(title, {}).items() if v is not None}
        if given:
            console.print(f"{title}: " + ", ".join(f"{k}={shown(v)}" for k, v in given.items()), markup=False)
    for split, record in info["last"].items():
        if record:
            console.print(
                f"{split}: "
                + ", ".join(f"{k} {v:g}" for k, v in record.items() if isinstance(v, int | float) and k not in CLOCKS)
            )


def comparison(results: Mapping[str, Mapping[str, Any]]) -> str:
    """One row a model: which kind of likelihood number it has, as text of fixed width."""
    rows = [("model", "data", "log p(x), nats", "what it is", "bits/dim", "training")]
    for name, result in results.items():
        estimates = result["estimates"]
        best = estimates.get("log_prob") or estimates.get("iwae") or estimates.get("elbo")
        if best is None:
            rows.append((name, result["data"], "–", why_none(result), "–", f"{result['seconds']:.0f} s"))
            continue
        sign = "≥ " if best["kind"] == "lower bound" else ""
        particles = f" (IWAE, {best['particles']} particles)" if best["particles"] > 1 else ""
        dequantized = " (density of dequantized grey levels)" if "dequantized" in result.get("note", "") else ""
        rows.append(
            (
                name,
                result["data"],
                sign + with_error(best["value"], best["stderr"]),
                best["kind"] + particles + dequantized,
                f"{result['bits_per_dim']:.3f}",
                f"{result['seconds']:.0f} s",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def why_none(result: Mapping[str, Any]) -> str:
    """Why there is no number on log p(x), and what there is instead."""
    if "samples" not in result:
        return "none: no density"
    judged = result["samples"]
    found = ", ".join(f"{MEASURES[name]} {judged[name]['value']:.2f}" for name in ("frechet_distance", "recall"))
    return f"no likelihood, samples only ({found})"
