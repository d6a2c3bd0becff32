"""`python -m probgen` and the console script `probgen`."""


def main() -> None:
    """Run the command line; see `probgen.cli`."""
    from probgen.cli import run

    run()


if __name__ == "__main__":
    main()
