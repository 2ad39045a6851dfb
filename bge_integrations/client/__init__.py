"""A server as an embedder or a reranker: what `load_embedder("http://host:8080")` returns.

`loading.py` finds out which dialect the server speaks and returns a `RemoteEmbedder` or a `RemoteReranker`, which have
the interface of `Embedder` and `Reranker`. They split each call into the server's batches; a dialect (`own.py`,
`tei.py`, `openai.py`) translates a batch; `transport.py` sends it on connections that belong to the loop of
`network_loop.py`.
"""
