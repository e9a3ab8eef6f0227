"""The end of a run of unlearning: judge every model, give the verdict, write and print the report."""

from pathlib import Path

from torch import nn

from contrastive_discrimination.critic import Critic
from evaluation.board import show_run
from evaluation.figures import loss_histograms
from evaluation.gaps import retrained_of, summarise_gaps
from evaluation.judge import Judgement, judge_all
from evaluation.report import cost_table, plain, table
from evaluation.result_weights import save_result
from evaluation.verdict import give_verdict
from helper_functions.files import save_tensors, write_json
from unlearning.examination import paired_fall
from unlearning.run import Run
from unlearning.unlearn import Unlearned


def conclude(run: Run, outcome: Unlearned | None) -> dict:
    """Judge the models, save weights and report, print them; gives the report.

    By `--judge final` on everything, test images and attacks included; by `validation` on what a run may look at.
    """
    args, models, workspace = run.args, run.models, run.workspace
    order = [*(name for name in ("original", "unlearned") if name in models), *retrained_of(models)]
    judgements = judge_all(
        {name: models[name] for name in order}, workspace.sets, workspace.precision,
        final=args.judge == "final", retain_images=args.judged_retain_images,
    )  # fmt: skip
    figures = {name: judgement.figures for name, judgement in judgements.items()}
    splits = workspace.splits
    report = {
        "models": figures,
        "cost": run.costs,
        "forget": {"request": splits.forget_request, "images": len(splits.forget)},
        "splits_sha256": splits.sha256,
        "final_test": splits.final_test,
        "judged_retain_images": len(judgements[order[0]].retain_right),
        **summarise_gaps(figures),
        "loss_histograms": loss_histograms({name: judgement.losses for name, judgement in judgements.items()}),
    }
    verdict = None
    if outcome is not None:
        fall, bound = paired_fall(
            judgements["original"].retain_right, judgements["unlearned"].retain_right, len(splits.retain)
        )
        verdict = give_verdict(
            figures["original"], figures["unlearned"], args.retain_budget, outcome.target,
            workspace.dataset.num_classes, margin=bound - fall,
        )  # fmt: skip
        report = {"verdict": verdict, **report}
        report["forget"] |= {
            "method": outcome.method, "target": outcome.target, "chosen_epoch": outcome.chosen,
            "safeguard": outcome.events,
        }  # fmt: skip
        if outcome.held_out_auc:
            report["held_out_discriminator_auc"] = outcome.held_out_auc
    said = None if outcome is None else f"verdict  {verdict}\nchosen   {_choice(outcome)}"
    weights = save_result(run, "original" if outcome is None else "unlearned", verdict)
    return _finish(run, models, weights, judgements, report, said)


def conclude_lesson(run: Run, critic: Critic, auc: dict[str, float]) -> dict:
    """Judge teacher and student, test images included, save student, discriminator and report, print; the report.

    Args:
        run: with the models `original`, the teacher, and `student`.
        critic: the discriminator.
        auc: of a fresh discriminator on held-out pairs, `before` and `after`.
    """
    models = {"teacher": run.models["original"], "student": run.models["student"]}
    sets, precision = run.workspace.sets, run.workspace.precision
    judgements = judge_all(models, sets, precision)
    figures = {name: judgement.figures for name, judgement in judgements.items()}
    costs = {"teacher" if name == "original" else name: cost for name, cost in run.costs.items()}
    save_tensors(critic.discriminator.state_dict(), run.record.path("classifier.pt"))
    report = {"models": figures, "cost": costs, "held_out_discriminator_auc": auc}
    said = f"pairs    a fresh discriminator's AUC on held-out pairs was {auc['before']:.3f} and is {auc['after']:.3f}"
    return _finish(run, models, save_result(run, "student"), judgements, report, said)


def _finish(
    run: Run, models: dict[str, nn.Module], weights: str, judgements: dict[str, Judgement], report: dict,
    said: str | None,
) -> dict:  # fmt: skip
    """Write the report, print both tables, `said`, and where the weights and all else lie."""
    record, figures, costs = run.record, report["models"], report["cost"]
    report = plain(report)
    write_json(record.path("report.json"), report)
    show_run(record, run.workspace, models, judgements, run.args)
    record.close()
    print(f"\n{table(figures)}\n\n{cost_table(costs)}\n")
    if said is not None:
        print(said)
    print(f"{weights}\nreport   {record.path('report.json')}")
    print(f"watch    tensorboard --logdir {Path(record.folder).parent}")
    return report


def _choice(outcome: Unlearned) -> str:
    chosen = f"epoch {outcome.chosen} of {len(outcome.epochs)}" if outcome.chosen else "no epoch kept the budget"
    line = f"{chosen}; the safeguard went back {len(outcome.events)} times"
    if outcome.held_out_auc:
        before, after = (f"{outcome.held_out_auc[name]:.3f}" for name in ("original", "unlearned"))
        line += f"\npairs    a fresh discriminator's AUC on held-out pairs was {before} and is {after}; 0.5 is chance"
    return line
