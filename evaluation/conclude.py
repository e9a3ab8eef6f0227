"""The end of a run of unlearning: judge every model, give the verdict, write and print the report."""

from pathlib import Path

from contrastive_discrimination.critic import Critic
from evaluation.board import show_run
from evaluation.judge import judge
from evaluation.report import cost_table, mean_gap, plain, table
from evaluation.verdict import give_verdict
from helper_functions.files import save_tensors, write_json
from unlearning.run import Run
from unlearning.unlearn import Unlearned


def conclude(run: Run, outcome: Unlearned | None) -> dict:
    """Judge the models on everything, test images included, save weights and report, print them; gives the report."""
    args, models, record, workspace = run.args, run.models, run.record, run.workspace
    order = [name for name in ("original", "unlearned", "retrained") if name in models]
    judgements = {name: judge(models[name], workspace.sets, workspace.precision) for name in order}
    figures = {name: judgements[name].figures for name in order}
    splits = workspace.splits
    report = {
        "models": figures,
        "cost": run.costs,
        "forget": {"request": splits.forget_request, "images": len(splits.forget)},
        "splits_sha256": splits.sha256,
        "final_test": splits.final_test,
    }
    if "retrained" in figures:
        report["mean_gap"] = {name: mean_gap(figures[name], figures["retrained"]) for name in order[:-1]}
    main = "original"
    if outcome is not None:
        main = "unlearned"
        verdict = give_verdict(
            figures["original"], figures[main], args.retain_budget, outcome.target, workspace.dataset.num_classes
        )
        report = {"verdict": verdict, **report}
        report["forget"] |= {
            "method": outcome.method, "target": outcome.target, "chosen_epoch": outcome.chosen,
            "safeguard": outcome.events,
        }  # fmt: skip
        if outcome.held_out_auc:
            report["held_out_discriminator_auc"] = outcome.held_out_auc
    weights = record.path("model.pt")
    save_tensors(models[main].state_dict(), weights)
    report = plain(report)
    write_json(record.path("report.json"), report)
    show_run(record, workspace, models, judgements, args)
    record.close()
    print(f"\n{table(figures)}\n\n{cost_table(run.costs)}\n")
    if outcome is not None:
        print(f"verdict  {verdict}\nchosen   {_choice(outcome)}")
    print(f"weights  {weights}\nreport   {record.path('report.json')}")
    print(f"watch    tensorboard --logdir {Path(record.folder).parent}")
    return report


def conclude_lesson(run: Run, critic: Critic, auc: dict[str, float]) -> dict:
    """Judge teacher and student, test images included, save student, discriminator and report, print; the report.

    Args:
        run: with the models `original`, the teacher, and `student`.
        critic: the discriminator.
        auc: of a fresh discriminator on held-out pairs, `before` and `after`.
    """
    models = {"teacher": run.models["original"], "student": run.models["student"]}
    sets, precision = run.workspace.sets, run.workspace.precision
    judgements = {name: judge(model, sets, precision) for name, model in models.items()}
    figures = {name: judgement.figures for name, judgement in judgements.items()}
    costs = {"teacher" if name == "original" else name: cost for name, cost in run.costs.items()}
    save_tensors(models["student"].state_dict(), run.record.path("model.pt"))
    save_tensors(critic.discriminator.state_dict(), run.record.path("classifier.pt"))
    report = plain({"models": figures, "cost": costs, "held_out_discriminator_auc": auc})
    write_json(run.record.path("report.json"), report)
    show_run(run.record, run.workspace, models, judgements, run.args)
    run.record.close()
    print(f"\n{table(figures)}\n\n{cost_table(costs)}\n")
    print(f"pairs    a fresh discriminator's AUC on held-out pairs was {auc['before']:.3f} and is {auc['after']:.3f}")
    print(f"weights  {run.record.path('model.pt')}\nreport   {run.record.path('report.json')}")
    print(f"watch    tensorboard --logdir {Path(run.record.folder).parent}")
    return report


def _choice(outcome: Unlearned) -> str:
    chosen = f"epoch {outcome.chosen} of {len(outcome.epochs)}" if outcome.chosen else "no epoch kept the budget"
    line = f"{chosen}; the safeguard went back {len(outcome.events)} times"
    if outcome.held_out_auc:
        before, after = (f"{outcome.held_out_auc[name]:.3f}" for name in ("original", "unlearned"))
        line += f"\npairs    a fresh discriminator's AUC on held-out pairs was {before} and is {after}; 0.5 is chance"
    return line
