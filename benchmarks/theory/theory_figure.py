"""The figure and the tables of docs/theory.md: what a fixed multiplier costs, on a convex model with exact solutions.

    python -m benchmarks.theory.theory_figure

A digit is forgotten by logistic regression. Each multiplier is solved for exactly; our solver is given budgets and
learns the multipliers.
"""

import dataclasses
import math
import sys
from pathlib import Path

import cooper
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from scipy.optimize import minimize_scalar
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # where this file is run by its path

from benchmarks.theory.convex import DECAY, NUM_CLASSES, Digits, Front, digits_case
from helper_functions.config import PositiveInt, ScriptParser, run_script
from helper_functions.files import check_folder_of, whole_file
from optimizer.problems import Problem
from optimizer.solver import SOLVERS, Solver, SolverName, inequality, lagrangian

SHOWN_DIGIT = 3
BUDGETS = (0.003, 0.01, 0.03, 0.1)
BUDGET = 0.03
# Name, line, colour (Okabe and Ito's palette for all kinds of colour vision) and position of the name.
CURVES = (
    ("in weights", "--", "#D55E00", (0.6, 2.1)),
    ("in outputs on\nforget images", "-", "#0072B2", (60, 0.2)),
)


@dataclasses.dataclass
class Args:
    """Flags of benchmarks.theory.theory_figure."""

    output: str = "docs/theory_multiplier.png"
    """The PNG; a file of this name is replaced."""
    steps: PositiveInt = 1500
    """Full-batch steps of our solver for each budget."""


def get_parser() -> ScriptParser:
    """The command line of this script."""
    return ScriptParser(Args, "benchmarks.theory.theory_figure", __doc__)


class FullBatch(Problem):
    """A front's problem at one bound for our solver, on all images at each step, in float64."""

    def __init__(self, front: Front, bound: float, solver: SolverName, **options: float) -> None:
        super().__init__()
        self.model = nn.ParameterDict({"weights": front.start.clone()})
        self.front, self.bound = front, bound
        self.dual = SOLVERS[solver].expects_multiplier
        self.budget = inequality(solver, **options)
        for part in (self.budget.multiplier, self.budget.penalty_coefficient):
            if part is not None:
                part.to(torch.float64)

    def compute_cmp_state(self) -> cooper.CMPState:
        """Objective and constraint at the present weights."""
        violation = self.front.constraint(self.model.weights) - self.bound
        state = cooper.ConstraintState(violation=violation, contributes_to_dual_update=self.dual)
        return cooper.CMPState(self.front.objective(self.model.weights), observed_constraints={self.budget: state})


def learn(front: Front, bound: float, steps: int, solver: SolverName = "lagrangian", **options: float) -> FullBatch:
    """Solve a problem by our solver from the front's start, with momentum on full batches; options of `inequality`.

    The violation counts in units of the bound's distance from the start, so that one dual rate serves all bounds.
    """
    problem = FullBatch(front, bound, solver, **options)
    primal = torch.optim.SGD(problem.model.parameters(), lr=0.4, momentum=0.95, nesterov=True)
    dual_rate = 0.01 / abs(bound - front.constraint(front.start).item())
    solver = Solver(problem, primal, problem.model, dual_rate)
    for _ in range(steps):
        state = problem.compute_cmp_state()
        solver.dual_step(state)
        solver.step(lagrangian(state), lambda: lagrangian(problem.compute_cmp_state()))
    return problem


def row_of(digit: int) -> str:
    """A line of the table of digits: the best multiplier by outputs beside the one that keeps `BUDGET`."""
    case = digits_case(digit)
    front = case.front(case.retain_on_original)
    _, start = case.distances(case.original)
    nearest = minimize_scalar(
        lambda logarithm: case.distances(front.at(math.exp(logarithm)).weights)[1], bounds=(-3, 7), method="bounded"
    )
    best = math.exp(nearest.x)
    spent = front.constraint(front.at(best).weights).item()
    kept = front.within(BUDGET)
    fall = case.retain_accuracy(case.original) - case.retain_accuracy(kept.weights)
    return (
        f"| {digit} | {best:.1f} | {spent:.3f} | {nearest.fun / start:.2f} | {kept.multiplier:.1f} | "
        f"{case.distances(kept.weights)[1] / start:.2f} | {fall:+.1f} |"
    )


