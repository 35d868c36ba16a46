"""A benchmark against the ceiling of the machine: prompts, decoding by drafts, sequences and depth, and a peer."""
