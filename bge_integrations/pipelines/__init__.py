"""Sample RAG pipelines, to run as they are, to read, and to copy from: `langchain` and `llama_index`, side by side.

Both import only their own framework. What they share is without one: `answers`, `quotes`, `passages`, `stores`.
"""
