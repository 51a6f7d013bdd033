"""Pieces that models share; ordinary torch."""
