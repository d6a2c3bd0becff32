"""Does the wheel work in an environment that has nothing else?   python tests/wheel.py dist   (some minutes: torch)"""

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path


def main(folder: Path) -> None:
    """Install the one wheel of `folder` into an empty environment; `probgen --help` and five steps from there."""
    (wheel,) = sorted(folder.resolve().glob("probgen-*.whl"))
    with tempfile.TemporaryDirectory() as place:
        venv.create(f"{place}/env", with_pip=True)
        scripts = Path(place, "env", "Scripts" if os.name == "nt" else "bin")
        clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}

        def run(*command: str | Path) -> str:
            done = subprocess.run(list(command), check=True, cwd=place, env=clean, stdout=subprocess.PIPE, text=True)
            return done.stdout

        print(f"installing {wheel.name} into an empty environment …", flush=True)
        run(scripts / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
        assert "train" in run(scripts / "probgen", "--help")
        run(scripts / "probgen", "train", "vae", "--data", "digits", "--steps", "5", "--out", "run")
        run(scripts / "probgen", "train", "language", "--data", "sea-log", "--steps", "5", "--out", "texts")
        typed = run(scripts / "python", "-c", "import probgen; print(probgen.__path__[0])").strip()
        assert Path(typed, "py.typed").is_file()
    print("the wheel installs, probgen --help answers, five steps train")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
