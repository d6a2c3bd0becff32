"""Results for people: what the commands print on stdout without `--json`."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from probgen.inference.terms_view import as_rich, with_error


def stdout_console() -> Console:
    """A console on stdout; wide enough in a pipe that no row is folded."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=200)


def print_evaluation(result: Mapping[str, Any]) -> None:
    """The estimates of `probgen evaluate`, or why there is none."""
    console = stdout_console()
    binarize = "" if result["binarize"] == "none" else f", binarized: {result['binarize']}"
    head = f"{result['model']} on {result['num_images']} {result['split']} images of {result['data']}{binarize}"
    console.print(head, markup=False)
    if result["estimates"]:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in ("", "nats per image", "what it is", "particles"):
            table.add_column(column, justify="right" if column in ("nats per image", "particles") else "left")
        for name, e in result["estimates"].items():
            value = with_error(e["value"], e["stderr"])
            dequantized = name == "log_prob" and "dequantized" in result.get("note", "")
            kind = e["kind"] + (", of dequantized grey levels" if dequantized else "")
            table.add_row(NAMES.get(name, name), value, kind, str(e["particles"] or ""))
        console.print(table)
    if result["bits_per_dim"] is not None:
        console.print(f"{result['bits_per_dim']:.4f} bits per dimension")
    for key in ("warning", "note"):
        if key in result:
            console.print(f"{key}: {result[key]}", markup=False)


NAMES = {
    "log_prob": "log p(x)",
    "elbo": "ELBO",
    "iwae": "IWAE",
    "ais": "AIS",
    "bdmc_lower": "BDMC, forwards",
    "bdmc_upper": "BDMC, backwards",
    "bdmc_gap": "the gap",
}


def print_elbo(result: Mapping[str, Any]) -> None:
    """The pair's equation, the three terms of log p(x) with their numbers underneath, one row for each site."""
    console = stdout_console()
    images = result["num_images"]
    who = f"the mean of {images} {result['split']} images" if images > 1 else f"one {result['split']} image"
    draws = f"{result['particles']} particle{'s' * (result['particles'] != 1)}"
    console.print(f"{result['model']} on {result['data']}, {who}, {draws}, in nats\n", markup=False)
    console.print(as_rich(result))


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
    console.print("Your own: a .npz or .npy file, or a folder of images.", markup=False)


def print_info(info: Mapping[str, Any]) -> None:
    """A run: what was trained, how, and where it stands."""
    console = stdout_console()
    head = f"{info['run']}: {info['model']}, {info['kind']}, {info['parameters']:,} parameters"
    console.print(head, style="bold", markup=False)
    console.print("sites: " + ", ".join(f"{name} ({role})" for name, role in info["sites"].items()), markup=False)
    for line in info["equation"]:
        console.print(f"  {line}", markup=False)
    for title in ("options", "training"):
        given = {k: v for k, v in info[title].items() if v is not None}
        console.print(f"{title}: " + ", ".join(f"{k}={shown(v)}" for k, v in given.items()), markup=False)
    for split, record in info["last"].items():
        if record:
            console.print(
                f"{split}: "
                + ", ".join(f"{k} {v:g}" for k, v in record.items() if isinstance(v, int | float) and k != "time")
            )


def comparison(results: Mapping[str, Mapping[str, Any]]) -> str:
    """One row a model: which kind of likelihood number it has, as text of fixed width."""
    rows = [("model", "log p(x), nats per image", "what it is", "bits/dim", "training")]
    for name, result in results.items():
        estimates = result["estimates"]
        best = estimates.get("log_prob") or estimates.get("iwae") or estimates.get("elbo")
        if best is None:
            rows.append((name, "–", "none", "–", f"{result['seconds']:.0f} s"))
            continue
        sign = "≥ " if best["kind"] == "lower bound" else ""
        particles = f" (IWAE, {best['particles']} particles)" if best["particles"] > 1 else ""
        dequantized = " (density of dequantized grey levels)" if "note" in result else ""
        rows.append(
            (
                name,
                sign + with_error(best["value"], best["stderr"]),
                best["kind"] + particles + dequantized,
                f"{result['bits_per_dim']:.3f}",
                f"{result['seconds']:.0f} s",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
