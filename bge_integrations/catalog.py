"""The BGE family: one typed row per published checkpoint, and one per family of checkpoints.

Instructions, pooling and lengths are FlagEmbedding's own (its `model_mapping` and model cards). `max_length` is the
longest input the checkpoint was published for; callers may ask for less.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from bge_integrations.folder_names import name_key, possible_names

if TYPE_CHECKING:
    from collections.abc import Mapping

Family = Literal[
    "encoder",  # BERT or XLM-R backbone, one dense vector
    "m3",  # XLM-R backbone with bge-m3's sparse and multi-vector heads
    "decoder",  # Gemma2, Mistral, Qwen2 or Qwen3 backbone, last-token vector
    "bidirectional_decoder",  # the same with bidirectional attention
    "icl",  # a decoder that takes in-context examples
    "visualized",  # an encoder that also reads an image tower's tokens
    "clip",  # CLIP's text and image towers
    "cross_encoder",  # BERT or XLM-R backbone, one logit per pair
    "llm_reranker",  # the logit of "Yes" after a prompt
    "chat_reranker",  # the logit of "yes" minus that of "no" as the answer in a chat
    "layerwise_reranker",  # a score after any of the upper layers
    "lightweight_reranker",  # layerwise, with compressed passages
]
Kind = Literal["embedder", "reranker"]
Pooling = Literal["cls", "mean", "last_token"]

Backbone = Literal["encoder", "decoder", "visualized", "clip"]
Head = Literal[
    "dense",  # no head: the pooled states are the vector
    "m3",  # bge-m3's sparse and multi-vector heads beside the dense vector
    "classification",  # one logit from the first token
    "yes",  # the logit of the token "Yes"
    "yes_no",  # the logit of the token "yes" minus that of "no"
    "layerwise",  # one linear head for each of the upper layers
]

#: The name of the two bundled models, an embedder and a reranker.
POCKET = "pocket"
ENGLISH = "Represent this sentence for searching relevant passages: "
CHINESE = "为这个句子生成表示以用于检索相关文章："
#: The default task of instruct decoders.
WEB_SEARCH = "Given a web search query, retrieve relevant passages that answer the query."


@dataclass(frozen=True)
class Instructions:
    """Text prepended to queries and to passages; "" prepends nothing."""

    query: str = ""
    passage: str = ""


@dataclass(frozen=True)
class Parts:
    """A checkpoint in two repositories: its weights, and the config and tokenizer of its text model."""

    weights_file: str
    text_model: str
    weights_repository: str = "BAAI/bge-visualized"


@dataclass(frozen=True)
class Checkpoint:
    """One published checkpoint.

    Attributes:
        name: The hub id, `owner/name`.
        family: Which code runs it.
        max_length: Longest input in tokens, special tokens included.
        dimension: Width of the dense vector; None for rerankers.
        pooling: How token states become the dense vector; None for rerankers.
        instructions: Prepended to queries and passages by default, formatted.
        tasks: Instructions by task name, for checkpoints that have a pair of instructions per task.
        instruction_format: The template that joins a task instruction and a query, for instruct decoders;
            `task_instructions` has the named tasks.
        languages: "en", "zh" or "multilingual".
        parts: Where its files are on the hub, if they are not in one repository of its name.
    """

    name: str
    family: Family
    max_length: int
    languages: Literal["en", "zh", "multilingual"]
    dimension: int | None = None
    pooling: Pooling | None = None
    instructions: Instructions = Instructions()
    tasks: Mapping[str, Instructions] = field(default_factory=lambda: MappingProxyType({}))
    instruction_format: str | None = None
    parts: Parts | None = None

    @property
    def takes_tasks(self) -> bool:
        """Whether its instructions depend on the task."""
        return bool(self.tasks or self.instruction_format)

    @property
    def kind(self) -> Kind:
        return FAMILIES[self.family].kind

    @property
    def short_name(self) -> str:
        """The name without its owner, in lower case, which is the usual folder name of this checkpoint."""
        return self.name.rsplit("/", 1)[-1].lower()


def _encoder(
    name: str, dimension: int, languages: Literal["en", "zh", "multilingual"], query: str, max_length: int = 512
) -> Checkpoint:
    return Checkpoint(f"BAAI/{name}", "encoder", max_length, languages, dimension, "cls", Instructions(query=query))


def _decoder(
    name: str,
    dimension: int,
    max_length: int,
    family: Family,
    instruction_format: str,
    languages: Literal["en", "multilingual"] = "multilingual",
    instruction: str = WEB_SEARCH,
) -> Checkpoint:
    return Checkpoint(
        name,
        family,
        max_length,
        languages,
        dimension,
        "last_token",
        Instructions(query=instruction_format.format(instruction, "")),
        instruction_format=instruction_format,
    )


BGE_FORMAT = "<instruct>{}\n<query>{}"
_INSTRUCT_FORMAT = "Instruct: {}\nQuery: {}"
_QWEN3_FORMAT = "Instruct: {}\nQuery:{}"  # without a space


@dataclass(frozen=True)
class Chat:
    """How a reranker is asked about a pair in a chat.

    Attributes:
        before, after: The text around the pair, which is never truncated.
        pair: The template that joins the prompt, the query and the passage.
    """

    before: str
    pair: str
    after: str


@dataclass(frozen=True)
class FamilyTraits:
    """What all checkpoints of a family have in common.

    Attributes:
        kind: Whether they embed or rerank.
        backbone: The code that runs the layers; None if this release does not support the family.
        head: The head on top of the backbone.
        pooling: The default if neither the caller, nor the catalogue, nor the checkpoint's files specify the pooling.
        is_causal: Whether a token sees only itself and the tokens before it.
        instruction_format: How an instruction and a query are joined if the catalogue has no row for the checkpoint.
        takes_examples: Whether in-context examples may precede a query.
        query_suffix: Text after each query.
        prompt: The question after each pair, or the instruction of a chat (LLM rerankers).
        chat: The chat in which a pair is presented; None for other prompts.
        always_begins_with_bos: Whether a pair begins with the BOS token even if it is also the padding token.
        has_cutoffs: Whether the model can score after several of its layers.
        compresses: Whether passages can be compressed between two layers.
    """

    kind: Kind
    backbone: Backbone | None
    head: Head
    pooling: Pooling | None = None
    is_causal: bool = False
    instruction_format: str | None = None
    takes_examples: bool = False
    query_suffix: str = ""
    prompt: str = ""
    chat: Chat | None = None
    always_begins_with_bos: bool = False
    has_cutoffs: bool = False
    compresses: bool = False


_YES_OR_NO = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a "
    "prediction of either 'Yes' or 'No'."
)
# as in the model card of Qwen/Qwen3-Reranker-0.6B
_QWEN3_CHAT = Chat(
    before=(
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    ),
    pair="<Instruct>: {prompt}\n<Query>: {query}\n<Document>: {passage}",
    after="<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
)
FAMILIES: Mapping[Family, FamilyTraits] = MappingProxyType(
    {
        "encoder": FamilyTraits("embedder", "encoder", "dense"),
        "m3": FamilyTraits("embedder", "encoder", "m3", "cls"),
        "decoder": FamilyTraits("embedder", "decoder", "dense", "last_token", is_causal=True),
        "bidirectional_decoder": FamilyTraits("embedder", "decoder", "dense", "last_token"),
        "icl": FamilyTraits(
            "embedder",
            "decoder",
            "dense",
            "last_token",
            is_causal=True,
            instruction_format=BGE_FORMAT,
            takes_examples=True,
            query_suffix="\n<response>",
        ),
        "visualized": FamilyTraits("embedder", "visualized", "dense", "cls"),
        "clip": FamilyTraits("embedder", "clip", "dense", "last_token"),
        "cross_encoder": FamilyTraits("reranker", "encoder", "classification"),
        "llm_reranker": FamilyTraits("reranker", "decoder", "yes", is_causal=True, prompt=_YES_OR_NO),
        "chat_reranker": FamilyTraits(
            "reranker",
            "decoder",
            "yes_no",
            is_causal=True,
            prompt=WEB_SEARCH.removesuffix("."),
            chat=_QWEN3_CHAT,
        ),
        "layerwise_reranker": FamilyTraits(
            "reranker",
            "decoder",
            "layerwise",
            is_causal=True,
            prompt=_YES_OR_NO,
            always_begins_with_bos=True,
            has_cutoffs=True,
        ),
        "lightweight_reranker": FamilyTraits(
            "reranker",
            "decoder",
            "layerwise",
            is_causal=True,
            prompt="Predict whether passage B contains an answer to query A.",
            always_begins_with_bos=True,
            has_cutoffs=True,
            compresses=True,
        ),
    }
)
SUPPORTED_FAMILIES: frozenset[Family] = frozenset(
    family for family, traits in FAMILIES.items() if traits.backbone is not None
)

_LLM_EMBEDDER_TASKS: Mapping[str, Instructions] = MappingProxyType(
    {
        "qa": Instructions(
            "Represent this query for retrieving relevant documents: ", "Represent this document for retrieval: "
        ),
        "icl": Instructions(
            "Convert this example into vector to look for useful examples: ",
            "Convert this example into vector for retrieval: ",
        ),
        "chat": Instructions(
            "Embed this dialogue to find useful historical dialogues: ",
            "Embed this historical dialogue for retrieval: ",
        ),
        "lrlm": Instructions(
            "Embed this text chunk for finding useful historical chunks: ",
            "Embed this historical text chunk for retrieval: ",
        ),
        "tool": Instructions(
            "Transform this user request for fetching helpful tool descriptions: ",
            "Transform this tool description for retrieval: ",
        ),
        "convsearch": Instructions(
            "Encode this query and context for searching relevant passages: ", "Encode this passage for retrieval: "
        ),
    }
)

CHECKPOINTS: tuple[Checkpoint, ...] = (
    _encoder("bge-small-en", 384, "en", ENGLISH),
    _encoder("bge-base-en", 768, "en", ENGLISH),
    _encoder("bge-large-en", 1024, "en", ENGLISH),
    _encoder("bge-small-en-v1.5", 384, "en", ENGLISH),
    _encoder("bge-base-en-v1.5", 768, "en", ENGLISH),
    _encoder("bge-large-en-v1.5", 1024, "en", ENGLISH),
    _encoder("bge-small-zh", 512, "zh", CHINESE),
    _encoder("bge-base-zh", 768, "zh", CHINESE),
    _encoder("bge-large-zh", 1024, "zh", CHINESE),
    _encoder("bge-large-zh-noinstruct", 1024, "zh", ""),
    _encoder("bge-small-zh-v1.5", 512, "zh", CHINESE),
    _encoder("bge-base-zh-v1.5", 768, "zh", CHINESE),
    _encoder("bge-large-zh-v1.5", 1024, "zh", CHINESE),
    _encoder("baai-general-embedding-large-en-instruction", 1024, "en", ENGLISH),
    _encoder("baai-general-embedding-large-zh-instruction", 1024, "zh", CHINESE),
    _encoder("baai-general-embedding-large-zh", 1024, "zh", ""),
    Checkpoint("BAAI/bge-m3", "m3", 8192, "multilingual", 1024, "cls"),
    _encoder("bge-m3-unsupervised", 1024, "multilingual", "", max_length=8192),
    _encoder("bge-m3-retromae", 1024, "multilingual", "", max_length=8192),
    Checkpoint("BAAI/llm-embedder", "encoder", 512, "en", 768, "cls", tasks=_LLM_EMBEDDER_TASKS),
    _decoder("BAAI/bge-multilingual-gemma2", 3584, 8192, "decoder", BGE_FORMAT),
    _decoder("BAAI/bge-en-icl", 4096, 32768, "icl", BGE_FORMAT, "en"),
    _decoder("intfloat/e5-mistral-7b-instruct", 4096, 4096, "decoder", _INSTRUCT_FORMAT, "en"),
    _decoder("Alibaba-NLP/gte-Qwen2-1.5B-instruct", 1536, 32768, "decoder", _INSTRUCT_FORMAT),
    # in the published code, the 7B model's attention is bidirectional and the 1.5B model's is causal
    _decoder("Alibaba-NLP/gte-Qwen2-7B-instruct", 3584, 32768, "bidirectional_decoder", _INSTRUCT_FORMAT),
    *(
        # as in their README and FlagEmbedding's model_mapping; their own prompt ends without a full stop
        _decoder(
            f"Qwen/Qwen3-Embedding-{size}",
            dimension,
            32768,
            "decoder",
            _QWEN3_FORMAT,
            instruction=WEB_SEARCH.removesuffix("."),
        )
        for size, dimension in (("0.6B", 1024), ("4B", 2560), ("8B", 4096))
    ),
    # 8192 is the length in the authors' BRIGHT evaluation (agentic-search, ReasonEmbed/evaluation_bright)
    _decoder("BAAI/bge-reasoner-embed-qwen3-8b-0923", 4096, 8192, "decoder", _INSTRUCT_FORMAT, "en"),
    _decoder("hanhainebula/reason-embed-qwen3-8b-0928", 4096, 8192, "decoder", _INSTRUCT_FORMAT, "en"),
    # 4096 is the length in the model card; the instruction is the one for CosQA
    _decoder(
        "BAAI/bge-code-v1",
        1536,
        4096,
        "decoder",
        BGE_FORMAT,
        instruction="Given a web search query, retrieve relevant code that can help answer the query.",
    ),
    Checkpoint(
        "BAAI/bge-visualized-base-en-v1.5",
        "visualized",
        512,
        "en",
        768,
        "cls",
        parts=Parts("Visualized_base_en_v1.5.pth", "BAAI/bge-base-en-v1.5"),
    ),
    Checkpoint(
        "BAAI/bge-visualized-m3",
        "visualized",
        8192,
        "multilingual",
        1024,
        "cls",
        parts=Parts("Visualized_m3.pth", "BAAI/bge-m3"),
    ),
    # dimensions after the projection, as in FlagEmbedding's research/BGE_VL; mteb names the widths before it
    Checkpoint("BAAI/BGE-VL-base", "clip", 77, "en", 512, "last_token"),
    Checkpoint("BAAI/BGE-VL-large", "clip", 77, "en", 768, "last_token"),
    Checkpoint("BAAI/bge-reranker-base", "cross_encoder", 512, "multilingual"),
    Checkpoint("BAAI/bge-reranker-large", "cross_encoder", 512, "multilingual"),
    Checkpoint("BAAI/bge-reranker-v2-m3", "cross_encoder", 8192, "multilingual"),
    Checkpoint("BAAI/bge-reranker-v2-gemma", "llm_reranker", 8192, "multilingual"),
    Checkpoint("BAAI/bge-reranker-v2-minicpm-layerwise", "layerwise_reranker", 2048, "multilingual"),
    Checkpoint("BAAI/bge-reranker-v2.5-gemma2-lightweight", "lightweight_reranker", 8192, "multilingual"),
    *(
        Checkpoint(f"Qwen/Qwen3-Reranker-{size}", "chat_reranker", 32768, "multilingual")
        for size in ("0.6B", "4B", "8B")
    ),
)

_BY_SHORT_NAME = {row.short_name: row for row in CHECKPOINTS}
_BY_KEY = {name_key(row.short_name): row for row in CHECKPOINTS}
_MIRRORS = ("aimodelscope", "xorbits")  # owners of copies on ModelScope


def find(name_or_path: str) -> Checkpoint | None:
    """Return the row of a hub id or of a folder with a known name; None if there is none.

    A folder is recognised by its last part, which is the name (`/models/bge-m3`) or the owner and the name
    (`BAAI_bge-m3`), or by its path in a hub's cache (`models--BAAI--bge-m3/snapshots/…`). ModelScope's spelling
    (`bge-base-en-v1___5`) and the suffixes of archives and copies (`bge-m3-main`) are recognised too.
    """
    return next((row for name in possible_names(name_or_path) if (row := _find_name(name))), None)


def _find_name(name: str) -> Checkpoint | None:
    """Return the row of a name in lower case, with or without its owner."""
    for separator in ("--", "_"):
        owner, separated, short = name.rpartition(separator)
        if separated and (row := _BY_SHORT_NAME.get(short)) and owner.endswith(row.name.split("/")[0].lower()):
            return row
    key = name_key(name)
    if key in _BY_KEY:
        return _BY_KEY[key]
    for short, row in _BY_KEY.items():
        owners = (name_key(row.name.split("/")[0]), *_MIRRORS)
        if key.endswith(short) and key.removesuffix(short).removeprefix("models") in owners:
            return row
    return None
