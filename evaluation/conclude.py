"""The end of a run of unlearning: judge every model, give the verdict, write and print the report."""

from pathlib import Path

from torch import nn

from evaluation.board import show_run
from evaluation.judge import judge
from evaluation.report import cost_table, mean_gap, plain, table
from evaluation.verdict import give_verdict
from helper_functions.errors import UserError
from helper_functions.files import save_tensors, write_json
from helper_functions.loop import Cost
from helper_functions.record import RunRecord
from unlearning.unlearn import Unlearned
from unlearning.workspace import Workspace


def refuse_chance(model: nn.Module, workspace: Workspace, source: str) -> None:
    """Refuse weights that know next to nothing about the retain set: forgetting them would prove nothing.

    Raises:
        UserError: retain accuracy is at most twice that of a guess, or ten points above it where that is less.
    """
    top1 = judge(model, workspace.sets, workspace.precision, final=False).figures["retain_top1"]
    guess = 100 / workspace.dataset.num_classes
    if top1 <= guess + min(guess, 10):
        raise UserError(
            f"--weight_path {source}: {top1:.1f} % of the retain set is right, and guessing gives {guess:.1f} %; is "
            "the normalisation (--mean --std), the order of the labels, the stem or the data set another one?"
        )


def conclude(
    workspace: Workspace,
    models: dict[str, nn.Module],
    costs: dict[str, Cost],
    outcome: Unlearned | None,
    args: object,
    record: RunRecord,
) -> dict:
    """Judge the models on everything, test images included, save weights and report, print them; gives the report."""
    order = [name for name in ("original", "unlearned", "retrained") if name in models]
    judgements = {name: judge(models[name], workspace.sets, workspace.precision) for name in order}
    figures = {name: judgements[name].figures for name in order}
    splits = workspace.splits
    report = {
        "models": figures,
        "cost": costs,
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
        report["forget"] |= {"target": outcome.target, "chosen_epoch": outcome.chosen, "safeguard": outcome.events}
    weights = record.path("model.pt")
    save_tensors(models[main].state_dict(), weights)
    report = plain(report)
    write_json(record.path("report.json"), report)
    show_run(record, workspace, models, judgements, args)
    record.close()
    print(f"\n{table(figures)}\n\n{cost_table(costs)}\n")
    if outcome is not None:
        chosen = f"epoch {outcome.chosen} of {len(outcome.epochs)}" if outcome.chosen else "no epoch kept the budget"
        print(f"verdict  {verdict}\nchosen   {chosen}; the safeguard went back {len(outcome.events)} times")
    print(f"weights  {weights}\nreport   {record.path('report.json')}")
    print(f"watch    tensorboard --logdir {Path(record.folder).parent}")
    return report
