"""The model: its sizes, tensors and records of weights, and its layers on the rows of a step."""
