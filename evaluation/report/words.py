"""What the page of a report says in words: verdict, methods, attacks, and what none of it proves."""

import math

from evaluation.verdict import UNSEEN_TOLERANCE, ZERO_TOLERANCE, is_forgotten

# What each method does, and its name in the literature.
METHODS = {
    "constrained": ("The images were made unknown step by step, while a limit on what the other images may lose was "
                    "enforced by a multiplier that is learned", "constrained unlearning; proxy constraints, Cotter et "
                    "al. 2019"),
    "untrain": ("The model was changed until a second network could no longer tell its answers on these images from "
                "answers on images that were never seen, within a limit on what the other images may lose",
                "adversarial constrained unlearning"),
    "untrain_contrastive": ("The model was changed until a statistical test on groups of images could no longer tell "
                            "its answers on these images from answers on images that were never seen, within a limit "
                            "on what the other images may lose", "contrastive constrained unlearning"),
    "retrain": ("A new model was trained from scratch without these images", "exact unlearning by retraining"),
    "finetune": ("Training went on with the other images alone, so that these fade", "fine-tuning, Jia et al. 2023"),
    "gradient_ascent": ("Training was run backwards on these images", "gradient ascent, Graves et al. 2021"),
    "neggrad_plus": ("Training was run backwards on these images and forwards on the others",
                     "NegGrad+, Kurmanji et al. 2023"),
    "random_labels": ("The model learned wrong labels, drawn at random, for these images, then the others again",
                      "random labels, Golatkar et al. 2020"),
    "scrub": ("The model was taught to differ from the original on these images and to agree with it on the others",
              "SCRUB, Kurmanji et al. 2023"),
    "cf_k": ("Training of the last layers went on with the other images alone", "CF-k, Goel et al. 2022"),
    "eu_k": ("The last layers were trained anew without these images", "EU-k, Goel et al. 2022"),
    "bad_teacher": ("The model was taught by an untrained network on these images and by the original on the others",
                    "bad teacher, Chundawat et al. 2023"),
    "salun": ("The weights that matter most for these images learned wrong labels, drawn at random, for them",
              "SalUn, Fan et al. 2024"),
    "l1_sparse": ("Training went on with the other images alone, while small weights were pushed to zero",
                  "l1-sparse, Jia et al. 2023"),
    "ssd": ("The weights that matter for these images far more than for the others were made smaller",
            "selective synaptic dampening, Foster et al. 2024"),
    "unsir": ("The model was spoiled with noise made for these classes, then repaired with the other images",
              "UNSIR, Tarun et al. 2023"),
    "boundary_shrink": ("The model learned the nearest wrong label for each of these images",
                        "boundary shrinking, Chen et al. 2023"),
    "influence": ("The effect of these images on the weights was estimated and subtracted in one step",
                  "influence functions, Koh and Liang 2017"),
    "fisher": ("Noise was added to the weights, most where the other images need them least",
               "Fisher forgetting, Golatkar et al. 2020"),
    "delete": ("The model learned its own answers on these images, with their own class left out",
               "DELETE, Zhou et al. 2025"),
    "lotus": ("The model learned softened versions of its own answers on these images",
              "LoTUS, Spartalis et al. 2025"),
    "msg": ("A share of the weights was drawn anew and trained on the other images", "MSG, Cadet et al. 2024"),
    "ct": ("The filters were transposed and trained on the other images", "CT, Cadet et al. 2024"),
    "ugradsl_plus": ("Training was run backwards on these images, with smoothed labels, and forwards on the others",
                     "UGradSL+, Di et al. 2026"),
}  # fmt: skip

