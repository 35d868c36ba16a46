"""What a person runs beside the product: benchmarks, training of the tiny model, synthetic files."""
