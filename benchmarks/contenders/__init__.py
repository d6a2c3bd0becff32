"""One module for each contender: `setup(**options)` gives the `Work` that its worker process times."""
