"""Models as files have them: GGUF, Hugging Face folders; read, packed, converted."""
