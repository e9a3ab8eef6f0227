"""The record of a run: its folder, its figures line by line, TensorBoard as a view of them."""

import dataclasses
import json
import math
import os
import time
from pathlib import Path

import torch

from helper_functions.devices import describe_environment
from helper_functions.errors import UserError
from helper_functions.files import load_config, load_tensors, save_config, save_tensors, write_json


class RunRecord:
    """A run folder: `config.yaml`, `environment.json`, `metrics.jsonl`, TensorBoard events, `checkpoint.pt`.

    TensorBoard is opened at the first figure, since importing it takes longer than a small run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._writer = None
        self._purge_step = None
        self._columns = None
        self._widths = []

    @classmethod
    def create(cls, log_dir: str, name: str, args: object, device: torch.device) -> "RunRecord":
        """Make a new folder `log_dir/name-timestamp`; an existing one is never used again.

        Raises:
            UserError: the folder cannot be made.
        """
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
        record = cls(folder)
        save_config(_plain(args), folder / "config.yaml")
        write_json(folder / "environment.json", describe_environment(device))
        return record

    @classmethod
    def reopen(cls, folder: str, args_class: type) -> tuple["RunRecord", object]:
        """The record and the arguments of an earlier run, to go on with it.

        Raises:
            UserError: no run folder, or one of another script.
        """
        path = Path(folder)
        if not (path / "config.yaml").is_file():
            raise UserError(f"--resume {folder}: no run folder (it has no config.yaml)")
        config = load_config(path / "config.yaml")
        names = {field.name for field in dataclasses.fields(args_class)}
        if set(config) != names:
            raise UserError(f"--resume {folder}: that run was made by another script or version")
        return cls(path), args_class(**{**config, "resume": str(folder)})

    def path(self, name: str) -> Path:
        """Where the run keeps a file of this name."""
        return self.folder / name

    @property
    def writer(self):
        """TensorBoard's writer."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(self.folder, purge_step=self._purge_step, flush_secs=600)
        return self._writer

    def scalars(self, figures: dict[str, float], step: int) -> None:
        """Append a line to `metrics.jsonl` and the same figures to TensorBoard; NaN is written as null."""
        finite = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        with open(self.path("metrics.jsonl"), "a") as file:
            file.write(json.dumps({"step": step, **finite}) + "\n")
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def histograms(self, samples: dict[str, torch.Tensor], step: int) -> None:
        """Distributions of per-image figures `[n]`, to TensorBoard alone."""
        for name, values in samples.items():
            finite = values[values.isfinite()]
            if len(finite):
                self.writer.add_histogram(name, finite.float().cpu(), step)

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

    def save_checkpoint(self, content: dict) -> None:
        """Write what `--resume` needs, and remember how long the record of figures was at that moment."""
        metrics = self.path("metrics.jsonl")
        length = metrics.stat().st_size if metrics.exists() else 0
        save_tensors({**content, "metrics_length": length}, self.path("checkpoint.pt"))

    def load_checkpoint(self) -> dict | None:
        """The last checkpoint, or None where the run had not come that far; later figures are taken back."""
        if not self.path("checkpoint.pt").exists():
            return None
        content = load_tensors(self.path("checkpoint.pt"), "start a new run without --resume")
        metrics = self.path("metrics.jsonl")
        if metrics.exists():
            os.truncate(metrics, content["metrics_length"])
        self._purge_step = content.get("step")
        return content

    def close(self) -> None:
        """Write out what TensorBoard still holds."""
        if self._writer is not None:
            self._writer.close()


def _plain(args: object) -> dict:
    values = dataclasses.asdict(args)
    values.pop("resume", None)
    return {**values, "resume": None} if "resume" in {f.name for f in dataclasses.fields(args)} else values
