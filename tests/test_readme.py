"""Every block of the README and of the tour that can run, runs; the tour's commands with fewer steps."""

import re
import shlex
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("untyped")  # long: annotations are checked by the shorter tests

ROOT = Path(__file__).parent.parent
README, TOUR = (
    re.findall(r"```(sh|python)\n(.*?)```", (ROOT / name).read_text(), flags=re.S)
    for name in ("README.md", "docs/tour.md")
)


# The tour's numbers, and as many as show whether a line runs: its results are looked at by other tests.
FEWER = {
    "--epochs 20": "--epochs 4", "--steps 200 ": "--steps 30 ", "--steps 300": "--steps 60",
    "--samples 100 --warmup 100": "--samples 30 --warmup 30", "--distributions 60": "--distributions 15",
    "--draws 100": "--draws 20",
}  # fmt: skip


def fewer(blocks: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The same blocks with fewer steps and draws."""
    for number, less in FEWER.items():
        assert any(number in text for _, text in blocks), f"the page has no {number} any more"
        blocks = [(kind, text.replace(number, less)) for kind, text in blocks]
    return blocks


def run_cli(line: str, monkeypatch) -> None:
    from probgen.cli import run

    monkeypatch.setattr(sys, "argv", shlex.split(line, comments=True))
    with pytest.raises(SystemExit) as end:
        run()
    assert end.value.code == 0, line


def run_lines(blocks: list[tuple[str, str]], monkeypatch) -> int:
    """Run the `probgen` lines of the shell blocks in order; how many there were."""
    lines = [line for kind, text in blocks if kind == "sh" for line in text.splitlines() if line.startswith("probgen")]
    for line in lines:
        run_cli(line, monkeypatch)
    return len(lines)


def run_python(code: str) -> None:
    exec(compile(code, "a page", "exec"), {})


def test_the_pages_have_the_blocks_that_are_run():
    assert [kind for kind, _ in README] == ["sh", "python", "sh"]
    assert README[0][1].startswith("make demo")
    assert [kind for kind, _ in TOUR].count("python") == 4
    assert [kind for kind, _ in TOUR].count("sh") == 6
    index = (ROOT / "docs/index.md").read_text()
    assert f"```python\n{README[1][1]}```" in index, "the site opens with the README's lines"


def test_the_readme(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_python(README[1][1])
    equation = "log p(x) = E_q[log p(x | z)] − KL(q(z | x) ‖ p(z)) + KL(q(z | x) ‖ p(z | x))"
    assert equation in (ROOT / "README.md").read_text()
    assert equation in capsys.readouterr().out
    assert run_lines(README, monkeypatch) == 5
    out = capsys.readouterr().out
    assert equation in out
    assert "lower bound" in out


def test_the_tour_in_python(capsys):
    codes = [text for kind, text in TOUR if kind == "python" and "fit(" in text]
    assert len(codes) == 3
    for code in codes:
        run_python(code)
    out = capsys.readouterr().out
    assert "lower bound, 100 particles" in out
    assert "share_within 0." in out


def test_the_tour_on_the_command_line_and_the_users_own_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    own = next(text for kind, text in TOUR if kind == "python" and "class MyVAE" in text)
    assert len([line for line in own.splitlines() if line.strip()]) <= 30
    Path("my_vae.py").write_text(own)
    assert run_lines(fewer(TOUR), monkeypatch) == 29
    drawn = (
        "samples", "reconstructions", "traversals", "terms", "gradients", "sevens", "completions", "field",
        "saturation", "gan", "walk",
    )  # fmt: skip
    for picture in drawn:
        assert Path(f"{picture}.png").read_bytes().startswith(b"\x89PNG")
    assert "log p(x) = E_q[log p(x | z)] − KL(q(z | x) ‖ p(z)) + KL(q(z | x) ‖ p(z | x))" in capsys.readouterr().out
