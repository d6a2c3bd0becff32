"""Results on samples for people: how good they are, and what teaches the one who draws them."""

import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from probgen.console import stdout_console

MEASURES = {
    "modes": "modes covered",
    "share_within": "share within 3σ",
    "kl_modes": "KL of modes, nats",
    "frechet_distance": "Fréchet distance",
    "kernel_distance": "kernel distance",
    "precision": "precision",
    "recall": "recall",
    "c2st": "two-sample test",
}


def print_samples(console: Console, judged: Mapping[str, Any]) -> None:
    """The measures of samples and in which direction each is better; underneath how each was measured."""
    head = f"\n{judged['num_samples']:,} samples beside {judged['num_real']:,} real ones, in {judged['features']}"
    console.print(head, markup=False)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("", "value", "better", ""):
        table.add_column(column, justify="right" if column == "value" else "left")
    protocols: list[str] = []
    for name, told in MEASURES.items():
        if name in judged:
            found = judged[name]
            protocols += [found["protocol"]] if found["protocol"] not in protocols else []
            note = f"({protocols.index(found['protocol']) + 1})"
            table.add_row(told, measured(found["value"], found["stderr"]), found["better"], note)
    console.print(table)
    for number, protocol in enumerate(protocols, 1):
        console.print(f"({number}) {protocol}", markup=False)
    console.print(f"drawn on this machine: {judged['samples_per_second']:,.0f} samples per second", markup=False)


def measured(value: float, stderr: float | None) -> str:
    """`0.973 ± 0.005`: two digits of the error, and the number to as many places."""
    if not stderr or not math.isfinite(stderr):
        return f"{value:.4g}"
    places = max(0, 1 - math.floor(math.log10(stderr)))
    return f"{value:.{places}f} ± {stderr:.{places}f}"


def print_adversarial_gradients(result: Mapping[str, Any]) -> None:
    """What is left of the generator's gradient where D is sure, and how much of it this run's players have."""
    console = stdout_console()
    console.print(f"{result['model']} on {result['data']}: d loss / d logit at D(G(z)), exactly\n", markup=False)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("D(G(z))", "log(1 − D(G(z))), saturating", "−log D(G(z)), non-saturating"):
        table.add_column(column, justify="right")
    for row in result["saturation"]["rows"]:
        numbers = [f"{row[name]:.6g}".replace("-", "−") for name in ("minimax", "non-saturating")]
        table.add_row(f"{row['probability']:g}", *numbers)
    console.print(table)
    console.print(f"\n{told_of_players(result['loss'], result['players'])}", markup=False)


def told_of_players(loss: str, players: Mapping[str, Any]) -> str:
    """The norms of this run's gradients; without D(G(z)), and with a caveat, where the logit is no probability's."""
    norms = ", ".join(f"{value:.3g} {name}" for name, value in players["norms"].items())
    over = f"this run, over {players['draws']:,} draws"
    if players["d_fake"] is None:
        return (
            f"this run was trained with loss={loss}, whose logit is no probability's: the norms are what these two "
            f"losses would give if it were\n{over}: norm of the generator's gradient {norms}"
        )
    return f"{over}: D(G(z)) = {players['d_fake']:.3g} on average, norm of the generator's gradient {norms}"
