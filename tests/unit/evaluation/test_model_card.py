"""The model card of a report: Hugging Face's headings, what was removed by number and digest, and no names."""

import re

import pytest
import yaml
from helpers.report_cases import SEQUENCE, example

from evaluation.report.page import model_card

HEADINGS = [
    "Model details", "Intended use", "Training data", "What was removed", "Evaluation", "Limitations",
]  # fmt: skip


def changed(**verdict: object) -> dict:
    report = example()
    return {**report, "verdict": {**report["verdict"], **verdict}}


def test_headings_and_figures():
    report = example(0, sequence=SEQUENCE)
    card = model_card(report)
    assert re.findall("^## (.*)$", card, re.M) == HEADINGS and card.startswith("---\n")
    assert yaml.safe_load(card.split("---")[1])["pipeline_tag"] == "image-classification"
    for said in (
        f"40 images. SHA-256 of their list: `{report['request']['sha256']}`. Earlier requests removed 120 images.",
        f"`model.pt` (SHA-256 `{report['files'][1]['sha256']}`)", "| Removed images | 100.00 | 93.25 |",
        "Retain accuracy changed by -0.75 points, accuracy on held-out images by -0.50 ± 0.25.",
        "**Forgotten, budget kept.** Budget, in accuracy points: 1.", "lost 4.38 points",
    ):  # fmt: skip
        assert said in card, said
    assert model_card(report) == card and "\n\n\n" not in card


def test_it_names_nobody_and_nothing():
    request = {"id": "DSR 17", "requester": "M. Muster", "forget": "group:Muster", "images": 1, "sha256": "0" * 64}
    report = example(request=request)
    report["preprocessing"] |= {"model": "hf:/home/muster/vit", "data_dir": "/home/muster/photos"}
    card = model_card(report)
    assert "# vit, 1 image removed" in card
    for name in ("muster", "Muster", "DSR", "photos", "withdrawn", "cat"):
        assert not re.search(rf"\b{name}\b", card), name


@pytest.mark.parametrize("verdict", [{"feasible": False}, {"forgotten": False}])
def test_what_does_not_fulfil_the_request_is_for_no_use(verdict):
    assert "None: it does not fulfil the request." in model_card(changed(**verdict))
    assert "None: it" not in model_card(changed())


def test_what_weakens_the_evidence_stands_under_limitations():
    report = changed(met_before=True)
    report["preprocessing"]["confirmed_by"] = None
    limits = model_card(report).split("## Limitations")[1]
    assert "Unconfirmed" in limits and "The original met the rule" in limits
    assert "Unconfirmed" not in model_card(changed())


def test_the_library_of_hugging_face_reads_it():
    hub = pytest.importorskip("huggingface_hub")
    assert hub.ModelCard(model_card(example())).data.pipeline_tag == "image-classification"
