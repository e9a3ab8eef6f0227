"""Originals and retrained models of a sweep: each is trained once and found by the hash of its configuration."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import train
from benchmarks.sweeps.engines import RunAll
from benchmarks.sweeps.sweep import command_line
from evaluation.report.record import file_digest
from helper_functions.errors import UserError
from helper_functions.files import load_config
from helper_functions.keys import key_of
from helper_functions.run_folder import run_quietly

# Flags that do not change what a run computes (--sync_bn needs several ranks, a cell has one).
ELSEWHERE = (
    "log_dir", "name_prefix", "resume", "device", "precision", "deterministic", "sync_bn", "data_on_device", "compile",
    "compile_mode", "log_interval", "figures", "data_dir", "on_nan",
)  # fmt: skip


def model_key(config: dict) -> str:
    """Hash of a training's configuration, of files by their content, without `ELSEWHERE`.

    Raises:
        UserError: a file that it names does not exist.
    """
    values = {name: value for name, value in config.items() if name not in ELSEWHERE}
    for name in ("splits", "forget"):
        path = Path(str(values.get(name) or "").removeprefix("file:"))
        if name == "splits" and values.get(name) or str(values.get(name)).startswith("file:"):
            if not path.is_file():
                raise UserError(f"--{name} {values[name]}: there is no such file")
            values[name] = file_digest(path)
    if not values.get("retain_only"):
        values["forget"] = original_of(values.get("forget"))
    return key_of(values)


def original_of(forget: str | None) -> str | None:
    """The forget set as far as an original depends on it: wrong labels are drawn before training, other sets after."""
    return forget if str(forget).startswith("mislabelled") else None


@dataclasses.dataclass(frozen=True)
class Training:
    """Models of a sweep, trained with the flags of `config_file` into run folders in `log_dir`, if not there yet."""

    config_file: str
    log_dir: str

    def original(self, forget: str, seed: int) -> Path:
        """The run folder of an original."""
        return self.run("original", self._original(forget, seed))

    def retrained(self, forget: str, seed: int, further: int = 0) -> Path:
        """The run folder of a retrained model on the original's splits, trained from seed + `further`."""
        asked = {"splits": self.original(forget, seed) / "splits.npz", "forget": forget}
        if further:
            # A random forget set is drawn by the run's seed: this run takes the set of the first one's splits, and
            # names none, unless the configuration names this very set.
            asked = {"splits": self.retrained(forget, seed) / "splits.npz"}
            if load_config(Path(self.config_file)).get("forget") != forget:
                asked["forget"] = None
        return self.run("retrained", {"seed": seed + further, "retain_only": True, **asked})

    def run(self, name: str, flags: dict) -> Path:
        """The folder of a finished run of train.py with these flags; starts or resumes it first if necessary."""
        argv, key = self._asked(flags)
        found = [path.parent for path in sorted(Path(self.log_dir).glob(f"*{key}*/config.yaml"))]
        finished = [folder for folder in found if (folder / "report.json").exists()]
        if finished:
            return finished[0]
        argv += ["--resume", str(found[0])] if found else []
        return run_quietly(train, argv, f"{name}-{key}")[0]

    def key(self, forget: str, seed: int) -> str:
        """The hash by which an original is found."""
        return self._asked(self._original(forget, seed))[1]

    def _asked(self, flags: dict) -> tuple[list[str], str]:
        flags = {"config_file": self.config_file, **flags, "figures": False, "log_dir": self.log_dir}
        argv = command_line(flags)
        return argv, model_key(dataclasses.asdict(train.get_parser().parse(argv)))

    def _original(self, forget: str, seed: int) -> dict:
        corrupted = original_of(forget)
        return {"seed": seed, **({"forget": corrupted} if corrupted else {})}


def train_originals(places: Iterable[dict], run_all: RunAll) -> None:
    """Train the missing originals in the processes of a sweep, each once even if several forget sets share it.

    Args:
        places: dicts with `config_file` and `log_dir` of a `Training`, `forget` and `seed`.
        run_all: of the sweep's engine.

    Raises:
        UserError: an original cannot be trained.
    """
    alone = {(original_of(place["forget"]), place["seed"]): place for place in places}
    for _, _, error in run_all(_train_original, alone.values(), title="originals"):
        if error is not None:
            raise error


def _train_original(place: dict) -> None:
    Training(place["config_file"], place["log_dir"]).original(place["forget"], place["seed"])
