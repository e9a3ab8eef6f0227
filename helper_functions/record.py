"""The record of a run: its folder, its figures line by line, TensorBoard as a view of them."""

import dataclasses
import json
import math
import os
import re
import time
from pathlib import Path

import torch

from helper_functions.config import ScriptParser
from helper_functions.devices import describe_environment
from helper_functions.distribution import from_main, on_main
from helper_functions.errors import UserError
from helper_functions.files import load_config, load_tensors, save_config, save_tensors, write_json


class RunRecord:
    """A run folder: `config.yaml`, `environment.json`, `metrics.jsonl`, TensorBoard events, `checkpoint.pt`.

    TensorBoard is opened at the first figure, since importing it takes longer than a small run. Of several ranks,
    rank 0 alone reads and writes; the others are told what it read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._writer = None
        self._columns = None
        self._widths = []

    @classmethod
    def create(cls, log_dir: str, name: str, args: object, device: torch.device) -> "RunRecord":
        """Make a new folder `log_dir/name-timestamp`; an existing one is never used again.

        Raises:
            UserError: the folder cannot be made.
        """
        if not re.fullmatch(r"[^/\\\0.-][^/\\\0]{0,99}", name):
            rule = "at most 100 characters without slashes, the first of them no dot or dash"
            raise UserError(f"--name_prefix {name}: the beginning of a folder's name, so {rule}")
        record = cls(from_main(lambda: _new_folder(log_dir, name)))
        save_config(_plain(args), record.path("config.yaml"))
        write_json(record.path("environment.json"), describe_environment(device))
        return record

    @classmethod
    def reopen(cls, folder: str, args_class: type) -> tuple["RunRecord", object]:
        """The record and the arguments of an earlier run, to go on with it.

        Raises:
            UserError: no run folder, one of another script, or one whose arguments no longer make sense.
        """
        return cls(Path(folder)), from_main(lambda: _read_arguments(folder, args_class))

    def path(self, name: str) -> Path:
        """Where the run keeps a file of this name."""
        return self.folder / name

    @property
    def writer(self):
        """TensorBoard's writer."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(self.folder, flush_secs=600)
        return self._writer

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
    def print_row(self, name: str, epoch: int, num_epochs: int, figures: dict[str, float]) -> None:
        """Print one row of the table of epochs; its heading comes first, and again when the columns change."""
        columns = tuple(figures)
        if self._columns != (name, columns):
            titles = [column.removeprefix("train/").replace("/", " ") for column in columns]
            self._widths = [max(len(title), 8) for title in titles]
            heading = "  ".join(title.rjust(width) for title, width in zip(titles, self._widths, strict=True))
            print(f"\n{name + ' epoch':>16s}  {heading}")
            self._columns = (name, columns)
        cells = [f"{value:.4g}" if abs(value) < 1 else f"{value:.2f}" for value in figures.values()]
        row = "  ".join(cell.rjust(width) for cell, width in zip(cells, self._widths, strict=True))
        print(f"{f'{epoch}/{num_epochs}':>16s}  {row}", flush=True)

    @on_main
    def save_checkpoint(self, content: dict) -> None:
        """Write what `--resume` needs, and remember how long the record of figures was at that moment."""
        if self._writer is not None:
            self._writer.flush()
        lengths = {path.name: path.stat().st_size for path in self._figures()}
        save_tensors({**content, "lengths": lengths}, self.path("checkpoint.pt"))

    def load_checkpoint(self) -> dict | None:
        """The last checkpoint, or None where the run had not come that far; later figures are taken back.

        TensorBoard's `purge_step` would not do: the steps of each model that a run trains begin at 0.
        """
        return from_main(self._load_checkpoint)

    def _load_checkpoint(self) -> dict | None:
        content, lengths = None, {}
        if self.path("checkpoint.pt").exists():
            remedy = "start a new run without --resume"
            content = load_tensors(self.path("checkpoint.pt"), remedy)
            if "lengths" not in content:
                raise UserError(f"{self.path('checkpoint.pt')}: no checkpoint of this version; {remedy}")
            lengths = content["lengths"]
        for path in self._figures():
            if path.name in lengths:
                # A crash of the machine may have left less than the checkpoint, which alone was synced to the disk.
                os.truncate(path, min(lengths[path.name], path.stat().st_size))
            else:
                path.unlink()
        return content

    def _figures(self) -> list[Path]:
        """The files that grow during a run."""
        return sorted([*self.folder.glob("metrics.jsonl"), *self.folder.glob("events.out.tfevents.*")])

    @on_main
    def close(self) -> None:
        """Write out what TensorBoard still holds."""
        if self._writer is not None:
            # Closing alone would hide that the last figures could not be written.
            self._writer.flush()
            self._writer.close()


def _new_folder(log_dir: str, name: str) -> Path:
    parent = Path(log_dir)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for suffix in ["", *(f"-{i}" for i in range(2, 1000))]:
            folder = parent / f"{name}-{stamp}{suffix}"
            try:
                folder.mkdir()
                break
            except FileExistsError:
                continue
    except OSError as error:
        raise UserError(f"--log_dir {log_dir}: no folder can be made there ({error.strerror})") from None
    return folder


def _read_arguments(folder: str, args_class: type) -> object:
    config = Path(folder) / "config.yaml"
    if not config.is_file():
        raise UserError(f"--resume {folder}: no run folder (it has no config.yaml)")
    names = {field.name for field in dataclasses.fields(args_class)}
    if set(load_config(config)) != names:
        raise UserError(f"--resume {folder}: that run was made by another script or version")
    return ScriptParser(args_class).parse(["--config_file", str(config), "--resume", str(folder)])


def _plain(args: object) -> dict:
    values = dataclasses.asdict(args)
    values.pop("resume", None)
    return {**values, "resume": None} if "resume" in {f.name for f in dataclasses.fields(args)} else values
