"""Long-context generators: answers from documents that are too long for an ordinary prompt."""

from bge_integrations.generation.contexts import Context
from bge_integrations.generation.generator import AsyncTextStream, Generation, Generator, TextStream
from bge_integrations.generation.loading import load_generator

__all__ = ["AsyncTextStream", "Context", "Generation", "Generator", "TextStream", "load_generator"]
