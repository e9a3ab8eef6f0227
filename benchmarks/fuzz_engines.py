"""The process that fuzzes one target; `benchmarks.fuzz` starts one after another.

    python -m benchmarks.fuzz_engines ENGINE TARGET CASES SEED FOLDER

leaves `tally.json` and the failures' inputs in the folder. What is fuzzed is imported late: atheris sees which branches
of a module a case takes only where it is there first.
"""

import contextlib
import hashlib
import json
import resource
import sys
from pathlib import Path
from typing import Any

INSTRUMENTED = ["data", "evaluation", "helper_functions", "models", "yaml", "jsonargparse"]
MOST_MEMORY = 16 * 2**30  # of addresses, far more than is used
EVERY = 500  # cases between two tallies: libFuzzer ends the process without a word to Python


def by_hypothesis(guard: Any, cases: int, seed: int) -> None:
    """Cases as the target's strategy makes them, from a seed."""
    import hypothesis

    # It stops early where it takes all that is left for known.
    while guard.tally.cases < cases:
        left = cases - guard.tally.cases
        settings = hypothesis.settings(
            max_examples=left, database=None, deadline=None, phases=[hypothesis.LoopConfig.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )  # fmt: skip
        hypothesis.seed(seed)(settings(hypothesis.given(guard.target.cases)(lambda data: guard(data))))()
        seed += 1_000_003


def by_atheris(guard: Any, cases: int, seed: int, folder: Path) -> None:
    """Cases by coverage, from the target's seeds; ends the process."""
    import atheris

    corpus = folder / "corpus"
    corpus.mkdir()
    for number, content in enumerate(guard.target.seeds):
        (corpus / str(number)).write_bytes(content)

    def read(data: bytes) -> None:
        if guard.tally.cases < cases:
            guard(data)
        if guard.tally.cases % EVERY == 0 or guard.tally.cases >= cases:
            save(guard.tally, folder)

    longest = max(2 * max(map(len, guard.target.seeds), default=0), 4096)
    flags = [f"-runs={cases}", f"-seed={seed + 1}", f"-max_len={longest}", "-handle_alrm=0", "-timeout=0"]
    atheris.Setup(["fuzz", *flags, f"-artifact_prefix={folder}/", str(corpus)], read)
    atheris.Fuzz()


def save(tally: Any, folder: Path) -> None:
    """Write the tally, and each failure's smallest input."""
    (folder / "tally.json").write_text(json.dumps(tally.summary()))
    for where, (_, data) in tally.failures.items():
        (folder / f"failure-{hashlib.sha256(where.encode()).hexdigest()[:12]}").write_bytes(data)


def main(engine: str, name: str, cases: int, seed: int, folder: Path) -> None:
    """Fuzz a target and leave what came out."""
    import torch  # natively, and large: nothing to be learned from its branches

    torch.set_num_threads(1)
    instrumented = contextlib.nullcontext()
    if engine == "atheris":
        import atheris

        instrumented = atheris.instrument_imports(include=INSTRUMENTED)
    with instrumented:
        from benchmarks.fuzz_guard import Guard
        from benchmarks.fuzz_targets import TARGETS
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    guard = Guard(TARGETS[name](), folder, die=True)
    if engine == "atheris":
        by_atheris(guard, cases, seed, folder)
    else:
        by_hypothesis(guard, cases, seed)
        save(guard.tally, folder)


if __name__ == "__main__":
    engine, name, cases, seed, folder = sys.argv[1:]
    main(engine, name, int(cases), int(seed), Path(folder))
