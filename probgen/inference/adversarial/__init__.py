"""Learning a sampler against a discriminator: losses, penalties, the alternating step, and the theory behind it."""
