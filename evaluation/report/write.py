"""The end of a run: judge every model, give the verdict, write and print the report."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import nn

from contrastive_discrimination.critic import Critic
from data.pictures.pixel_cache import overwrite
from evaluation.gaps import retrained_of, summarise_gaps
from evaluation.judge import Judgement, intervals_of_gaps, judge_all
from evaluation.metrics import loss_histograms
from evaluation.report.classes import class_falls
from evaluation.report.page import PAGE
from evaluation.report.record import complete_report, how_forgotten
from evaluation.report.requesters import evidence_for
from evaluation.report.tables import cost_table, plain, table
from evaluation.report.views import show_run
from evaluation.report.weights import remove, save_hashes, save_result
from evaluation.verdict import Verdict, give_verdict, next_try
from helper_functions.files import save_tensors, write_bytes, write_json
from helper_functions.progress import progress_bar
from helper_functions.run_folder import RESULT, TRACES
from helper_functions.safe_files.printable import printable
from helper_functions.training.distribution import from_main, on_main, say
from helper_functions.training.loop import Cost
from helper_functions.wording import counted
from unlearning.arguments import stage_epochs
from unlearning.dial import BUDGETS, bought
from unlearning.evaluator import JUDGED, paired_fall
from unlearning.experiment import Experiment
from unlearning.run import Unlearned
from unlearning.setup import PreparedRun

PAIRS = "pairs    AUC of a new discriminator on held-out pairs: {:.3f} before, {:.3f} after; 0.5 is chance"


def write_report(run: PreparedRun, outcome: Unlearned | None, script: str) -> dict:
    """Judge the models, save weights, report and page, print a summary; returns the report.

    `--judge final` evaluates everything, test images and attacks included; `validation` leaves these out. `outcome` is
    None where nothing was to be forgotten; `script` is the name of the script that ran.
    """
    judgements = judge_models(run.models, run.experiment, run.args)
    report = evaluation(judgements, run.experiment) | {"cost": run.costs, **run.notes}
    verdict, summary = None, ""
    if outcome is not None:
        verdict = verdict_of(judgements, run.args, outcome.target, run.experiment)
        report = {"verdict": verdict, **report}
        how = how_forgotten(outcome)
        report |= {**how, "forget": {**report["forget"], **how["forget"]}}
        report["class_falls"] = class_falls(judgements, run.experiment, run.args.judged_retain_images or JUDGED)
        if run.requests:
            report["requesters"] = evidence_for(run.requests, judgements, run.experiment)
        summary = summarise_run(verdict, outcome, run.args, run.notes["preprocessing"])
    weights = save_result(run, "original" if outcome is None else "unlearned", verdict)
    if outcome is not None:
        save_hashes(run)
    # Only rank 0 has written the files, and it may be the only one that can read them.
    fulfilled = verdict is not None and verdict.weights == RESULT
    removed = [run.record.path(name) for name in TRACES if fulfilled and not run.args.keep_checkpoint]
    with progress_bar("writing the report"):
        report, pages = from_main(lambda: complete_report(run, outcome, script, report, removed))
    for name, page in pages.items():
        write_bytes(run.record.path(name), page)
    report = _finish(run, run.models, judgements, report, summary + weights, removed)
    if fulfilled:
        _overwrite_withdrawn(run.experiment)
    return report


def write_student_report(run: PreparedRun, critic: Critic, auc: dict[str, float]) -> dict:
    """Judge teacher (`original`) and student, test images included; save student, discriminator and report.

    `auc` is that of a newly trained discriminator on held-out pairs, `before` and `after`. Returns the report.
    """
    models = {"teacher": run.models["original"], "student": run.models["student"]}
    judgements = judge_all(models, run.experiment.sets, run.experiment.precision)
    for part in ("validation", "test"):
        named = [judgement.logits[part].argmax(1) for judgement in judgements.values()]
        judgements["student"].figures[f"{part}_agreement"] = 100 * (named[0] == named[1]).float().mean().item()
    costs = {"teacher" if name == "original" else name: cost for name, cost in run.costs.items()}
    save_tensors(critic.discriminator.state_dict(), run.record.path("classifier.pt"))
    weights = save_result(run, "student")
    figures = {name: judgement.figures for name, judgement in judgements.items()}
    report = {"models": figures, "cost": costs, "held_out_discriminator_auc": auc}
    report = plain(report | {"preprocessing": run.notes["preprocessing"]})
    return _finish(run, models, judgements, report, f"{PAIRS.format(auc['before'], auc['after'])}\n{weights}")


def judge_models(models: dict[str, nn.Module], experiment: Experiment, args: Any) -> dict[str, Judgement]:
    """Judge the models of a run as its flags say: `original` and `unlearned` first, then the retrained ones."""
    order = [*(name for name in ("original", "unlearned") if name in models), *retrained_of(models)]
    return judge_all(
        {name: models[name] for name in order}, experiment.sets, experiment.precision,
        final=args.judge == "final", retain_images=args.judged_retain_images or JUDGED,
    )  # fmt: skip


def evaluation(judgements: dict[str, Judgement], experiment: Experiment) -> dict:
    """The part of a report that follows from the judged models and their splits alone."""
    figures = {name: judgement.figures for name, judgement in judgements.items()}
    splits = experiment.splits
    return {
        "models": figures,
        "forget": {"request": splits.forget_request, "images": len(splits.forget)},
        "splits_sha256": splits.sha256,
        "final_test": splits.final_test,
        "judged_retain_images": len(next(iter(judgements.values())).retain_right),
        **summarise_gaps(figures),
        **({"gap_intervals": gaps} if (gaps := intervals_of_gaps(judgements, experiment.sets)) else {}),
        "loss_histograms": loss_histograms({name: judgement.losses for name, judgement in judgements.items()}),
    }


def verdict_of(judgements: dict[str, Judgement], args: Any, target: str, experiment: Experiment) -> Verdict:
    """The verdict on the judged models `original` and `unlearned`."""
    original, unlearned = judgements["original"], judgements["unlearned"]
    classes = experiment.dataset.num_classes
    retain = paired_fall(original.retain_right, unlearned.retain_right, len(experiment.splits.retain))
    held_out = paired_fall(original.held_out_right, unlearned.held_out_right)
    return give_verdict(
        original.figures, unlearned.figures, args.retain_budget, target, classes, retain, held_out
    )


@on_main
def _overwrite_withdrawn(experiment: Experiment) -> None:
    """Take withdrawn pictures out of the file of pixels."""
    if names := experiment.withdrawn():
        place = experiment.dataset.pixel_file
        said = counted(overwrite(place, names), "withdrawn picture")
        say(f"cache    {said} overwritten in {place}; later runs leave them out")


def _finish(
    run: PreparedRun, models: dict[str, nn.Module], judgements: dict[str, Judgement], report: dict, summary: str,
    removed: Collection[Path] = (),
) -> dict:  # fmt: skip
    """Write the report and the TensorBoard views; print both tables, the summary, and the paths of all files.

    `removed` are files that do not stay.
    """
    record = run.record
    write_json(record.path("report.json"), report)
    with progress_bar("drawing figures"):
        show_run(run, models, judgements, report)
    gone = [path.name for path in removed if path.is_file()]
    remove(removed)
    record.close()
    costs = {name: Cost(**cost) for name, cost in report["cost"].items()}
    print(f"\n{table(report['models'])}\n\n{cost_table(costs)}\n\n{summary}")
    if gone:
        print(f"removed  {', '.join(gone)}: from before forgetting; --keep_checkpoint keeps such files")
    if record.path(PAGE).is_file():
        print(f"report   {record.path(PAGE)}")
    for entry in report.get("requesters", ()):
        whose = f"{printable(entry['requester'])}, {counted(entry['images'], 'image')}"
        print(f"page     {record.path(entry['page'])}: {whose}")
    print(f"figures  {record.path('report.json')}")
    print(f"watch    tensorboard --logdir {Path(record.folder).parent}")
    return report


def summarise_run(verdict: Verdict, outcome: Unlearned, args: Any, seen: dict | None = None) -> str:
    """Lines on the verdict and what it rests on, the chosen epoch, the discriminator, and what to try next."""
    lines = [f"verdict  {verdict}", f"chosen   {_chosen(outcome)}"]
    if seen is not None and seen["confirmed_by"] is None:
        lines.insert(1, f"         UNCONFIRMED: the model may see other pictures than in training; {seen['warning']}")
    if outcome.dial:
        rows = [f"{budget:g}: {bought(outcome.dial, budget)[1]:.1f} %" for budget in BUDGETS]
        lines.append(f"dial     forget accuracy by points of budget: {', '.join(rows)}")
    if outcome.held_out_auc:
        lines.append(PAIRS.format(outcome.held_out_auc["original"], outcome.held_out_auc["unlearned"]))
    if advice := advise(verdict, outcome, args):
        lines.append(f"next     {advice}")
    return "".join(f"{line}\n" for line in lines)


def advise(verdict: Verdict, outcome: Unlearned, args: Any) -> str | None:
    """Flags to try next; None where the verdict is good."""
    forget, finetune = stage_epochs(args, outcome.target) if outcome.dial else (args.num_epochs or 0, 0)
    return next_try(verdict, "finetune_" if finetune else "", (finetune or forget) if outcome.epochs else 0)


def _chosen(outcome: Unlearned) -> str:
    if outcome.chosen is None:
        return "no epoch kept the budget"
    if not outcome.cost.gradient_steps and outcome.dial:
        return f"{outcome.share:g} of the way from the original to that run's result"
    share = "" if outcome.share == 1 else f", {outcome.share:g} of the way from the original"
    shorter = sum(event["share"] < 1 for event in outcome.events)
    longer = len(outcome.events) - shorter
    said = f"; {counted(shorter, 'pass')} shortened, {longer} lengthened" if outcome.events else ""
    return f"epoch {outcome.chosen} of {len(outcome.epochs)}{share}{said}"
