"""The run-time type checker of the tests: beartype, for which an int is a float too, as for every type checker."""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

checker = beartype(conf=BeartypeConf(is_pep484_tower=True))


def unless_nested(jaxtyped: Callable[..., Any]) -> Callable[..., Any]:
    """The decorator that leaves functions and classes inside a function as they are."""

    def decorator(**given: Any) -> Callable[[Any], Any]:
        return lambda made: made if "<locals>" in getattr(made, "__qualname__", "") else jaxtyped(made, **given)

    return decorator
