"""Losses over all pairs of two sets of embeddings: InfoNCE and the divergence of similarities."""
