"""The methods with a discriminator, as targets and in whole runs: what they build, refuse, reach, leave and resume."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from helpers.digits import RIGHT, TRAIN, UNSEEN, VALIDATION, WRONG
from helpers.method_cases import CPU, QuietRecord
from helpers.steps import around_steps, model_of
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from contrastive_discrimination.held_out import Auc
from data.loaders import TensorLoader
from helper_functions.errors import UserError
from train_constrained_unlearning import untrain_constrained
from unlearning.arguments import MethodArgs
from unlearning.constrained.difficulty import Difficulty
from unlearning.constrained.discriminator_target import AUC_TOLERANCE, OWN_MATCH, DiscriminatorTarget
from unlearning.constrained.targets import ChanceTarget, Target, UnseenTarget, ZeroTarget
from unlearning.context import MethodContext
from unlearning.evaluator import Evaluator
from unlearning.methods import METHODS
from unlearning.run import UnlearningRun
from unlearning.streams import RETAIN_LOSSES

DISCRIMINATING = ["untrain", "untrain_contrastive"]
OURS = ["constrained", *DISCRIMINATING]
VIEWS = ["logits", "losses", "features"]


def loader_of(images, labels, shuffle=False) -> TensorLoader:
    images = (images * 255).byte()
    return TensorLoader(images, labels, torch.arange(len(labels)), 20, mean=(0.5,), std=(0.5,), shuffle=shuffle)


def pictures(count, labels, seed) -> TensorLoader:
    images = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return loader_of(images, torch.as_tensor(labels)[torch.arange(count) % len(labels)])


def small_loaders(forget=(0, 1, 2, 3), retain=(0, 1, 2, 3), held_out=(0, 1, 2, 3)) -> dict:
    """Random pictures, whose labels repeat the given ones."""
    return {
        "retain": pictures(40, retain, 0), "forget": pictures(24, forget, 1), "unseen": pictures(40, held_out, 2),
        "validation": pictures(32, held_out, 3),
    }  # fmt: skip


def network(num_classes=4) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, num_classes)
    )
    model(torch.randn(50, 1, 4, 4))
    return model


def context_of(target="unseen", model=None, loaders=None, **settings) -> MethodContext:
    model, loaders = model or network(), loaders or small_loaders()
    evaluator = Evaluator(model, loaders, CPU, 0, RETAIN_LOSSES["labels"])
    return MethodContext(target, model, loaders, evaluator, MethodArgs(**settings), CPU, seed=0)


def target_of(method, context) -> Target:
    """What a method steers to on a case."""
    return METHODS[method].trainer(context).target


def hooks(model) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


class TestBuild:
    TARGETS = {"unseen": UnseenTarget, "zero": ZeroTarget, "chance": ChanceTarget}

    @pytest.mark.parametrize("view", VIEWS)
    @pytest.mark.parametrize("target", TARGETS)
    @pytest.mark.parametrize("method", OURS)
    def test_each_method_for_each_target_and_view(self, method, target, view, hasty):
        """An objective with a gradient into the model, figures after it, and a distance of the original."""
        loaders = small_loaders(forget=(1,), retain=(0, 2, 3)) if target == "zero" else small_loaders()
        context = context_of(target, loaders=loaders, discriminate=view)
        state = {name: value.clone() for name, value in context.model.state_dict().items()}
        found = target_of(method, context)
        assert all(torch.equal(value, state[name]) for name, value in context.model.state_dict().items())
        assert found.name == target
        own = found.own if method in DISCRIMINATING else found
        assert type(own) is self.TARGETS[target]
        found.refresh(*(context.evaluator.original_losses[name] for name in ("unseen", "forget")))
        inputs, labels = next(iter(loaders["forget"]))
        found.attach(context.model)
        logits = context.model.eval()(inputs)
        # In the game, the retain images stand behind the forget images of the same pass.
        objective, reached = found.objective(logits[:12], labels[:12])
        slopes = torch.autograd.grad(objective, list(context.model.parameters()), allow_unused=True)
        assert objective.isfinite() and 0 <= reached <= 1
        assert slopes[0].isfinite().all() and (slopes[0].abs().max() > 0 or objective == 0)
        figures = found.commit()
        assert set(figures) == ({"classifier/loss", "classifier/accuracy"} if method in DISCRIMINATING else set())
        assert found.floor == math.log(2) if method in DISCRIMINATING else (found.floor > 0) == (target != "zero")
        found.detach()
        assert hooks(context.model) == 0

    @pytest.mark.parametrize("method", DISCRIMINATING)
    @pytest.mark.parametrize("view", VIEWS)
    def test_the_own_distance_is_that_of_the_constrained_method(self, view, method, hasty):
        context = context_of("unseen", discriminate=view)
        found, plain = target_of(method, context), target_of("constrained", context)
        outputs = context.evaluator.original_outputs["forget"]
        losses, weights = context.evaluator.losses(context.model, "validation"), context.evaluator.class_weights
        weights = weights["validation"]
        assert found.distance(*outputs, losses, weights) == plain.distance(*outputs, losses, weights) > 0

    def test_wrong_labels_and_forgotten_classes_are_worth_nothing_as_partners(self, hasty):
        assert set(OWN_MATCH) == set(self.TARGETS)
        for target, match in (("unseen", "given"), ("zero", "none"), ("chance", "none")):
            for asked, expected in (("auto", match), ("given", "given"), ("none", "none")):
                found = target_of("untrain_contrastive", context_of(target, match=asked))
                assert found.game.reference.match == found.held_out.match == expected

    def test_the_game_sees_unseen_images_and_the_verdict_validation_images(self, hasty):
        context = context_of()
        found = target_of("untrain", context)
        outputs = context.evaluator.original_outputs
        assert torch.equal(found.game.reference.logits, outputs["unseen"][0])
        assert torch.equal(found.held_out.logits, outputs["validation"][0])

    @pytest.mark.parametrize("method", DISCRIMINATING)
    def test_hard_images_are_compared_with_hard_ones(self, method, hasty):
        """Within their classes, by the weights that the own target compares with; a random set with all alike."""
        model, labels = network(), torch.arange(400) % 4
        images = torch.rand(400, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            losses = F.cross_entropy(model.eval()(2 * images - 1), labels, reduction="none")
        hard = losses > torch.stack([losses[labels == label].median() for label in range(4)])[labels]
        held_out = {name: pictures(400, (0, 1, 2, 3), seed) for name, seed in (("unseen", 2), ("validation", 3))}

        def context_for(forget: torch.Tensor) -> MethodContext:
            own = {"forget": forget, "retain": torch.nonzero(~torch.isin(torch.arange(400), forget)).flatten()}
            own = {name: loader_of(images[rows], labels[rows]) for name, rows in own.items()}
            return context_of(model=model, loaders={**own, **held_out})

        context = context_for(torch.nonzero(hard).flatten()[::2])
        found, evaluator = target_of(method, context), context.evaluator
        wanted = evaluator.forget_labels
        share = torch.bincount(wanted, minlength=4) / len(wanted)
        for reference, name in ((found.game.reference, "unseen"), (found.held_out, "validation")):
            weights, losses = evaluator.difficulty_weights[name], evaluator.original_losses[name]
            expected = weights / torch.zeros(4).index_add(0, labels, weights)[labels] * share[labels]
            first, _ = reference.draw(wanted.repeat(2000), torch.Generator().manual_seed(0))
            assert (torch.bincount(first, minlength=400) / len(first) - expected).abs().sum() < 0.05
            assert losses[first].mean() > (losses * evaluator.class_weights[name]).sum() + losses.std() / 10
        plain = context_for(torch.arange(0, 400, 7))
        assert plain.evaluator.difficulty == Difficulty()
        assert target_of(method, plain).game.reference.mates.log_weights is None

    def test_the_seed_decides_whatever_the_global_generator_says(self, hasty):
        states = []
        for seed in (0, 0, 1):
            model = network()
            torch.manual_seed(100 + len(states))
            before = torch.get_rng_state()
            context = context_of(model=model)
            context.seed = seed
            states.append(str(target_of("untrain", context).state_dict()))
            assert torch.equal(torch.get_rng_state(), before)
        assert states[0] == states[1] != states[2]


class TestRefusals:
    @pytest.mark.parametrize(
        ("method", "settings", "complaint"),
        [
            *(
                ("untrain_contrastive", {"discriminator": name}, f"--discriminator {name}: untrain_contrastive")
                for name in ("mlp", "difference", "comparator", "scalar_product", "jensen_shannon")
            ),
            ("untrain", {"discriminator": "jensen_shannon", "discriminate": "losses"}, "jensen_shannon"),
            ("constrained", {"stop_criterion": "discriminator"}, "--stop_criterion discriminator"),
            ("untrian", {}, "untrian"),
        ],
    )  # fmt: skip
    def test_settings_that_a_method_cannot_follow(self, method, settings, complaint, tmp_path, hasty):
        model, loaders = network(), list(small_loaders().values())
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(UserError, match=complaint):
            untrain_constrained(
                model, *loaders, num_epochs=1, device="cpu", record=QuietRecord(tmp_path), method=method, **settings
            )
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert target_of("untrain_contrastive", context_of(discriminator="logistic"))

    @pytest.mark.parametrize("method", DISCRIMINATING)
    def test_every_class_forgotten(self, method):
        context = context_of("zero")
        context.evaluator.forgotten_classes = lambda: torch.arange(4)
        with pytest.raises(UserError, match="every class is to be forgotten"):
            target_of(method, context)

    @pytest.mark.parametrize("method", DISCRIMINATING)
    def test_a_forget_class_without_unseen_images_is_named(self, method):
        loaders = small_loaders(held_out=(0, 1, 3))
        with pytest.raises(UserError, match="class 2 of the forget set has 0 unseen images"):
            target_of(method, context_of(loaders=loaders))
        with pytest.raises(UserError, match="class 2 of the forget set has 0 validation images"):
            target_of(method, context_of(loaders=loaders | {"unseen": pictures(40, (0, 1, 2, 3), 2)}))

    def test_a_refused_model_can_be_asked_again(self, tmp_path, hasty):
        """Three images are too few for five folds; what listens to the model must go with the refusal."""
        model, few = network(), pictures(3, (0, 1, 2), 1)
        args = MethodArgs(discriminate="features")
        with pytest.raises(UserError, match="folds"):
            UnlearningRun(
                model, small_loaders() | {"forget": few}, args, "unseen", "untrain", CPU, QuietRecord(tmp_path)
            )
        assert hooks(model) == 0
        copy.deepcopy(model)


class TestExamine:
    @pytest.mark.parametrize(
        ("auc", "interval", "distance"),
        [(0.549, 0.01, 0), (0.451, 0.01, 0), (0.6, 0.09, 0.1), (0.4, 0.09, 0.1), (1.0, 0.0, 0.9), (0.0, 0.0, 0.9),
         (0.6, 0.11, 0), (0.4, 0.11, 0), (math.nan, math.nan, math.nan)],
    )  # fmt: skip
    def test_distance_is_zero_where_chance_cannot_be_told(self, auc, interval, distance, monkeypatch):
        assert AUC_TOLERANCE == 0.05
        module = "unlearning.constrained.discriminator_target"
        monkeypatch.setattr(f"{module}.held_out_auc", lambda *args, **options: Auc(auc, auc - interval, auc + interval))
        context = context_of()
        target, outputs = target_of("untrain_contrastive", context), context.evaluator.original_outputs["forget"]
        figures = target.examine(context.model, *outputs)
        expected = {"auc": auc, "auc_low": auc - interval, "auc_high": auc + interval}
        assert {name: figures[f"discriminator/{name}"] for name in expected} == pytest.approx(expected, nan_ok=True)
        assert figures["forget/distance"] == pytest.approx(distance, nan_ok=True)

    @pytest.mark.parametrize(
        ("kind", "view"),
        [
            *((TensorLoader, view) for view in VIEWS), (DataLoader, "logits"), (DataLoader, "features"),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("method", DISCRIMINATING)
    def test_leaves_model_and_generators_as_they_were(self, method, kind, view, hasty):
        model, loaders = network(), small_loaders()
        if kind is DataLoader:
            loaders = {
                name: DataLoader(TensorDataset(*map(torch.cat, zip(*loader, strict=True))), 20)
                for name, loader in loaders.items()
            }
        context = context_of(model=model.train(), loaders=loaders, discriminate=view)
        target = target_of(method, context)
        model[2].eval()
        modes = [module.training for module in model.modules()]
        state = {name: value.clone() for name, value in model.state_dict().items()}
        game = str(target.state_dict())
        rng, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
        outputs = context.evaluator.original_outputs["forget"]
        found = [target.examine(model, *outputs) for _ in range(2)]
        assert modes == [module.training for module in model.modules()]
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters())
        assert found[0] == found[1] and str(target.state_dict()) == game
        assert torch.equal(torch.get_rng_state(), rng) and (np.random.get_state()[1] == numpy_state).all()

    @pytest.mark.parametrize("view", VIEWS)
    def test_images_that_were_never_learned_are_at_chance_and_learned_ones_are_not(self, view, digits, mislabelled):
        """Wrong labels that were learned by heart (to features: one class), and held-out images, as forget sets."""
        aucs, one_class = [], torch.nonzero(digits.true[TRAIN] == 3).flatten()
        learned = (one_class, digits.true) if view == "features" else (WRONG, digits.given)
        parts = ((*learned, "chance"), (slice(1400, 1600), digits.true, "unseen"))
        # The loader's images lie in [-1, 1], and the model's in [0, 1].
        model = copy.deepcopy(mislabelled)
        model[1].bias.data += model[1].weight.data.sum(1) / 2
        model[1].weight.data /= 2
        for part, labels, target in parts:
            loaders = {
                "retain": loader_of(digits.images[RIGHT], digits.given[RIGHT]),
                "forget": loader_of(digits.images[part], labels[part]),
                "unseen": loader_of(digits.images[UNSEEN], digits.true[UNSEEN]),
                "validation": loader_of(digits.images[VALIDATION], digits.true[VALIDATION]),
            }
            context = context_of(target, model=model, loaders=loaders, discriminate=view)
            outputs = context.evaluator.original_outputs["forget"]
            found = target_of("untrain_contrastive", context)
            aucs.append(found.examine(model, *outputs)["discriminator/auc"])
            found.detach()
        assert aucs[0] > 0.9 and aucs[1] == pytest.approx(0.5, abs=0.1)


def attack(model, digits) -> tuple[float, float]:
    """How a learned wrong label stands out from a random one of a held-out image, to log-probabilities of at least
    -2 log 10: scikit-learn's AUC, and the difference of the means in nats.
    """
    own, shift = [], torch.randint(1, 10, (200,), generator=torch.Generator().manual_seed(0))
    for part, labels in ((WRONG, digits.given[WRONG]), (VALIDATION, (digits.true[VALIDATION] + shift) % 10)):
        with torch.no_grad():
            own.append(model(digits.images[part]).log_softmax(1).gather(1, labels[:, None])[:, 0])
    clamped = [values.clamp(min=-2 * math.log(10)).mean().item() for values in own]
    return roc_auc_score(np.repeat([1, 0], [100, 200]), torch.cat(own)), clamped[0] - clamped[1]


class TestRun:
    @pytest.mark.parametrize(
        ("method", "options"),
        [
            ("untrain", {"discriminator": "jensen_shannon"}),
            ("untrain_contrastive", {}),
        ],
    )
    def test_forgets_within_the_budget(self, method, options, digits, mislabelled, tmp_path):
        torch.manual_seed(0)
        model = copy.deepcopy(mislabelled)
        outcome = untrain_constrained(
            model, **digits.loaders(WRONG, RIGHT, digits.given), num_epochs=10, learning_rate=0.01, device="cpu",
            precision="fp32", record=QuietRecord(tmp_path), method=method, **options,
        )  # fmt: skip
        assert outcome.method == method and outcome.target == "chance" and hooks(model) == 0
        assert outcome.chosen is not None
        (ends_at,) = (point for point in outcome.dial if point["share"] == outcome.share)
        fall = digits.accuracy(mislabelled, RIGHT) - digits.accuracy(model, RIGHT)
        assert fall <= 1 and ends_at["retain_fall"] == pytest.approx(fall, abs=1e-3)
        assert digits.accuracy(model, WRONG, digits.given) < digits.accuracy(mislabelled, WRONG, digits.given) - 20
        before, after = attack(mislabelled, digits), attack(model, digits)
        assert before[0] > 0.98 and after[0] < before[0] - 0.015 and abs(after[1]) < 0.8 * before[1]
        aucs = outcome.held_out_auc
        assert aucs["original"] > 0.95 and aucs["unlearned"] < aucs["original"] - 0.03
        assert aucs["original"] == outcome.original["discriminator/auc"]
        for epoch in outcome.epochs:
            low, area, high = (epoch[f"discriminator/auc{end}"] for end in ("_low", "", "_high"))
            assert low <= area <= high
            distance = 0 if low <= 0.5 <= high else 2 * max(0, abs(area - 0.5) - 0.05)
            assert epoch["forget/distance"] == pytest.approx(distance)

    @pytest.mark.parametrize("method", DISCRIMINATING)
    def test_ends_by_itself_where_there_is_nothing_to_forget(self, method, digits, tmp_path, hasty):
        """Held-out images lie where unseen images do from the first; auto is the discriminator's criterion."""
        torch.manual_seed(0)
        model, held_out = digits.fit(digits.true), slice(1400, 1600)
        outcome = untrain_constrained(
            model, **digits.loaders(held_out, TRAIN, digits.true), num_epochs=6, learning_rate=1e-4, device="cpu",
            precision="fp32", record=QuietRecord(tmp_path), method=method, forget_target="unseen",
            finetune_num_epochs=0, discriminate="losses",
            **({"discriminator": "logistic"} if method == "untrain" else {}),
        )  # fmt: skip
        at_chance = [epoch["forget/distance"] == 0 for epoch in outcome.epochs]
        assert len(outcome.epochs) == 2 and all(at_chance)
        assert all(abs(epoch["discriminator/auc"] - 0.5) <= 0.05 for epoch in outcome.epochs)

    @pytest.mark.parametrize("method", OURS)
    def test_goes_on_after_weights_that_were_no_numbers(
        self, method, digits, mislabelled, tmp_path, monkeypatch, hasty
    ):
        """The run goes back to where the pass began; then it has to be a run again."""
        taken = []

        def breaking(trainer, step, batch):
            taken.append(1)
            figures = step(batch)
            if len(taken) == 2:
                nn.init.constant_(model_of(trainer)[1].weight, math.nan)
            return figures

        around_steps(breaking, monkeypatch.setattr)
        torch.manual_seed(0)
        model, options = copy.deepcopy(mislabelled), {"discriminator": "jensen_shannon"} if method == "untrain" else {}
        outcome = untrain_constrained(
            model, **digits.loaders(WRONG, RIGHT, digits.given), num_epochs=3, learning_rate=0.01, device="cpu",
            precision="fp32", record=QuietRecord(tmp_path), method=method, log_interval=1, **options,
        )  # fmt: skip
        lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        rewound = [(line["step"], line["forget/rewound"]) for line in lines if "forget/rewound" in line]
        assert len(rewound) == 1 and rewound[0][1] == 0.5 and rewound[0][0] in (3, 4)
        assert outcome.chosen is not None and all(value.isfinite().all() for value in model.state_dict().values())


class TestHooks:
    @pytest.mark.parametrize("method", DISCRIMINATING)
    def test_close_lets_the_model_go(self, method, hasty):
        context = context_of(discriminate="features")
        target = target_of(method, context)
        assert isinstance(target, DiscriminatorTarget) and hooks(context.model) == 0
        target.attach(context.model)
        assert hooks(context.model) == 1
        target.examine(context.model, *context.evaluator.original_outputs["forget"])
        assert hooks(context.model) == 1
        target.detach()
        target.detach()
        assert hooks(context.model) == 0
        assert set(copy.deepcopy(context.model).state_dict()) == set(network().state_dict())
