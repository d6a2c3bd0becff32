"""The run-time type checker of the tests: beartype, for which an int is a float too, as for every type checker."""

from beartype import BeartypeConf, beartype

checker = beartype(conf=BeartypeConf(is_pep484_tower=True))
