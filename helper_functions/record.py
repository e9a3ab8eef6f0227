"""The record of a run: its folder, its figures line by line, TensorBoard as a view of them."""

import contextlib
import dataclasses
import functools
import json
import math
import os
import re
import time
from datetime import datetime, timedelta
from pathlib import Path

import torch

from helper_functions.config import FIRST_FLAGS, ScriptParser
from helper_functions.errors import UserError
from helper_functions.files import (
    check_folder,
    load_config,
    load_tensors,
    remove_unfinished,
    save_config,
    save_tensors,
    write_json,
)
from helper_functions.progress import shown
from helper_functions.run_folder import CHECKPOINT
from helper_functions.run_lock import RunLock
from helper_functions.signals import run_under_way
from helper_functions.training.devices import describe_environment
from helper_functions.training.distribution import from_main, on_main

STAMP = "%Y%m%d-%H%M%S"
# Of checkpoints; changes with the names of their parts.
CHECKPOINT_FORMAT = 3


class RunRecord:
    """A run folder: `config.yaml`, `environment.json`, `metrics.jsonl`, TensorBoard events, `checkpoint.pt`.

    TensorBoard is opened at the first figure, since importing it takes longer than a small run. With several ranks,
    rank 0 alone reads and writes, and broadcasts what it read. `step` is that of the last checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.step: int | None = None
        self._lock: RunLock | None = None
        self._columns = None

    @classmethod
    def create(cls, log_dir: str, name: str, args: object, device: torch.device) -> "RunRecord":
        """Make a new folder `log_dir/name-timestamp`; raises UserError where it cannot be made."""
        if not re.fullmatch(r"[^/\\\0.-][^/\\\0]{0,99}", name):
            rule = "at most 100 characters without slashes, the first not a dot or dash"
            raise UserError(f"--name_prefix {name}: the beginning of a folder's name, so {rule}")
        record = cls(from_main(lambda: _new_folder(log_dir, name)))
        record._take(args, f"--log_dir {log_dir}")
        save_config({**dataclasses.asdict(args), "resume": None}, record.path("config.yaml"))
        write_json(record.path("environment.json"), describe_environment(device))
        return record

    @classmethod
    def reopen(cls, folder: str, args_class: type, on_nan: str | None = None) -> tuple["RunRecord", object]:
        """The record and the arguments of an earlier run, to resume it; `on_nan` replaces the run's own --on_nan.

        Raises UserError for a folder of no run, of one that has ended, or of another script, for arguments that are no
        longer valid, and where another process holds the folder's lock.
        """
        args = from_main(lambda: _read_arguments(folder, args_class))
        record = cls(Path(folder))
        if record.path("report.json").is_file() and not record.path(CHECKPOINT).is_file():
            raise UserError(f"--resume {folder}: that run has ended (report.json) and left no {CHECKPOINT}; start anew")
        record._take(args, f"--resume {folder}")
        return record, args if on_nan is None else dataclasses.replace(args, on_nan=on_nan)

    def _take(self, args: object, what: str) -> None:
        """Lock the folder, and make the run in it the process's current one."""

        def take() -> None:
            self._lock = RunLock(self.folder, what)
            remove_unfinished(self.folder)

        from_main(take)
        run_under_way.folder, run_under_way.args, run_under_way.step = self.folder, args, None

    def path(self, name: str) -> Path:
        """The path of a file in the run folder."""
        return self.folder / name

    @functools.cached_property
    def writer(self):
        """TensorBoard's writer."""
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(self.folder, flush_secs=600)

    @on_main
    def scalars(self, figures: dict[str, float], step: int) -> None:
        """Append a line to `metrics.jsonl` and the same figures to TensorBoard; NaN is written as null."""
        finite = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        with open(self.path("metrics.jsonl"), "a") as file:
            file.write(json.dumps({"step": step, **finite}) + "\n")
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    @on_main
    def histograms(self, samples: dict[str, torch.Tensor], step: int) -> None:
        """Distributions of per-image figures `[n]`, to TensorBoard alone."""
        for name, values in samples.items():
            finite = values[values.isfinite()]
            if len(finite):
                self.writer.add_histogram(name, finite.float().cpu(), step)

    @on_main
    def hparams(self, args: object, forget: str, figures: dict[str, float | None]) -> None:
        """TensorBoard's table of runs: the flags that matter first, those that were set, and figures at the end.

        `forget` is the request, which the flags may leave to earlier splits.
        """
        defaults = {field.name: field.default for field in dataclasses.fields(args)}
        shown = {
            name: value for name, value in {**vars(args), "forget": forget}.items()
            if (name in FIRST_FLAGS or value != defaults[name]) and isinstance(value, bool | int | float | str)
        }  # fmt: skip
        final = {f"final/{name}": value for name, value in figures.items() if value is not None}
        self.writer.add_hparams(shown, final, run_name=".")

    @on_main
    def print_row(self, name: str, epoch: int, num_epochs: int, figures: dict[str, float]) -> None:
        """Print one row of the table of epochs, with a heading where the columns change; nothing with --quiet."""
        if shown.quiet:
            return
        titles = [f"{column.removeprefix('train/').replace('/', ' '):>8s}" for column in figures]
        if self._columns != (name, titles):
            print(f"\n{name + ' epoch':>16s}  {'  '.join(titles)}")
            self._columns = (name, titles)
        cells = [f"{value + 0.0:.4g}" if abs(value) < 1 else f"{value:.2f}" for value in figures.values()]
        row = "  ".join(cell.rjust(len(title)) for cell, title in zip(cells, titles, strict=True))
        print(f"{f'{epoch}/{num_epochs}':>16s}  {row}", flush=True)

    @on_main
    def save_checkpoint(self, content: dict) -> None:
        """Write what `--resume` needs, with the current lengths of the files of figures."""
        if "writer" in vars(self):
            self.writer.flush()
        lengths = {path.name: path.stat().st_size for path in self._figures()}
        save_tensors({**content, "format": CHECKPOINT_FORMAT, "lengths": lengths}, self.path(CHECKPOINT))
        self._is_at(content["step"])

    def _is_at(self, step: int | None) -> None:
        self.step = step
        if run_under_way.folder == self.folder:
            run_under_way.step = step

    def load_checkpoint(self) -> dict | None:
        """The last checkpoint, None where there is none; figures written after it are removed."""
        content = from_main(self._load_checkpoint)
        self._is_at(None if content is None else content["step"])
        return content

    def _load_checkpoint(self) -> dict | None:
        content, lengths, path = None, {}, self.path(CHECKPOINT)
        if path.exists():
            remedy = "start a new run without --resume"
            content = load_tensors(path, remedy)
            lengths = content.get("lengths")
            if content.get("format") != CHECKPOINT_FORMAT or "step" not in content or not _are_lengths(lengths):
                raise UserError(f"{path}: no checkpoint of this version; {remedy}")
        # TensorBoard's `purge_step` does not help: the steps of each model that a run trains begin at 0.
        for path in self._figures():
            if path.name in lengths:
                # The checkpoint alone is synced to the disk: after a crash of the machine the file may be shorter.
                os.truncate(path, min(lengths[path.name], path.stat().st_size))
            else:
                path.unlink()
        return content

    def _figures(self) -> list[Path]:
        """The files that grow during a run."""
        return sorted([*self.folder.glob("metrics.jsonl"), *self.folder.glob("events.out.tfevents.*")])

    @on_main
    def close(self) -> None:
        """Flush TensorBoard, and release the folder."""
        if "writer" in vars(self):
            # `close` alone hides a failed write.
            self.writer.flush()
            self.writer.close()
        if self._lock is not None:
            self._lock.release()


