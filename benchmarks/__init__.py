"""What this library costs beside its peers: `python -m benchmarks`."""
