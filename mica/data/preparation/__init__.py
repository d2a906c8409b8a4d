"""From a raw data set to a store: in parallel, restartable, with an account of every clip."""

from mica.data.preparation.engine import prepare_found, prepare_stream

__all__ = ["prepare_found", "prepare_stream"]
