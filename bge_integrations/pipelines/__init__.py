"""Sample RAG pipelines, to run as they are, to read, and to copy from: `langchain` and `llama_index`, side by side.

Each imports only its own framework. What they share is in `answers`,
`extractive_answers`, `passages` and `stores`.
"""
