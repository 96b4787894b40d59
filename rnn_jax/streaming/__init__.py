"""Serving sequences while they arrive, and cells as files.

- `StreamPool`: S slots over any cell; streams join, leave, are reset, saved and put back, and nothing is compiled anew.
- `export_cell`, `load_exported`: a cell and its parameters in one file that runs without the code that made it.
"""

from rnn_jax.streaming.export import export_cell
from rnn_jax.streaming.loading import ExportedCell, load_exported
from rnn_jax.streaming.pool import Stream, StreamPool

__all__ = ["ExportedCell", "Stream", "StreamPool", "export_cell", "load_exported"]
