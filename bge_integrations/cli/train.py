"""`bge train`: fine-tune an embedder or a reranker, and measure what it gained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bge_integrations.cli import options, training_options
from bge_integrations.cli.output import counted, print_json, print_table, progress_is_shown, say
from bge_integrations.errors import InvalidInputError

if TYPE_CHECKING:
    from bge_integrations.training.fine_tuning import FineTuned, FineTuning
    from bge_integrations.training.rows import TrainingRows

#: Maximum number of losses that are averaged for the report, at the beginning and at the end.
_AVERAGED = 20


def train(
    kind: Annotated[
        Literal["embedder", "reranker"], typer.Argument(metavar="embedder|reranker", help="What the model is.")
    ],
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA",
            help="Training data: JSONL files or folders (FlagEmbedding's query, pos, neg), JSONL, CSV or Parquet with "
            "sentence-transformers' columns, or a folder in BEIR's layout.",
        ),
    ],
    model: Annotated[str, typer.Option(metavar="MODEL", help="Model to start from: hub id, folder, or 'pocket'.")],
    output: training_options.OutputFolder,
    documents: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="DATA are questions with the file or passage of this folder that users opened."
        ),
    ] = None,
    generate_questions: Annotated[
        bool,
        typer.Option(
            "--generate-questions",
            help="DATA is a folder of documents; make questions of headings and first sentences.",
        ),
    ] = False,
    positive_from: Annotated[
        float | None,
        typer.Option(metavar="SCORE", help="Lowest score of a positive, if pairs have scores, not labels."),
    ] = None,
    evaluation: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Evaluate on this data set in BEIR's layout, not on held-out queries."),
    ] = None,
    held_out: Annotated[
        float, typer.Option(help="Share of the queries to hold out for the evaluation; 0 for no evaluation.")
    ] = 0.1,
    language: Annotated[
        str, typer.Option(help="Language of BM25 in the evaluation; cjk for Chinese, Japanese and Korean.")
    ] = "english",
    epochs: training_options.Epochs = None,
    batch_size: training_options.BatchSize = None,
    group_size: Annotated[
        int | None, typer.Option(help="Passages per query: a positive and negatives. Defaults to 8.")
    ] = None,
    query_max_length: Annotated[int | None, typer.Option(help="Maximum tokens of a query.")] = None,
    passage_max_length: Annotated[int | None, typer.Option(help="Maximum tokens of a passage.")] = None,
    learning_rate: training_options.LearningRate = None,
    distillation: Annotated[
        str | None, typer.Option(help="Learn from the rows' teacher scores: kl_div; embedders also m3_kd_loss.")
    ] = None,
    lora: Annotated[
        bool | None,
        typer.Option("--lora/--no-lora", help="Train a LoRA adapter or all weights. Defaults to LoRA for decoders."),
    ] = None,
    precision: training_options.Precision = None,
    gradient_checkpointing: training_options.GradientCheckpointing = None,
    checkpoint_steps: training_options.CheckpointSteps = None,
    seed: training_options.Seed = None,
    device: training_options.Device = None,
    other_settings: training_options.OtherSettings = None,
    resume: training_options.Resume = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the data, show statistics and an estimate, and stop.")
    ] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Fine-tune an embedder or a reranker, and evaluate it before and after on held-out queries.

    To continue after an interruption, run the same command again.
    """
    given: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "group_size": group_size,
        "query_max_length": query_max_length,
        "passage_max_length": passage_max_length,
        "learning_rate": learning_rate,
        "distillation": distillation,
        "lora": lora,
        "precision": precision,
        "gradient_checkpointing": gradient_checkpointing,
        "checkpoint_steps": checkpoint_steps,
        "seed": seed,
        "device": device,
        "resume": resume,
        "show_progress": progress_is_shown(quiet),
    }
    settings = training_options.settings_of(given, other_settings)
    if documents is not None and generate_questions:
        raise InvalidInputError(
            "--documents is for questions that users clicked, and --generate-questions makes questions",
            advice="leave one of them out",
        )
    from bge_integrations.evaluation import Dataset
    from bge_integrations.training.fine_tuning import check_start, plan_fine_tuning

    check_start(kind, model, output, **settings)
    rows = _read(data, model, kind, documents, generate_questions, positive_from, language)
    plan = plan_fine_tuning(
        kind,
        rows,
        model,
        evaluation=None if evaluation is None else Dataset.read(evaluation),
        held_out=held_out,
        language=language,
        **settings,
    )
    if dry_run:
        _show_plan(plan, as_json)
        return
    if not as_json and not quiet:
        _print_statistics(plan)
    _report(plan, plan.run(output), as_json)


def _read(
    data: list[str],
    model: str,
    kind: Literal["embedder", "reranker"],
    documents: str | None,
    generate_questions: bool,
    positive_from: float | None,
    language: str,
) -> TrainingRows:
    from bge_integrations import training

    if documents is None and not generate_questions:
        return training.read_training_data(data, positive_from=positive_from)
    from bge_integrations.documents import read_passages

    if len(data) > 1:
        option = "--generate-questions" if generate_questions else "--documents"
        raise InvalidInputError(f"{option} takes one DATA, and there are {len(data)}", advice="pass one")
    skipped: list[str] = []
    passages = read_passages(
        documents or data[0],
        training.TokenCounter(model, kind),
        on_unreadable=lambda error: skipped.append(str(error)),
    )
    if generate_questions:
        rows = training.generated_questions(passages)
    else:
        rows = training.clicked_questions(data[0], passages, language=language)
    for error in skipped:
        say(f"skipped: {error}")
    return rows


def _show_plan(plan: FineTuning, as_json: bool) -> None:
    from dataclasses import asdict

    from bge_integrations.training.dry_run import estimate_fine_tuning

    estimate = estimate_fine_tuning(plan)
    if as_json:
        print_json(
            {"statistics": plan.statistics.to_dict(), "evaluation": _evaluated(plan), "estimate": asdict(estimate)}
        )
        return
    _print_statistics(plan)
    say(estimate)


def _print_statistics(plan: FineTuning) -> None:
    print_table([*plan.statistics.table(), ("evaluation", _evaluated(plan) or "none")])


def _evaluated(plan: FineTuning) -> str | None:
    data = plan.evaluation
    if data is None:
        return None
    return f"{data.name}: {len(data.judged):,} queries, {len(data.documents):,} passages"


def _report(plan: FineTuning, tuned: FineTuned, as_json: bool) -> None:
    losses = tuned.losses
    averaged = min(_AVERAGED, -(-len(losses) // 2))
    first, last = (sum(part) / averaged for part in (losses[:averaged], losses[-averaged:]))
    if as_json:
        print_json(
            {
                "folder": str(tuned.folder),
                "updates": len(losses),
                "first_loss": first,
                "last_loss": last,
                "statistics": plan.statistics.to_dict(),
                "gain": tuned.gain and tuned.gain.to_dict(),
            }
        )
        return
    if tuned.gain is not None:
        header, rows = tuned.gain.cells()
        print_table(rows, header)
        for sentence in tuned.gain.sentences():
            print(sentence)
    updates = counted(len(losses), "update")
    say(f"{tuned.folder.name}: {updates}, loss {first:.3f} to {last:.3f}; its README.md is the card")
