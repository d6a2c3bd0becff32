"""Every block of the README that can run, runs."""

import re
import shlex
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", README, flags=re.S)


def run_cli(line: str, monkeypatch) -> None:
    from probgen.cli import run

    monkeypatch.setattr(sys, "argv", shlex.split(line, comments=True))
    with pytest.raises(SystemExit) as end:
        run()
    assert end.value.code == 0, line


def test_readme_has_the_blocks_that_are_run():
    kinds = [kind for kind, _ in BLOCKS]
    assert kinds.count("python") == 4
    assert kinds.count("sh") == 6
    assert BLOCKS[0][1].startswith("make demo")


def test_python_block(capsys):
    codes = [text for kind, text in BLOCKS if kind == "python" and "fit(" in text]
    assert len(codes) == 3
    for code in codes:
        exec(compile(code, "README.md", "exec"), {})
    out = capsys.readouterr().out
    assert "lower bound, 100 particles" in out
    assert "share_within 0." in out


def test_command_line_blocks_and_the_users_own_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    own = next(text for kind, text in BLOCKS if kind == "python" and "class MyVAE" in text)
    assert len([line for line in own.splitlines() if line.strip()]) <= 30
    Path("my_vae.py").write_text(own)
    lines = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines() if line.startswith("probgen")]
    assert len(lines) == 26
    for line in lines:
        run_cli(line, monkeypatch)
    drawn = (
        "samples", "reconstructions", "traversals", "terms", "gradients", "sevens", "completions", "field",
        "saturation", "gan", "walk",
    )  # fmt: skip
    for picture in drawn:
        assert Path(f"{picture}.png").read_bytes().startswith(b"\x89PNG")
    assert "log p(x) = E_q[log p(x | z)] − KL(q(z | x) ‖ p(z)) + KL(q(z | x) ‖ p(z | x))" in capsys.readouterr().out
