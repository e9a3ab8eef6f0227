"""The end of a run of unlearning: judge every model, give the verdict, write and print the report."""

import hashlib
from pathlib import Path
from typing import Any

from torch import nn

from contrastive_discrimination.critic import Critic
from evaluation.board import show_run
from evaluation.figures import loss_histograms
from evaluation.gaps import retrained_of, summarise_gaps
from evaluation.judge import Judgement, judge_all
from evaluation.report.page import PAGE, report_page
from evaluation.report.pictures import sample_pictures
from evaluation.report.record import (
    DIGEST,
    PAGE_DIGEST,
    SCHEMA_VERSION,
    data_of,
    files_of,
    now,
    report_digest,
    request_of,
    run_of,
    trace_of,
)
from evaluation.report.results import save_result
from evaluation.report.tables import cost_table, plain, table
from evaluation.verdict import Verdict, give_verdict, next_try
from helper_functions.files import save_tensors, whole_file, write_json
from helper_functions.training.distribution import from_main, on_main
from helper_functions.training.loop import Cost
from unlearning.evaluator import paired_fall
from unlearning.experiment import Experiment
from unlearning.run import Unlearned
from unlearning.setup import PreparedRun


def write_report(run: PreparedRun, outcome: Unlearned | None, script: str) -> dict:
    """Judge the models, save weights, report and its page, print them; gives the report.

    By `--judge final` on everything, test images and attacks included; by `validation` on what a run may look at.

    Args:
        run: with its models.
        outcome: what the unlearning gave, None where nothing was to be forgotten.
        script: name of the script that ran.
    """
    args, models, experiment = run.args, run.models, run.experiment
    judgements = judge_models(models, experiment, args)
    report = evaluation(judgements, experiment)
    report["cost"] = run.costs
    report |= run.notes
    said, verdict = None, None
    if outcome is not None:
        verdict = verdict_of(judgements, args, outcome.target, experiment)
        report = {"verdict": verdict, **report}
        report["forget"] |= {
            "method": outcome.method, "target": outcome.target, "chosen_epoch": outcome.chosen,
            "safeguard": outcome.events, "multiplier": outcome.multiplier,
        }  # fmt: skip
        if outcome.held_out_auc:
            report["held_out_discriminator_auc"] = outcome.held_out_auc
        said = f"verdict  {verdict}\nchosen   {_choice(outcome)}"
        if advice := next_try(verdict, args.num_epochs if outcome.epochs else 0):
            said += f"\nnext     {advice}"
    weights = save_result(run, "original" if outcome is None else "unlearned", verdict)
    # Rank 0 alone has written the files, and may be the only one that sees them.
    report, page = from_main(lambda: _complete(run, outcome, script, report))
    _write_page(page, run.record.path(PAGE))
    return _finish(run, models, weights, judgements, report, said)


def judge_models(models: dict[str, nn.Module], experiment: Experiment, args: Any) -> dict[str, Judgement]:
    """Judge the models of a run as its flags ask for: `original` and `unlearned` first, then the retrained ones."""
    order = [*(name for name in ("original", "unlearned") if name in models), *retrained_of(models)]
    return judge_all(
        {name: models[name] for name in order}, experiment.sets, experiment.precision,
        final=args.judge == "final", retain_images=args.judged_retain_images,
    )  # fmt: skip


def evaluation(judgements: dict[str, Judgement], experiment: Experiment) -> dict:
    """What a report says of judged models and of their splits; the same figures whenever it is asked again."""
    figures = {name: judgement.figures for name, judgement in judgements.items()}
    splits = experiment.splits
    return {
        "models": figures,
        "forget": {"request": splits.forget_request, "images": len(splits.forget)},
        "splits_sha256": splits.sha256,
        "final_test": splits.final_test,
        "judged_retain_images": len(next(iter(judgements.values())).retain_right),
        **summarise_gaps(figures),
        "loss_histograms": loss_histograms({name: judgement.losses for name, judgement in judgements.items()}),
    }


