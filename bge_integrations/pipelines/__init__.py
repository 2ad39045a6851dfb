"""Sample RAG pipelines to run, read and copy: `langchain` and `llama_index`, built alike, and `pictures`, in LangChain.

Each imports only its own framework. The shared parts are in `answers`, `extractive_answers`, `passages` and `stores`.
"""
