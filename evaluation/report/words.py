"""Words of a report's page that depend on its content: headline, methods, titles of figures, times."""

import math

# A sentence for each method, with its name in the literature.
METHODS = {
    "constrained": "The images were unlearned step by step within a limit on the loss of accuracy on the other images; "
        "a learned multiplier weighed the two (constrained unlearning; proxy constraints, Cotter et al. 2019).",
    "untrain": "The model was changed until a second network could no longer distinguish its outputs on these images "
        "from outputs on images that were never seen, within a limit on the loss of accuracy on the other images "
        "(adversarial constrained unlearning).",
    "untrain_contrastive": "The model was changed until a statistical test on groups of images could no longer "
        "distinguish its outputs on these images from outputs on images that were never seen, within a limit on the "
        "loss of accuracy on the other images (contrastive constrained unlearning).",
    "retrain": "A new model was trained from scratch without these images (exact unlearning by retraining).",
    "finetune": "Training continued on the other images alone (fine-tuning, Jia et al. 2023).",
    "gradient_ascent": "The loss on these images was maximised (gradient ascent, Graves et al. 2021).",
    "neggrad_plus": "The loss on these images was maximised and that on the others minimised (NegGrad+, Kurmanji et "
        "al. 2023).",
    "random_labels": "The model was trained on random wrong labels for these images, then on the others (random "
        "labels, Golatkar et al. 2020).",
    "scrub": "The model was trained to differ from the original on these images and to agree with it on the others "
        "(SCRUB, Kurmanji et al. 2023).",
    "cf_k": "Training of the last layers continued on the other images alone (CF-k, Goel et al. 2022).",
    "eu_k": "The last layers were trained from scratch without these images (EU-k, Goel et al. 2022).",
    "bad_teacher": "The model was taught by an untrained network on these images and by the original on the others "
        "(bad teacher, Chundawat et al. 2023).",
    "salun": "The weights that matter most for these images were trained on random wrong labels for them (SalUn, Fan "
        "et al. 2024).",
    "l1_sparse": "Training continued on the other images alone, with a penalty that pushes small weights to zero "
        "(l1-sparse, Jia et al. 2023).",
    "ssd": "The weights that matter far more for these images than for the others were made smaller (selective "
        "synaptic dampening, Foster et al. 2024).",
    "unsir": "The model was trained on noise made for these classes, then on the other images (UNSIR, Tarun et al. "
        "2023).",
    "boundary_shrink": "The model was trained on the nearest wrong label of each of these images (boundary "
        "shrinking, Chen et al. 2023).",
    "influence": "The effect of these images on the weights was estimated and subtracted in one step (influence "
        "functions, Koh and Liang 2017).",
    "fisher": "Noise was added to the weights, most where the other images need them least (Fisher forgetting, "
        "Golatkar et al. 2020).",
    "delete": "The model was trained on its own outputs for these images, with their own class left out (DELETE, "
        "Zhou et al. 2025).",
    "lotus": "The model was trained on smoothed versions of its own outputs for these images (LoTUS, Spartalis et "
        "al. 2025).",
    "msg": "A share of the weights was re-initialised and trained on the other images (MSG, Cadet et al. 2024).",
    "ct": "The filters were transposed and trained on the other images (CT, Cadet et al. 2024).",
    "ugradsl_plus": "The loss on these images, with smoothed labels, was maximised and that on the others minimised "
        "(UGradSL+, Di et al. 2026).",
    "reload": "The part of the gradient that belongs to these images was added to the weights, the weights that hold "
        "it least were re-initialised, and training continued on the other images (RELOAD, Newatia et al. 2026).",
    "mu_mis": "The model was changed until its outputs for the labels of these images responded less to the images "
        "(MU-Mis, Cheng et al. 2026).",
    "hamu": "Each step lowered the loss on the other images as far as a set rise of the loss on these images allowed "
        "(HAMU, Chen et al. 2026).",
    "falw": "The model was trained on random wrong labels for these images, most for those that it still recognised "
        "better than unseen ones, then on the others (FaLW, Yu et al. 2026).",
    "uam": "The loss on the other images was minimised at weights where that on these images is higher (UAM, Kim et "
        "al. 2025).",
    "pour": "The directions of these classes were removed from the weights of the last layer (POUR-P, Le et al. "
        "2026).",
}  # fmt: skip

