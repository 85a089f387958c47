"""What a model and its training cost, before anything is run."""

from .layers import gmacs, parameters

__all__ = ["gmacs", "parameters"]
