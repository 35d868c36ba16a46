"""From a checkpoint to a model in memory: which tensors, in which layout, to which device."""