# By figure: its title in the table, and how to read it. {ideal}: the figure of a model that never saw the images.
ATTACKS = {
    "mia_auc": ("Loss attack", "The probability (AUC) that the model's loss alone orders an image to forget and a test "
                "image of the same class correctly: 1 is always, 0.5 is chance. {ideal}"),
    "mia_tpr": ("Loss attack, true positives, %", "Share of the images to forget that the loss attack identifies while "
                "at most 1 % of the test images are identified falsely. Chance is 1 %."),
    "mia_worst_tenth": ("Loss attack, worst tenth, %", "Of the tenth of the images that the loss attack is surest of, "
                        "the share that were images to forget; chosen and counted on different images. Chance is "
                        "50 %."),
    "mia_efficacy": ("Classified as never seen, %", "Share of the images to forget that an attacker, who knows kept "
                     "and test images, classifies as never trained on. It should equal the retrained model's figure; "
                     "100 is not the goal."),
    "rmia_auc": ("Likelihood ratio (RMIA)", "Like the loss attack, with each image's probability relative to "
                 "that under the retrained models. {ideal}"),
    "rmia_tpr": ("Likelihood ratio, true positives, %", "Share of the images to forget that it identifies while "
                 "at most 1 % of the test images are identified falsely. Chance is 1 %."),
    "rmia_worst_tenth": ("Likelihood ratio, worst tenth, %", "The same of its surest tenth. Chance is 50 %."),
    "discriminator_auc": ("Trained discriminator", "The AUC of a network that is trained to distinguish the model's "
                          "whole outputs on images to forget from those on test images of the same classes. A model "
                          "that never saw the images shows 0.5."),
    "discriminator_worst_tenth": ("Trained discriminator, worst tenth, %", "The same of its surest tenth. Chance is "
                                  "50 %."),
    "residual_knowledge": ("Residual knowledge", "How often this model names noisy copies of the images to forget, "
                           "relative to the retrained model: 1 is equal, more is too much."),
    "retain_exposure": ("Exposure of retained images", "How much better than before a loss attack finds the images "
                        "that stay, as a difference of its AUC: 0 is no better."),
    "js_divergence": ("Distance to retrained, nats", "Jensen-Shannon divergence between this model's outputs on the "
                      "images to forget and the retrained model's: 0 is equal, 0.693 is the maximum."),
}  # fmt: skip
IDEAL = "A model that never saw the images shows 0.5."
NO_IDEAL = (
    "The goal is not 0.5 here: the images had wrong labels, while test images have right ones. Compare with the "
    "retrained model's figure."
)

UTILITY = {
    "retain_top1": "Accuracy on the retained images, %",
    "retain_loss": "Loss on the retained images",
    "validation_top1": "Accuracy on validation images, %",
    "test_top1": "Accuracy on test images, %",
    "test_loss": "Loss on test images",
    "test_remaining_top1": "Accuracy on test images of the other classes, %",
    "test_adjacent_top1": "Accuracy on test images of the most similar classes, %",
    "test_remote_top1": "Accuracy on test images of all remaining classes, %",
    "forgotten_top1": "Accuracy on the images of earlier requests, %",
    "forgotten_loss": "Loss on the images of earlier requests",
}
# Title, and the part whose images are counted.
FORGETTING = {
    "forget_top1": ("Accuracy on the images to forget, %", "forget"),
    "forget_true_top1": ("the same by their true labels, %", "forget"),
    "unseen_top1": ("Accuracy on comparable unseen images, %", "unseen"),
    "test_top1": ("Accuracy on test images, %", "test"),
    "forget_loss": ("Loss on the images to forget", "forget"),
    "unseen_loss": ("Loss on comparable unseen images", "unseen"),
    "test_loss": ("Loss on test images", "test"),
}


def headline(report: dict) -> tuple[str, str]:
    """The verdict in a few words, and its kind: `good`, `bad`, or `open` where it says nothing about forgetting."""
    verdict = report.get("verdict")
    if verdict is None:
        return "Nothing was forgotten in this run", "open"
    said, fulfilled = verdict["outcome"], verdict["feasible"] and verdict["forgotten"]
    unconfirmed = report["preprocessing"]["confirmed_by"] is None
    said += "; whether the model saw the right pictures is unconfirmed" * unconfirmed
    kind = "bad" if not fulfilled else "open" if verdict["met_before"] or unconfirmed else "good"
    return said[:1].upper() + said[1:], kind


# How the preprocessing of the original is confirmed.
CONFIRMED = {
    "training": "the original was trained with it in this run",
    "run": "the run that the original comes from states it",
    "expected_accuracy": "the accuracy on training images is the one that the owner stated, within a point",
    "accuracy": "nearly all training images are right",
    "comparison": "no other common preprocessing gives clearly more right training images",
    None: "UNCONFIRMED",
}


def uncertainty(images: int) -> float:
    """Half of the widest 95 % interval of a share that is measured on so many images, in points."""
    return min(100 * 1.96 * math.sqrt(0.25 / max(images, 1)), 50)


def seconds(value: float) -> str:
    """A duration in seconds or minutes."""
    return f"{value:,.1f} s" if value < 120 else f"{value / 60:,.1f} min"


def number(value: float | None, digits: int = 2) -> str:
    """A figure, an en dash where there is none."""
    return "–" if value is None else f"{value:z.{digits}f}"