def verdict_of(judgements: dict[str, Judgement], args: Any, target: str, experiment: Experiment) -> Verdict:
    """The verdict on the judged models `original` and `unlearned`."""
    original, unlearned = judgements["original"], judgements["unlearned"]
    fall, bound = paired_fall(original.retain_right, unlearned.retain_right, len(experiment.splits.retain))
    return give_verdict(
        original.figures, unlearned.figures, args.retain_budget, target, experiment.dataset.num_classes,
        margin=bound - fall,
    )  # fmt: skip


def _complete(run: PreparedRun, outcome: Unlearned | None, script: str, figures: dict) -> tuple[dict, bytes]:
    """The whole report, with its own digest and that of its page, and the page."""
    args, experiment, folder = run.args, run.experiment, run.record.folder
    method = None if outcome is None else outcome.method
    pictures = sample_pictures(experiment.splits, experiment.dataset) if args.show_images and outcome else []
    report = {
        "schema_version": SCHEMA_VERSION,
        "created": now(),
        "request": request_of(args, experiment.splits, experiment.dataset),
        "run": run_of(folder, script, args, experiment, method, run.costs.get("unlearned")),
        "data": data_of(experiment),
        **figures,
        "trace": trace_of(folder / "metrics.jsonl"),
        "files": files_of(folder, args),
    }
    if pictures:
        report["pictures"] = [picture.described for picture in pictures]
    report = plain(report)
    report[DIGEST] = report_digest(report)
    page = report_page(report, [picture.png for picture in pictures]).encode()
    return report | {PAGE_DIGEST: hashlib.sha256(page).hexdigest()}, page


def write_student_report(run: PreparedRun, critic: Critic, auc: dict[str, float]) -> dict:
    """Judge teacher and student, test images included, save student, discriminator and report, print; the report.

    Args:
        run: with the models `original`, the teacher, and `student`.
        critic: the discriminator.
        auc: of a fresh discriminator on held-out pairs, `before` and `after`.
    """
    models = {"teacher": run.models["original"], "student": run.models["student"]}
    sets, precision = run.experiment.sets, run.experiment.precision
    judgements = judge_all(models, sets, precision)
    figures = {name: judgement.figures for name, judgement in judgements.items()}
    costs = {"teacher" if name == "original" else name: cost for name, cost in run.costs.items()}
    save_tensors(critic.discriminator.state_dict(), run.record.path("classifier.pt"))
    weights = save_result(run, "student")
    report = plain({"models": figures, "cost": costs, "held_out_discriminator_auc": auc})
    said = f"pairs    a fresh discriminator's AUC on held-out pairs was {auc['before']:.3f} and is {auc['after']:.3f}"
    return _finish(run, models, weights, judgements, report, said)


@on_main
def _write_page(page: bytes, path: Path) -> None:
    with whole_file(path) as temporary:
        temporary.write_bytes(page)


def _finish(
    run: PreparedRun, models: dict[str, nn.Module], weights: str, judgements: dict[str, Judgement], report: dict,
    said: str | None,
) -> dict:  # fmt: skip
    """Write the report, print both tables, `said`, and where the weights and all else lie."""
    record, figures, costs = run.record, report["models"], report["cost"]
    write_json(record.path("report.json"), report)
    show_run(record, run.experiment, models, judgements, run.args)
    record.close()
    print(f"\n{table(figures)}\n\n{cost_table({name: Cost(**cost) for name, cost in costs.items()})}\n")
    if said is not None:
        print(said)
    print(weights)
    if record.path(PAGE).is_file():
        print(f"report   {record.path(PAGE)}")
    print(f"figures  {record.path('report.json')}")
    print(f"watch    tensorboard --logdir {Path(record.folder).parent}")
    return report


def _choice(outcome: Unlearned) -> str:
    chosen = f"epoch {outcome.chosen} of {len(outcome.epochs)}" if outcome.chosen else "no epoch kept the budget"
    line = f"{chosen}; the safeguard went back {len(outcome.events)} times"
    if outcome.held_out_auc:
        before, after = (f"{outcome.held_out_auc[name]:.3f}" for name in ("original", "unlearned"))
        line += f"\npairs    a fresh discriminator's AUC on held-out pairs was {before} and is {after}; 0.5 is chance"
    return line
