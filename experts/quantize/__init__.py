"""Weights into block formats: the searches and roundings of ggml's quantizers, the same bytes on every processor."""
