"""Networks of published checkpoints, with the keys and shapes of their files."""
