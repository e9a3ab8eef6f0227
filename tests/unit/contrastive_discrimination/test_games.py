"""Adversarial games: which part learns when, gradients, optima, and continuation from a file."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from torch.nn import functional as F

from contrastive_discrimination.critic import Critic
from contrastive_discrimination.discriminators import DISCRIMINATORS
from contrastive_discrimination.games import CHANCE_LOSS, MEMORY, RIDGE, AdversarialGame, BatchAveragedGame
from contrastive_discrimination.reference import Reference, View, output_statistics

K = 4
NOTHING = torch.zeros(0, dtype=torch.int64)
FORGET_LABELS = torch.arange(64) % K


def seeded(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def law(labels, confidence, seed=0, dtype=torch.float32) -> torch.Tensor:
    """Logits of images whose own class has `confidence` more than the others, on average."""
    noise = torch.randn(len(labels), K, generator=seeded(seed), dtype=dtype)
    return noise + confidence * F.one_hot(labels, K)


def seen_of(logits, labels=FORGET_LABELS) -> torch.Tensor:
    view = View("logits", K, NOTHING)
    return view(logits, None, view.to_go(labels))


def reference(count=400, dtype=torch.float32, match="given") -> Reference:
    """The teacher on unseen images: its confidence in the own class is 1."""
    labels = torch.arange(count) % K
    logits = law(labels, 1.0, seed=1, dtype=dtype)
    return Reference(View("logits", K, NOTHING), match, logits, labels, None, "unseen", FORGET_LABELS)


def adversarial(name="mlp", steps=2, unseen=None) -> AdversarialGame:
    torch.manual_seed(0)
    critic = Critic(DISCRIMINATORS[name](K), learning_rate=3e-3)
    return AdversarialGame(critic, unseen or reference(), steps, seeded(2))


def averaged(group_size=8, unseen=None, statistics=output_statistics) -> BatchAveragedGame:
    return BatchAveragedGame(statistics, unseen or reference(), group_size, seeded(2))


def bits(critic) -> list[bytes]:
    state = critic.state_dict()
    slots = [value for slot in state["optimizer"].get("state", {}).values() for value in slot.values()]
    return [value.numpy().tobytes() for value in (*state["discriminator"].values(), *slots)]


def play(game, logits, rounds, learning_rate) -> torch.Tensor:
    """A student whose parameters are its logits on 64 forget images; Adam's steps, and the game's turn after each."""
    logits = logits.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], learning_rate)
    for _ in range(rounds):
        optimizer.zero_grad()
        game.loss(seen_of(logits), FORGET_LABELS)[0].backward()
        optimizer.step()
        game.commit()
    return logits.detach()


@pytest.fixture
def brief(monkeypatch) -> None:
    monkeypatch.setattr("contrastive_discrimination.games.WARM_UP_STEPS", 10)


class TestAdversarial:
    @pytest.mark.parametrize("name", DISCRIMINATORS)
    def test_gradient_reaches_the_students_outputs_alone(self, name, brief):
        game = adversarial(name)
        game.warm_up(seen_of(law(FORGET_LABELS, 5.0)), FORGET_LABELS, 32)
        game.reference.logits.requires_grad_()
        before, teacher = bits(game.critic), game.reference.logits.detach().clone()
        outputs = seen_of(law(FORGET_LABELS, 3.0)).requires_grad_()
        loss, passing = game.loss(outputs, FORGET_LABELS)
        (gradient,) = torch.autograd.grad(loss, outputs, retain_graph=True)
        assert gradient.isfinite().all() and gradient.abs().max() > 0
        loss.backward()
        parameters = list(game.critic.discriminator.parameters())
        assert all(parameter.grad is None and parameter.requires_grad for parameter in parameters)
        assert torch.equal(game.reference.logits, teacher) and bits(game.critic) == before
        assert loss.shape == passing.shape == () and not passing.requires_grad

    def test_loss_is_that_of_its_logits(self, brief):
        """−log P(same) of pairs (student, teacher), and the share of them that are called the same."""
        games, outputs = [], seen_of(law(FORGET_LABELS, 3.0))
        for _ in range(2):
            games.append(adversarial())
            games[-1].warm_up(outputs, FORGET_LABELS, 32)
        game, twin = games
        loss, passing = game.loss(outputs, FORGET_LABELS)
        _, beside = twin.reference.draw(FORGET_LABELS, twin.generator)
        judged = twin.critic.judge(outputs, twin.reference.outputs(beside, twin.generator)).detach().double()
        assert loss.item() == pytest.approx(-torch.sigmoid(judged).log().mean().item(), rel=1e-5)
        assert passing.item() == pytest.approx((judged > 0).double().mean().item())

    @pytest.mark.parametrize("name", DISCRIMINATORS)
    def test_the_critic_learns_in_its_turns_alone(self, name, brief):
        game, outputs, history = adversarial(name), seen_of(law(FORGET_LABELS, 4.0)), []
        history.append(bits(game.critic))
        game.warm_up(outputs, FORGET_LABELS, 16)
        history.append(bits(game.critic))
        game.loss(outputs, FORGET_LABELS)
        assert bits(game.critic) == history[-1]
        figures = game.commit()
        history.append(bits(game.critic))
        assert history[0] != history[1] != history[2]
        assert list(figures) == ["classifier/loss", "classifier/accuracy"]
        assert all(value.shape == () and not value.requires_grad for value in figures.values())

    def test_takes_as_many_steps_as_asked_and_gives_the_figures_before_them(self):
        found = []
        for steps in (1, 4):
            game, outputs = adversarial(steps=steps), seen_of(law(FORGET_LABELS, 4.0))
            torch.manual_seed(3)  # of dropout
            game.loss(outputs, FORGET_LABELS)
            found.append({name: value.item() for name, value in game.commit().items()})
            counts = {slot["step"].item() for slot in game.critic.state_dict()["optimizer"]["state"].values()}
            assert counts == {steps}
        assert found[0] == found[1]

    def test_learns_once_a_step_from_the_outputs_of_the_first_call(self):
        """SAM calls the loss twice a step, the second time at perturbed weights."""
        learned = []
        for second in (None, 9.0, -9.0):
            game, outputs = adversarial(steps=1), seen_of(law(FORGET_LABELS, 4.0))
            game.critic.learn = lambda same, different: learned.append(different[0].clone()) or {}
            game.loss(outputs.requires_grad_(), FORGET_LABELS)
            if second is not None:
                game.loss(seen_of(law(FORGET_LABELS, second)), FORGET_LABELS)
            game.commit()
            assert torch.equal(learned[-1], outputs.detach()) and not learned[-1].requires_grad
            later = seen_of(law(FORGET_LABELS, 1.0, seed=8))
            game.loss(later, FORGET_LABELS)
            game.commit()
            assert torch.equal(learned[-1], later)
        assert len(learned) == 6

    def test_one_law_leaves_the_critic_at_chance(self):
        game, generator, losses = adversarial(steps=1), seeded(5), []

        def fresh(count):
            labels = torch.randint(K, (count,), generator=generator)
            noise = torch.randn(count, K, generator=generator)
            return seen_of(noise + F.one_hot(labels, K), labels), labels

        game.reference = reference(8000)
        for _ in range(150):
            losses.append(game.loss(*fresh(128))[0].item())
            game.commit()
        assert np.mean(losses[50:]) == pytest.approx(CHANCE_LOSS, abs=0.03) and math.log(2) == CHANCE_LOSS
        outputs, labels = fresh(3000)
        first, second = game.reference.draw(labels, generator)
        seen = [game.reference.outputs(rows, generator) for rows in (first, second)]
        scores = [game.critic.judge(one, seen[1]).detach() for one in (seen[0], outputs)]
        # The standard error of an AUC of two times 3000 scores is 0.0075.
        assert roc_auc_score(np.repeat([1, 0], 3000), torch.cat(scores)) == pytest.approx(0.5, abs=0.03)

    def test_descent_brings_separate_outputs_to_the_reference(self):
        game, start = adversarial(), law(FORGET_LABELS, 7.0)
        game.warm_up(seen_of(start), FORGET_LABELS, 64)
        with torch.no_grad():
            assert game.loss(seen_of(start), FORGET_LABELS)[0] > 2
        game.commit()
        end = play(game, start, rounds=150, learning_rate=0.1)
        goal = seen_of(game.reference.logits, game.reference.labels)
        before, after = seen_of(start), seen_of(end)
        assert (before[:, 0].mean() - goal[:, 0].mean()).abs() > 1
        assert after[:, 0].mean().item() == pytest.approx(goal[:, 0].mean().item(), abs=0.3)
        assert after[:, 0].exp().mean().item() == pytest.approx(goal[:, 0].exp().mean().item(), abs=0.1)
        # Not the mean alone: single images differ as the reference's do.
        assert after[:, 0].std().item() == pytest.approx(goal[:, 0].std().item(), rel=0.5)

    @pytest.mark.parametrize("name", ["mlp", "logistic", "scalar_product"])
    def test_goes_on_from_a_file_bit_for_bit(self, name, tmp_path, brief):
        game, start = adversarial(name), law(FORGET_LABELS, 4.0)
        game.warm_up(seen_of(start), FORGET_LABELS, 16)
        play(game, start, 3, 0.1)
        torch.save(game.state_dict(), tmp_path / "game.pt")
        other = adversarial(name)
        other.load_state_dict(torch.load(tmp_path / "game.pt", weights_only=True))
        ends = []
        for each in (game, other):
            torch.manual_seed(4)
            ends.append(play(each, start, 4, 0.1))
        assert torch.equal(*ends) and not torch.equal(ends[0], start)
        assert bits(game.critic) == bits(other.critic)
        assert torch.equal(game.generator.get_state(), other.generator.get_state())


def by_hand(game, outputs, labels, recent=None) -> tuple[float, float, np.ndarray, dict]:
    """The loss, the passing share, scikit-learn's coefficients and the figures, one group at a time.

    `game` is at the same place of its generator as the one that this is compared with.
    """
    size, generator = game.average.group_size, game.generator
    statistics = game.statistics(outputs.detach())
    forget, all_labels = statistics, labels
    if recent is not None:
        forget, all_labels = torch.cat([recent[0], statistics]), torch.cat([recent[1], labels])
    forget, all_labels = forget[-MEMORY:], all_labels[-MEMORY:]
    unseen = [game.statistics(game.reference.outputs(i, generator)) for i in game.reference.draw(all_labels, generator)]
    unseen = torch.cat(unseen).double().numpy()
    mean, std = unseen.mean(0), np.maximum(unseen.std(0, ddof=1), 1e-3)

    def group(rows):
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    means, weights, targets = [], [], []
    for kind, rows in enumerate((forget.double().numpy(), unseen)):
        order = torch.randperm(len(rows), generator=generator).numpy()
        groups = group((rows[order] - mean) / std)
        means += [members.mean(0) for members in groups]
        # The unseen images are twice as many; both kinds weigh the same.
        weights += [len(members) / size / (1 if kind == 0 else 2) for members in groups]
        targets += [kind] * len(groups)
    means, weights, targets = np.array(means), np.array(weights), np.array(targets)
    solver = LogisticRegression(C=1 / RIDGE, solver="newton-cholesky", tol=1e-12, max_iter=10_000)
    solver.fit(means, targets, sample_weight=weights)
    coefficients = np.append(solver.coef_[0], solver.intercept_)
    probability = solver.predict_proba(means)[:, 1]
    log_losses = -np.where(targets == 1, np.log(probability), np.log(1 - probability))
    figures = {
        "classifier/loss": (weights * log_losses).sum() / weights.sum(),
        "classifier/accuracy": 100 * ((probability > 0.5) == targets).mean(),
    }
    loss = passing = 0.0
    for members in group((statistics.double().numpy() - mean) / std):
        logit = members.mean(0) @ coefficients[:-1] + coefficients[-1]
        loss += len(members) / len(labels) * math.log1p(math.exp(-logit))
        passing += len(members) / len(labels) * (logit > 0)
    return loss, passing, coefficients, figures


class TestBatchAveraged:
    @pytest.mark.parametrize("group_size", [1, 5, 8, 64, 100])
    @pytest.mark.parametrize("confidence", [1.5, 5.0])
    def test_against_scikit_learn_one_group_at_a_time(self, group_size, confidence):
        """With remainders, whose groups weigh by their members, and with one group of all."""
        game, twin = (averaged(group_size, reference(dtype=torch.float64)) for _ in range(2))
        for number, size in enumerate((19, 33)):
            labels = FORGET_LABELS[:size]
            outputs = seen_of(law(labels, confidence, seed=10 + number, dtype=torch.float64), labels)
            recent, solved, refit = game.recent, [], type(game)._refit
            game._refit = lambda *kinds, refit=refit, solved=solved: solved.append(refit(game, *kinds)) or solved[0]
            loss, passing = game.loss(outputs.requires_grad_(), labels)
            expected, share, coefficients, figures = by_hand(twin, outputs, labels, recent)
            np.testing.assert_allclose(solved[0].numpy(), coefficients, atol=1e-4, rtol=1e-4)
            assert loss.item() == pytest.approx(expected, rel=1e-4) and passing.item() == pytest.approx(share)
            found = {name: value.item() for name, value in game.commit().items()}
            assert found == pytest.approx(figures, rel=1e-4)
            assert len(game.recent[0]) == 19 + (33 if number else 0)

    @pytest.mark.parametrize(("size", "group_size"), [(12, 4), (13, 4), (3, 16)])
    def test_gradient_is_that_of_finite_differences_with_the_coefficients_held_fixed(self, size, group_size):
        game, labels = averaged(group_size, reference(dtype=torch.float64)), FORGET_LABELS[:size]
        logits, solved = law(labels, 4.0, dtype=torch.float64), []
        refit = game._refit

        def once(forget, unseen):
            if not solved:
                solved.append(refit(forget, unseen))
            return solved[0]

        game._refit = once
        start = game.generator.get_state()

        def loss(logits):
            game.generator.set_state(start)
            return game.loss(seen_of(logits, labels), labels)[0]

        logits.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(logits), logits)
        assert gradient.abs().max() > 1e-3 and solved[0].abs().max() > 0.05
        assert torch.autograd.gradcheck(loss, logits, eps=1e-6, atol=1e-8)

    def test_remainders_weigh_by_their_members(self):
        """A gradient of one image in a linear statistic is the same in a whole group as in a smaller one's place."""
        game, labels = averaged(8, reference(dtype=torch.float64), lambda outputs: outputs), FORGET_LABELS[:9]
        outputs = seen_of(law(labels, 1.0, dtype=torch.float64), labels)
        outputs = outputs[:1].expand(9, -1).clone().requires_grad_()
        loss, _ = game.loss(outputs, labels)
        (gradient,) = torch.autograd.grad(loss, outputs)
        assert gradient.abs().max() > 1e-4
        torch.testing.assert_close(gradient, gradient[:1].expand(9, -1))

    def test_nothing_flows_into_the_teacher_or_the_memory(self):
        game, labels = averaged(), FORGET_LABELS
        teacher = game.reference.logits.detach().clone()
        outputs = seen_of(law(labels, 4.0)).requires_grad_()
        game.loss(outputs, labels)[0].backward()
        figures = game.commit()
        assert outputs.grad.abs().max() > 0
        assert torch.equal(game.reference.logits, teacher) and not game.recent[0].requires_grad
        assert all(value.shape == () and not value.requires_grad for value in figures.values())

    def test_memory_is_of_the_latest_images_and_bounded(self):
        game, labels, everything = averaged(), torch.arange(200) % K, []
        for number in range(5):
            outputs = seen_of(law(labels, 3.0, seed=number), labels)
            before = game.recent
            game.loss(outputs, labels)
            assert game.recent is before, "only commit keeps the batch"
            # SAM calls the loss twice a step; the first outputs are kept.
            game.loss(outputs + 1, labels)
            assert game.recent is before
            game.commit()
            everything.append(output_statistics(outputs))
            expected = torch.cat(everything)[-MEMORY:]
            assert torch.equal(game.recent[0], expected)
            assert torch.equal(game.recent[1], labels.repeat(number + 1)[-MEMORY:])
        assert len(game.recent[0]) == MEMORY < 1000

    def test_a_batch_larger_than_the_memory_pushes_all_of_its_images(self):
        game, labels = averaged(), torch.arange(MEMORY + 88) % K
        for _ in range(2):
            outputs = seen_of(law(labels, 3.0), labels).requires_grad_()
            game.loss(outputs, labels)[0].backward()
            game.commit()
            assert (outputs.grad.abs().sum(1) > 0).all() and len(game.recent[0]) == MEMORY

    def test_the_teachers_own_outputs_are_at_chance(self):
        game, losses, figures = averaged(unseen=reference(4000)), [], []
        for number in range(40):
            labels = torch.arange(128) % K
            losses.append(game.loss(seen_of(law(labels, 1.0, seed=100 + number), labels), labels)[0].item())
            figures.append(game.commit()["classifier/loss"].item())
        assert np.mean(losses[5:]) == pytest.approx(CHANCE_LOSS, abs=0.03)
        assert np.mean(figures[5:]) == pytest.approx(CHANCE_LOSS, abs=0.05)

    def test_descent_brings_separate_outputs_to_the_reference(self):
        """A logistic regression of scikit-learn's tells images that it has not seen at first, and then does not."""
        game, start = averaged(), law(FORGET_LABELS, 6.0)
        end = play(game, start, rounds=120, learning_rate=0.05)
        areas, goal = [], seen_of(game.reference.logits, game.reference.labels)
        for logits in (start, end):
            both = torch.cat([output_statistics(seen_of(logits)), output_statistics(goal)])
            both = (both - both.mean(0)) / both.std(0)
            kind = np.repeat([0, 1], [64, len(goal)])
            regression = LogisticRegression(max_iter=1000, class_weight="balanced")
            scores = cross_val_predict(regression, both.numpy(), kind, cv=4, method="decision_function")
            areas.append(roc_auc_score(kind, scores))
        assert areas[0] > 0.95 and areas[1] < 0.62
        assert seen_of(end)[:, 0].mean().item() == pytest.approx(goal[:, 0].mean().item(), abs=0.2)

    def test_certain_outputs_are_pulled_back_and_stay_finite(self):
        game, labels = averaged(), FORGET_LABELS
        logits = (1e4 * F.one_hot(labels, K)).float().requires_grad_()
        loss, passing = game.loss(seen_of(logits), labels)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.isfinite() and gradient.isfinite().all() and passing == 0

    def test_goes_on_from_a_file_bit_for_bit(self, tmp_path):
        game, start = averaged(), law(FORGET_LABELS, 4.0)
        for rounds in (0, 3):
            play(game, start, rounds, 0.1)
            torch.save(game.state_dict(), tmp_path / "game.pt")
            other = averaged()
            other.generator.manual_seed(99)
            other.load_state_dict(torch.load(tmp_path / "game.pt", weights_only=True))
            assert torch.equal(play(game, start, 4, 0.1), play(other, start, 4, 0.1))
            assert torch.equal(game.recent[0], other.recent[0]) and torch.equal(game.recent[1], other.recent[1])
            assert torch.equal(game.generator.get_state(), other.generator.get_state())


@pytest.mark.parametrize("build", [lambda: adversarial("scalar_product"), averaged])
def test_nothing_but_dropout_draws_from_the_global_generator(build):
    game, before = build(), torch.get_rng_state()
    play(game, law(FORGET_LABELS, 4.0), 2, 0.1)
    assert torch.equal(torch.get_rng_state(), before)
