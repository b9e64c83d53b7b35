"""Embeddings of hashed n-grams beside those of tokens (arXiv 2412.09871, 3.2.1)."""