def _are_lengths(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(length, int) and length >= 0 for length in value.values())


def _new_folder(log_dir: str, name: str) -> Path:
    """Make `log_dir/name-STAMP`; names sort as the runs began, also where the clock was put back."""
    parent = Path(log_dir)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        found = map(re.compile(rf"{re.escape(name)}-(\d{{8}}-\d{{6}})").fullmatch, os.listdir(parent))
        stamp = max([time.strftime(STAMP), *(match[1] for match in found if match and _is_time(match[1]))])
        while True:
            try:
                folder = parent / f"{name}-{stamp}"
                folder.mkdir()
                return folder
            except FileExistsError:
                following = datetime.strptime(stamp, STAMP) + timedelta(seconds=1)
                stamp = re.sub("[-:]", "", following.isoformat()).replace("T", "-")
    except OSError as error:
        raise UserError(f"--log_dir {log_dir}: no folder can be made there ({error.strerror})") from None


def _is_time(stamp: str) -> bool:
    with contextlib.suppress(ValueError):
        datetime.strptime(stamp, STAMP)
        return True
    return False


def _read_arguments(folder: str, args_class: type) -> object:
    check_folder("resume", folder)
    config = Path(folder) / "config.yaml"
    if not config.is_file():
        raise UserError(f"--resume {folder}: no run folder (it has no config.yaml)")
    names = {field.name for field in dataclasses.fields(args_class)}
    if set(load_config(config)) != names:
        raise UserError(f"--resume {folder}: that run was made by another script or version")
    return dataclasses.replace(ScriptParser(args_class).parse(["--config_file", str(config)]), resume=str(folder))
