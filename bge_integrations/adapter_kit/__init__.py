"""What every framework's adapter is built from.

An adapter translates between its framework and the core and never computes. `settings` declares what users can set,
`LazyModel` holds what is loaded, `load_dense` and `load_sparse` give the views that share one pass in a hybrid store,
and `bge_integrations.optional` explains how to install a framework that is missing.
"""

from bge_integrations.adapter_kit.lazy_model import HoldsModel, LazyModel, arguments_of
from bge_integrations.adapter_kit.views import DenseView, SparseView, load_dense, load_sparse

__all__ = ["DenseView", "HoldsModel", "LazyModel", "SparseView", "arguments_of", "load_dense", "load_sparse"]
