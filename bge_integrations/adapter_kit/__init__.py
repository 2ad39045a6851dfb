"""The building blocks of the framework adapters.

An adapter translates between its framework and the core and computes nothing itself. `settings` declares what users can
set, `LazyModel` loads the model, `load_dense` and `load_sparse` return views (an embedder reduced to one kind of
vector) that share one pass in a hybrid store, and `bge_integrations.optional` explains how to install a missing
framework.
"""

from bge_integrations.adapter_kit.lazy_model import HoldsModel, LazyModel, arguments_of
from bge_integrations.adapter_kit.views import DenseView, SparseView, load_dense, load_sparse

__all__ = ["DenseView", "HoldsModel", "LazyModel", "SparseView", "arguments_of", "load_dense", "load_sparse"]