# By figure: what the table calls it, and how it is read. {ideal} is what a model shows that never saw the images.
ATTACKS = {
    "mia_auc": ("Loss attack", "How often the model's error alone tells an image to forget from a test image of the "
                "same class: 1 is always, 0.5 is a coin's toss, below 0.5 the wrong way round. {ideal}"),
    "mia_tpr": ("Loss attack, sure hits, %", "Share of the images to forget that the loss attack finds while it "
                "wrongly accuses at most 1 % of the test images. A blind guess finds 1 %."),
    "mia_efficacy": ("Taken for never seen, %", "Share of the images to forget that an attacker, who knows kept and "
                     "test images, takes for images that were never trained on. It should be as high as in a "
                     "retrained model; 100 is not the aim."),
    "rmia_auc": ("Likelihood-ratio attack (RMIA)", "As the loss attack, but by how much surer of each image this "
                 "model is than the retrained models are. {ideal}"),
    "rmia_tpr": ("Likelihood-ratio attack, sure hits, %", "Share of the images to forget that it finds while it "
                 "wrongly accuses at most 1 % of the test images. A blind guess finds 1 %."),
    "discriminator_auc": ("Trained discriminator", "How often a network that was trained for it tells the model's "
                          "whole answers on images to forget from those on test images of the same classes. 0.5 is "
                          "what a model shows that never saw the images."),
    "js_divergence": ("Distance to retrained, nats", "How far answers on the images to forget are from the retrained "
                      "model's (Jensen-Shannon divergence): 0 is the same, 0.693 is the most."),
}  # fmt: skip
IDEAL = "0.5 is what a model shows that never saw the images."
NO_IDEAL = (
    "What a model shows that never saw the images is not 0.5 here, since test images have right labels and these had "
    "wrong ones: only the retrained model's figure says."
)

UTILITY = {
    "retain_top1": "Accuracy on the images that are kept, %",
    "retain_loss": "Loss on the images that are kept",
    "validation_top1": "Accuracy on validation images, %",
    "test_top1": "Accuracy on test images, %",
    "test_loss": "Loss on test images",
    "test_remaining_top1": "Accuracy on test images of the other classes, %",
    "test_adjacent_top1": "Accuracy on test images of the most similar classes, %",
    "test_remote_top1": "Accuracy on test images of all remaining classes, %",
    "forgotten_top1": "Accuracy on the images of earlier requests, %",
    "forgotten_loss": "Loss on the images of earlier requests",
}
FORGETTING = {
    "forget_top1": ("Accuracy on the images to forget, %", "forget"),
    "forget_true_top1": ("the same by their true labels, %", "forget"),
    "unseen_top1": ("Accuracy on comparable images never seen, %", "unseen"),
    "test_top1": ("Accuracy on test images, %", "test"),
    "forget_loss": ("Loss on the images to forget", "forget"),
    "unseen_loss": ("Loss on comparable images never seen", "unseen"),
    "test_loss": ("Loss on test images", "test"),
}
ROLES = {
    "configuration": "settings of the run",
    "splits": "which image played which part",
    "figures": "figures while it ran",
    "weights": "the resulting model",
    "original": "the model before",
    "retrained": "model retrained without the images",
}
PLACES = {
    "retain": "images that are kept",
    "validation": "validation images",
    "test": "test images",
    "unseen": "images taken as never seen",
}


def headline(report: dict) -> tuple[str, str]:
    """The verdict in a few words, and its kind: `good`, `bad`, or `open` where it says nothing of forgetting."""
    verdict = report.get("verdict")
    if verdict is None:
        return "Nothing was forgotten in this run", "open"
    forgotten = "forgotten" if verdict["forgotten"] else "NOT forgotten"
    if not verdict["feasible"]:
        joined = "but" if verdict["forgotten"] else "and"
        return f"Infeasible: {forgotten}, {joined} the accuracy budget was NOT kept", "bad"
    if not verdict["forgotten"]:
        return "NOT forgotten; the accuracy budget was kept", "bad"
    if _met_before(report):
        return "Counts as forgotten, but so did the original; the accuracy budget was kept", "open"
    return "Forgotten, and the accuracy budget was kept", "good"


def verdict_sentences(report: dict) -> list[str]:
    """The verdict with its figures: budget and slack, forgetting, and what follows where it is not a good one."""
    verdict = report.get("verdict")
    if verdict is None:
        return ["The original model was trained and judged; there is no unlearned model."]
    before, after = (report["models"][name] for name in ("original", "unlearned"))
    sentences = [_budget_sentence(report, before, after), _forgotten_sentence(report, before, after)]
    if verdict["forgotten"] and _met_before(report):
        sentences.append(
            "The original met this rule before anything was done: it shows nothing here. What tells the model before "
            "from the one after, if anything does, are losses and attacks below."
        )
    if report["forget"]["chosen_epoch"] is None:
        sentences.append("No state was found that kept the budget while the run looked: what was saved came nearest.")
    if not (verdict["feasible"] and verdict["forgotten"]):
        sentences.append("By this run, the request is not fulfilled.")
    return sentences


