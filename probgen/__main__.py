"""`python -m probgen` and the console script `probgen`."""

import os
import signal


def main() -> None:
    """Run the command line; see `probgen.cli`. A reader that goes away (`| head`) ends it quietly."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, lambda *_: os._exit(0))
    from probgen.cli import run

    run()


if __name__ == "__main__":
    main()
