"""A Pyro program at the speed of compiled PyTorch: recorded once, compiled, run without Pyro.

lifting     which tensors a pair holds: they become inputs of the recording
recording   a Python function as a graph of tensor operations, and why it may not be one
backend     from the graph to machine code
cuda_graph  one launch instead of hundreds, on a GPU
function    all of this for one function: recorded, compared, compiled
evaluation  importance weights, densities along a path: what is evaluated many times, where compiling repays
step        loss, terms and gradients of a training step, recorded, compared with Pyro's, compiled
"""