def _met_before(report: dict) -> bool:
    """Whether the original itself counts as forgotten."""
    before = report["models"]["original"]
    finite = before["forget_loss"] is not None
    return finite and is_forgotten(report["forget"]["target"], before, report["data"]["classes"])


def _budget_sentence(report: dict, before: dict, after: dict) -> str:
    verdict = report["verdict"]
    fall = verdict["retain_budget"] - verdict["slack"]
    change = "stayed the same" if abs(fall) < 0.005 else f"{'fell' if fall > 0 else 'rose'} by {abs(fall):.2f} points"
    slack = verdict["slack"] - verdict["margin"]
    left = f"{slack:.2f} are left" if verdict["feasible"] else f"it is overdrawn by {max(-slack, 0):.2f}"
    sampled = ""
    if verdict["margin"] > 0:
        sampled = (
            f", by a sample of {report['judged_retain_images']:,} of them; it may be {verdict['margin']:.2f} lower at "
            "95 % confidence, which counts"
        )
    points = "point" if verdict["retain_budget"] == 1 else "points"
    return (
        f"Accuracy on the images that are kept {change} ({number(before['retain_top1'])} % before, "
        f"{number(after['retain_top1'])} % after{sampled}). The budget was {verdict['retain_budget']:g} percentage "
        f"{points}; {left}."
    )


def _forgotten_sentence(report: dict, before: dict, after: dict) -> str:
    rule = {
        "unseen": f"forgotten means at most {UNSEEN_TOLERANCE:g} points above comparable images that were never seen, "
        f"on which {number(after.get('unseen_top1'))} % are right",
        "zero": f"forgotten means that at most {ZERO_TOLERANCE:g} % are still named as their class",
        "chance": "forgotten means that the label that had to go is named no more often than by a guess "
        f"({100 / report['data']['classes']:.3g} %), at a loss of at least {math.log(report['data']['classes']):.2f}; "
        f"the loss is {number(after['forget_loss'], 3)}",
    }[report["forget"]["target"]]
    return (
        f"Of the images to forget, {number(after['forget_top1'])} % are classified as labelled "
        f"({number(before['forget_top1'])} % before); {rule}."
    )


def method_sentence(method: str) -> str:
    """What the method did, and its name."""
    did, name = METHODS.get(method, ("The model was changed", method))
    return f"{did} ({name})."


def limits(report: dict) -> list[tuple[str, str]]:
    """What the report does not prove: a few words, and the sentences that explain them."""
    images = report["request"]["images"]
    attacks = any(name in report["models"].get("unlearned", {}) for name in ATTACKS)
    retrained = report.get("retrained_models", 0)
    reference = {
        0: ("No retrained model was given.", "Absence is judged against held-out images, which differ from the images "
            "to forget by chance and by how they were chosen."),
        1: ("One retrained model was given.", "Two retrained models differ, too: a small gap to one means nothing."),
    }.get(retrained, (f"{retrained} retrained models were given.", "Others would differ from these."))  # fmt: skip
    return [
        ("This is no certificate.", "Approximate unlearning changes a trained model until measurements no longer find "
         "the images. It does not prove that nothing of them is left in the weights."),
        ("Only the attacks above were tried." if attacks else "No attack was tried in this run.", "A stronger one, "
         "such as U-LiRA with shadow models (python test.py --shadow_models), may find traces all the same."),
        reference,
        (f"Figures of forgetting rest on {images:,} images.", _width(images)),
        ("The budget was measured on these images.", "It is for all images that are kept, taken together: single "
         "classes, or pictures of a group of people, may have lost more."),
        ("Nothing else was touched.", "Copies of the images in backups and caches, other models, data that were "
         "derived from them, the original's own weights file and checkpoints of optimizers still hold what they held. "
         "So does the run's folder, where it keeps files from before forgetting (original.pt, checkpoint.pt)."),
        ("The request is taken as given.", "Whether these are the right images, and all of them, no program knows."),
    ]  # fmt: skip


def _width(images: int) -> str:
    """How far chance alone moves a share measured on so many images: half of the widest 95 % interval, in points."""
    half = 100 * 1.96 * math.sqrt(0.25 / max(images, 1))
    size = "Few images give wide intervals" if images < 1000 else "That is many"
    return f"{size}: a share measured on them is uncertain by up to ±{min(half, 50):.1f} points (95 %)."


def number(value: float | None, digits: int = 2) -> str:
    """A figure, an en dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"
