"""What unlearning with a caller's own loaders gives: verdict, figures, and the files of the run."""

import dataclasses
import re
from pathlib import Path

from evaluation.report.record import how_forgotten
from evaluation.report.tables import plain, table
from evaluation.report.weights import remove, save_plain
from evaluation.report.write import advise, summarise_run
from evaluation.verdict import Verdict, give_verdict
from helper_functions.files import write_json
from helper_functions.run_folder import RESULT, TRACES
from unlearning.run import Unlearned, UnlearningRun


@dataclasses.dataclass(kw_only=True, repr=False)
class Outcome(Unlearned):
    """`Unlearned`, judged; printed, it shows accuracies and the verdict.

    Args:
        verdict: on the retain, forget, unseen and validation images; unseen ones weigh as the forget set's classes do.
        report: `verdict`, `models`, `forget`, `cost` and, of some methods, `dial`, as in `report.json`.
        folder: of the run, with weights and `report.json`; None where nothing was saved.
        advice: what to set where the model has not forgotten within the budget, else empty.
        summary: what is printed.
    """

    verdict: Verdict
    report: dict
    folder: Path | None
    advice: str
    summary: str

    @property
    def feasible(self) -> bool:
        """Whether the budget was kept."""
        return self.verdict.feasible

    @property
    def forgotten(self) -> bool:
        """Whether the forget set counts as forgotten."""
        return self.verdict.forgotten

    def __repr__(self) -> str:
        return self.summary


def conclude(run: UnlearningRun, unlearned: Unlearned, saved: bool) -> Outcome:
    """Judge a run by its own measurements; where it is to be `saved`, write weights and report.

    As for the scripts, weights that do not fulfil the request have names of their own, and a model that has forgotten
    leaves nothing from before in the folder.
    """
    measured, final = {"original": run.original, "unlearned": unlearned.figures}, unlearned.figures
    models = {name: _judged(figures) for name, figures in measured.items()}
    retain = (final["constraint/fall"], final["constraint/fall_bound"] - final["constraint/fall"])
    held_out = (final["held_out/fall"], final["held_out/fall"] - final["held_out/fall_bound"])
    verdict = give_verdict(
        models["original"], models["unlearned"], run.args.retain_budget, run.context.target, run.context.num_classes,
        retain, held_out,
    )  # fmt: skip
    how = how_forgotten(unlearned)
    how["forget"]["images"] = run.evaluator.forget_images
    report = plain({"verdict": verdict, "models": models, "cost": {"unlearned": unlearned.cost}, **how})
    summary = _as_settings(f"{table(models)}\n\n{summarise_run(verdict, unlearned, run.args)}")
    advice = advise(verdict, unlearned, run.args)
    if saved:
        save_plain(run.model, run.record, verdict.weights)
        write_json(run.record.path("report.json"), report)
        remove(run.record.path(name) for name in TRACES if verdict.weights == RESULT)
        summary += f"weights  {run.record.path(verdict.weights)}\n"
    run.record.close()
    return Outcome(
        **vars(unlearned), verdict=verdict, report=report, folder=run.record.folder if saved else None,
        advice=_as_settings(f"{verdict}; {advice}") if advice else "", summary=summary.rstrip(),
    )  # fmt: skip


def _as_settings(text: str) -> str:
    """`--flag 2` as `flag=2`."""
    return re.sub(r"--(\w+)( (?=\d))?", lambda flag: flag[1] + "=" * bool(flag[2]), text)


def _judged(figures: dict[str, float]) -> dict[str, float]:
    """Accuracies and losses by their names in a report."""
    own = {f"{part}_{figure}": figures[f"{part}/{figure}"] for part in ("retain", "forget", "unseen", "validation")
           for figure in ("top1", "top5", "loss")}  # fmt: skip
    return own | {"unseen_top1": figures["unseen/matched_top1"]}
