"""When figures become NaN or infinite: stop and report where, or rewind and continue with shorter steps."""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from helper_functions.errors import NotFinite
from helper_functions.files import write_json
from helper_functions.record import RunRecord
from helper_functions.training.distribution import say
from helper_functions.training.passes import Fault
from helper_functions.wording import counted

# So often a run goes back: steps are then a 32nd of what they were.
MOST_REWINDS = 5
# Images that the line names; the file has all of them.
NAMED_IMAGES = 5


class NanGuard:
    """At a fault, stops the run, or takes it back to where the pass was entered, at half the learning rate.

    Args:
        on_nan: `stop` or `rewind`.
        parts: what goes back, by name: whatever has `state_dict` and `load_state_dict`.
        rescale: multiplies all learning rates.
        record: the run's record.
        flag: the learning rate's name on the command line.
    """

    def __init__(
        self, on_nan: str, parts: Mapping[str, Any], rescale: Callable[[float], None], record: RunRecord,
        flag: str = "--learning_rate",
    ) -> None:  # fmt: skip
        self.rewinds, self.parts, self.rescale = on_nan == "rewind", parts, rescale
        self.record, self.flag = record, flag
        self.count = 0
        self._good: dict[str, Any] = {}
        self._good_count = 0

    def keep(self) -> None:
        """The present state is good: it is what the run goes back to."""
        if self.rewinds:
            self._good = copy.deepcopy({name: part.state_dict() for name, part in self.parts.items()})
            self._good_count = self.count

    def on_fault(self, fault: Fault) -> bool:
        """Take the run back; True, for a pass that is to be begun again. Raises NotFinite where the run stops."""
        if not self.rewinds or self.count == MOST_REWINDS:
            raise stopped_by(fault, self.record, f"lower {self.flag}", self.count)
        # A part would step on in the very tensors that it is given.
        for name, state in copy.deepcopy(self._good).items():
            self.parts[name].load_state_dict(state)
        self.count += 1
        self.rescale(0.5 ** (self.count - self._good_count))
        scale = 0.5**self.count
        self.record.scalars({f"{fault.phase}/rewound": scale}, fault.step)
        what = f"{fault.figure} became NaN or infinite"
        say(f"  step {fault.step}: {what}; back to the last good state, learning rate x {scale:g}")
        return True

    def state_dict(self) -> dict:
        """How often the run has gone back; the rates themselves are the optimizers'."""
        return {"count": self.count}

    def load_state_dict(self, state: dict) -> None:
        """Inverse of `state_dict`."""
        self.count = state["count"]


def stopped_by(fault: Fault, record: RunRecord, remedy: str, rewinds: int = 0, *, may_rewind: bool = True) -> NotFinite:
    """The error that ends a run by a fault, all of which is in `nan.json` in the run folder.

    Args:
        fault: what happened.
        record: the run's record.
        remedy: what to try instead.
        rewinds: how often the run has gone back.
        may_rewind: that `--on_nan rewind` could help, unless it was tried.
    """
    path = record.path("nan.json")
    write_json(path, dataclasses.asdict(fault))
    where = f"epoch {fault.epoch}, step {fault.step}, batch {fault.batch} of {fault.batches}"
    shown = [f"{name} images {_first(images)}" for name, images in fault.images.items()]
    details = ", ".join([where, *shown, f"all in {path}"])
    tried = f" after {counted(rewinds, 'rewind')}" if rewinds else ""
    last = "there is no checkpoint yet" if record.step is None else f"the last good checkpoint is of step {record.step}"
    error = NotFinite(f"{fault.phase}: {fault.figure} became NaN or infinite{tried} ({details}); {last}; {remedy}")
    error.may_rewind = may_rewind and rewinds == 0
    return error


def _first(images: list[int]) -> str:
    shown = ", ".join(map(str, images[:NAMED_IMAGES]))
    return shown if len(images) <= NAMED_IMAGES else f"{shown}, …"
