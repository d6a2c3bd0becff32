"""The command line's own habits: exit codes, streams, help, and what is not imported."""

import re
import subprocess
import sys

import pytest
from helpers import check_refusal, finish, ok, probgen, refused, start, trained

COMMANDS = [
    "train", "sample", "reconstruct", "traverse", "evaluate", "compare", "elbo", "diagnose", "gradients", "info",
    "explain", "models", "datasets", "demo",
]  # fmt: skip
NEEDS_OUT = ["sample", "reconstruct", "traverse", "compare", "diagnose"]


def test_help_names_every_command():
    for flag in ("--help", "-h"):
        text = ok(flag).stdout
        for command in COMMANDS:
            assert re.search(rf"^\W*{command} ", text, re.MULTILINE), command


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command):
    result = ok(command, "--help")
    assert f"probgen {command}" in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("train", "--data --out --data-dir --epochs --steps --batch-size --lr --seed --device --binarize --set "
                  "--config --resume --overwrite --quiet --json"),
        ("sample", "--num --out --seed --temperature --model"),
        ("reconstruct", "--num --out --model"),
        ("traverse", "--out --between --model"),
        ("evaluate", "--split --particles --json --model"),
        ("elbo", "--num --json --model"),
    ],
)  # fmt: skip
def test_the_options_are_there(command, options):
    text = ok(command, "--help").stdout
    for option in options.split():
        assert f"{option} " in text, option


@pytest.mark.parametrize("default", ["[digits]", "[runs/MODEL-DATA]", "[50]", "[constant]", "[auto]", "[none]"])
def test_the_help_tells_the_defaults(default):
    """Square brackets are markup to the library that prints."""
    assert default in ok("train", "--help").stdout


def test_version():
    from probgen import __version__

    assert ok("--version").stdout == f"{__version__}\n"


def test_no_command_is_one_line():
    """The help may come too, but on stdout; on stderr one line that says what is missing."""
    result = probgen()
    assert result.code == 2
    assert len(result.stderr.splitlines()) == 1
    assert "command" in result.stderr.lower().replace("--help", ""), result.stderr


def test_an_unknown_command_is_told_the_nearest():
    refused("frobnicate", says="frobnicate")
    refused("trian", says="train")


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_flag(command):
    refused(command, "--frobnicate", says="--frobnicate")


@pytest.mark.parametrize("command", NEEDS_OUT)
def test_a_missing_out(command):
    refused(command, trained("vae"), says="--out")


@pytest.mark.parametrize("command", [*NEEDS_OUT, "evaluate", "elbo", "info"])
def test_a_missing_run(command):
    out = ["--out", "x.png"] if command in NEEDS_OUT else []
    refused(command, *out, says="RUN")


def test_a_full_stop_is_not_followed_by_a_bracket():
    """Messages of the option parser end as the others do."""
    assert ". (" not in refused("frobnicate")


def test_ctrl_c_while_evaluating_is_130_without_a_traceback(monkeypatch):
    import probgen.commands.evaluate as commands

    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "evaluate_run", interrupted)
    result = probgen("evaluate", trained("vae"))
    assert result.code == 130
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name", ["a[b]", "[bold]", "[", "100%", "with space", "ünï"])
def test_names_with_brackets_are_printed_as_they_are(name, tmp_path, monkeypatch):
    """Square brackets are markup to the library that prints."""
    monkeypatch.chdir(tmp_path)
    result = ok("train", "gaussian", "--data", "ring:50", "--out", f"runs/{name}")
    assert f"runs/{name}/pictures" in result.stderr
    assert f"runs/{name}" in ok("info", f"runs/{name}").stdout
    assert f"runs/{name}" in refused("train", "gaussian", "--data", "ring:50", "--out", f"runs/{name}")


def test_a_path_that_looks_like_a_closing_tag(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ok("train", "gaussian", "--data", "ring:50", "--out", "runs[/bold]")
    assert "runs[/bold]" in ok("info", "runs[/bold]").stdout


def test_data_with_brackets_are_printed_as_they_are(tmp_path):
    import numpy as np

    file = tmp_path / "my[set].npz"
    np.savez(file, images=np.random.RandomState(0).randint(0, 256, (30, 3, 3)).astype(np.uint8))
    ok("train", "gaussian", "--data", file, "--set", "covariance=diagonal", "--out", tmp_path / "run", "--quiet")
    assert "my[set].npz" in ok("evaluate", tmp_path / "run").stdout
    assert "my[set].npz" in ok("elbo", tmp_path / "run").stdout


# --- as a process


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['probgen', '--help']\n"
        "from probgen.cli import run\n"
        "try: run()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'pyro', 'matplotlib', 'numpy', 'sklearn', 'tensorboard'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "evaluate" in done.stdout


def test_a_process_keeps_results_and_messages_apart(tmp_path):
    """No warning of any library comes through, on either stream."""
    done = finish(start("evaluate", trained("vae"), "--particles", 2, "--json"))
    assert done.code == 0
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1
    assert done.json["model"] == "vae"


def test_a_reader_that_leaves_early_is_no_error():
    """`probgen models | head -1`."""
    process = start("models")
    process.stdout.close()
    stderr = process.stderr.read()
    assert (process.wait(60), stderr) == (0, "")


def test_more_memory_than_there_is_is_refused(tmp_path):
    """Layers of 40 GB under a limit of 16: one line, not a traceback."""
    import resource

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30, 16 * 2**30))

    arguments = ("train", "vae", "--data", "digits", "--set", "hidden=100000,100000", "--out", tmp_path / "run")
    check_refusal(finish(start(*arguments, preexec_fn=limit)), says="memory")
    assert not (tmp_path / "run").exists()
