"""What the user can mend."""


class UserError(ValueError):
    """Bad input: the message says, in one line, what came, what was expected and what to do.

    The command line prints the message on stderr and exits with 2; in Python it is a `ValueError`.
    """
