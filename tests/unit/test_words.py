"""Code and documents use the field's words (the left column of the project's table of words is gone)."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = (
    "benchmarks", "contrastive_discrimination", "data", "evaluation", "helper_functions", "models", "optimizer",
    "tests", "unlearning",
)  # fmt: skip
# Names that an outside engineer cannot explain, and phrases that have to be read twice.
NAMES = (
    "course", "Case", "TwoStages", "StageSettings", "Planned", "Examination", "Findings", "WithinBudget", "Lesson",
    "Workspace", "RunningPass", "keep_history", "forget_history", "as_hard", "told_apart", "prices", "heard", "spoiled",
    "stray", "hurry",
)  # fmt: skip
PHRASES = (
    "is no number", "are no numbers", "no number any more", "draws no lots", "what came out", "goes by", "answers for",
    "is no way to",
)  # fmt: skip


def files() -> list[Path]:
    code = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    return [*ROOT.glob("*.py"), *code, *ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "runs/README.md"]


def test_the_words_of_the_field():
    pattern = re.compile(rf"\b({'|'.join([*NAMES, *PHRASES])})\b")
    found = {str(path.relative_to(ROOT)): pattern.findall(path.read_text()) for path in files()}
    assert found.pop(str(Path(__file__).relative_to(ROOT)))
    assert not {path: words for path, words in found.items() if words}