def bounds_of(case: Digits) -> list[tuple[str, float, float]]:
    """The bounds of section 8: a name, the measured distance or difference, and its bound."""
    retain, original = case.retain_on_labels, case.original
    away = case.distances(original)[0]
    slope = retain.gradient(original).norm().item()
    share = case.forget.double().mean().item()
    kept = case.front(retain).within(retain(original).item() + BUDGET).weights
    distance = case.distances(kept)[0]
    excess = (retain(kept) - retain(case.retrained)).item()
    ahead = math.hypot(math.sqrt(2 * BUDGET / DECAY), slope / DECAY)
    pair = [(case.features[case.forget] @ weights.T).log_softmax(1) for weights in (kept, case.retrained)]
    return [
        ("original to retrained, from the gradient", away, slope / DECAY),
        ("original to retrained, before any training", away, 2 * math.sqrt(2) * share / DECAY),
        ("unlearned to retrained, retrained loss known", distance, math.sqrt(2 * excess / DECAY)),
        ("unlearned to retrained, before unlearning", distance, ahead),
        ("log-probabilities of forget images", (pair[0] - pair[1]).abs().max().item(), math.sqrt(2) * distance),
    ]


@rc_context({"font.size": 15, "axes.spines.top": False, "axes.spines.right": False})
def draw(path: Path, case: Digits, learned: dict[float, float], points: int = 81) -> None:
    """Two panels over the fixed multiplier, a PNG: distances to the retrained model, and the gap of the retain loss.

    Multipliers that our solver `learned`, by budget in nats, are marked on curves of so many points.
    """
    front = case.front(case.retain_on_original)
    multipliers = torch.logspace(-1.0, 3.0, points, dtype=torch.float64).tolist()
    solved = [front.at(multiplier).weights for multiplier in multipliers]
    marked = [front.at(multiplier).weights for multiplier in learned.values()]
    figure = Figure(figsize=(8, 8), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for axis in (above, below):
        axis.axvspan(multipliers[0], learned[BUDGET], color="#999999", alpha=0.25, linewidth=0)
        axis.axvline(learned[BUDGET], color="black", linewidth=1)
    for part, (name, style, colour, place) in enumerate(CURVES):
        start = case.distances(case.original)[part]
        found, curve = ([case.distances(at)[part] / start for at in weights] for weights in (marked, solved))
        above.plot(multipliers, curve, style, color=colour, linewidth=2.5)
        _mark(above, learned, found, colour)
        above.text(*place, name, color=colour)
    above.axhline(1, color="black", linewidth=1, linestyle=":")
    above.set(ylabel="distance to the retrained model\n(the original's is 1)", ylim=(0, None))
    below.plot(multipliers, [front.constraint(weights).item() for weights in solved], color="black", linewidth=2.5)
    below.axhline(BUDGET, color="black", linewidth=1, linestyle=":")
    _mark(below, learned, [front.constraint(weights).item() for weights in marked], "black")
    for budget, multiplier in learned.items():
        text = f"learned for {budget} nats" if budget == BUDGET else str(budget)
        below.annotate(text, (multiplier, budget), xytext=(10, 8), textcoords="offset points")
    below.text(0.12, 3e-4, f"the budget of\n{BUDGET} nats\nis overdrawn")
    below.set(xscale="log", yscale="log", xlim=(multipliers[0], multipliers[-1]),
              xlabel="fixed multiplier", ylabel="rise of the\nretain loss, nats")  # fmt: skip
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _mark(axis, learned: dict[float, float], heights: list[float], colour: str) -> None:
    for (budget, multiplier), height in zip(learned.items(), heights, strict=True):
        marker, size = ("*", 20) if budget == BUDGET else ("D", 9)
        axis.plot(multiplier, height, marker, color=colour, markersize=size, markeredgecolor="white")


def _table(*titles: str) -> str:
    return "| " + " | ".join(titles) + " |\n|" + "---:|" * len(titles)


def main(args: Args) -> dict:
    """Draw the figure and print the tables; returns the learned multipliers by budget."""
    check_folder_of("output", args.output)
    case = digits_case(SHOWN_DIGIT)
    front = case.front(case.retain_on_original)
    learned = {}
    print(_table("budget, nats", "learned", "exact"))
    for budget in BUDGETS:
        learned[budget] = learn(front, budget, args.steps, multiplier=10.0).budget.multiplier.weight.item()
        print(f"| {budget} | {learned[budget]:.3f} | {front.within(budget).multiplier:.3f} |")
    draw(Path(args.output), case, learned)
    print("\n" + _table("digit", "best", "rise there", "distance", "at the budget", "distance", "fall"))
    for digit in range(NUM_CLASSES):
        print(row_of(digit))
    print("\n" + _table("", "measured", "bound"))
    for name, measured, bound in bounds_of(case):
        print(f"| {name} | {measured:.2f} | {bound:.2f} |")
    return {"learned": learned}


if __name__ == "__main__":
    sys.exit(run_script(get_parser, main))
