"""Optimizers by name, and schedules against torch's own."""

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from helper_functions.errors import UserError
from models import get_model
from optimizer.optimizers import OPTIMIZERS, build_optimizer
from optimizer.sam import SAM
from optimizer.schedules import SCHEDULES, get_schedule
from optimizer.training import Recipe


def network() -> nn.Module:
    return get_model("resnet8", 3, in_channels=1, width=4)


def rates(optimizer: torch.optim.Optimizer, schedule: lr_scheduler.LRScheduler, steps: int) -> list[float]:
    """The learning rate of each step."""
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def sgd(learning_rate: float = 0.4) -> torch.optim.Optimizer:
    return build_optimizer(nn.Linear(1, 1), Recipe(learning_rate=learning_rate))


class TestBuildOptimizer:
    def test_sgd_is_fused_and_nesterov(self):
        group = build_optimizer(network(), Recipe()).param_groups[0]
        assert group["fused"] and group["nesterov"] and group["momentum"] == 0.9 and group["weight_decay"] == 5e-4

    def test_sgd_without_momentum_has_no_nesterov(self):
        group = build_optimizer(network(), Recipe(momentum=0.0)).param_groups[0]
        assert not group["nesterov"] and group["momentum"] == 0

    def test_adamw(self):
        optimizer = build_optimizer(network(), Recipe(optimizer="adamw", momentum=0.8))
        assert isinstance(optimizer, torch.optim.AdamW)
        assert optimizer.param_groups[0]["betas"] == (0.8, 0.999) and optimizer.param_groups[0]["fused"]

    @pytest.mark.parametrize("use_sam", [False, True])
    def test_norms_and_biases_go_without_decay(self, use_sam):
        model = network()
        optimizer = build_optimizer(model, Recipe(decay_norm_and_bias=False, use_sam=use_sam))
        decayed, free = optimizer.param_groups
        assert decayed["weight_decay"] == 5e-4 and free["weight_decay"] == 0
        assert all(p.ndim > 1 for p in decayed["params"]) and all(p.ndim <= 1 for p in free["params"])
        assert len(decayed["params"]) + len(free["params"]) == len(list(model.parameters()))

    def test_frozen_parameters_are_left_out(self):
        model = network()
        model.conv1.weight.requires_grad_(False)
        members = build_optimizer(model, Recipe()).param_groups[0]["params"]
        assert not any(p is model.conv1.weight for p in members)
        with pytest.raises(UserError, match="gradient"):
            build_optimizer(model.requires_grad_(False), Recipe())

    def test_fused_only_where_it_exists(self):
        with torch.device("meta"):
            assert not build_optimizer(network(), Recipe()).param_groups[0]["fused"]

    @pytest.mark.parametrize("name", list(OPTIMIZERS))
    @pytest.mark.parametrize("adaptive", [False, True])
    def test_sam_wraps_each(self, name, adaptive):
        optimizer = build_optimizer(network(), Recipe(optimizer=name, use_sam=True, adaptive_sam=adaptive, rho=0.2))
        assert isinstance(optimizer, SAM)
        group = optimizer.param_groups[0]
        assert group["rho"] == 0.2 and group["adaptive"] is adaptive and group["fused"]


class TestSchedules:
    @pytest.mark.parametrize(
        ("name", "build"),
        [
            ("cosine", lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 40)),
            ("one_cycle", lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.4, 40, cycle_momentum=False)),
            ("multistep", lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [20, 30], 0.1)),
            ("linear", lambda optimizer: lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 40)),
            ("constant", lambda optimizer: lr_scheduler.ConstantLR(optimizer, 1.0)),
        ],
    )
    def test_matches_torch(self, name, build):
        ours, theirs = sgd(), sgd()
        expected = rates(theirs, build(theirs), 39)
        assert rates(ours, get_schedule(name, ours, 40), 39) == pytest.approx(expected, rel=1e-9, abs=1e-12)

    @pytest.mark.parametrize("name", SCHEDULES)
    def test_is_a_tenth_after_each_of_given_steps(self, name):
        found, plain = sgd(), sgd()
        steps = rates(found, get_schedule(name, found, 12, tenths=[3, 7]), 12)
        expected = rates(plain, get_schedule(name, plain, 12), 12)
        shares = [1.0] * 3 + [0.1] * 4 + [0.01] * 5
        assert steps == pytest.approx([a * b for a, b in zip(expected, shares, strict=True)], rel=1e-9)

    @pytest.mark.parametrize("name", ["cosine", "linear"])
    def test_ends_at_zero_and_stays_there(self, name):
        optimizer = sgd()
        schedule = get_schedule(name, optimizer, 10)
        rates(optimizer, schedule, 10)
        assert optimizer.param_groups[0]["lr"] == 0
        rates(optimizer, schedule, 3)
        assert optimizer.param_groups[0]["lr"] == 0

    @pytest.mark.parametrize("name", ["cosine", "linear", "constant", "multistep"])
    def test_warm_up_climbs_to_the_full_rate(self, name):
        optimizer = sgd(1.0)
        found = rates(optimizer, get_schedule(name, optimizer, 20, warmup_steps=4), 20)
        assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
        assert max(found) == 1.0 and found[5] <= 1.0

    @pytest.mark.parametrize("name", list(SCHEDULES))
    @pytest.mark.parametrize("total", [1, 2, 3, 4, 7])
    def test_the_shortest_runs_work(self, name, total):
        for warmup in range(total):
            optimizer = sgd(1.0)
            found = rates(optimizer, get_schedule(name, optimizer, total, warmup), total + 2)
            assert all(0 <= rate <= 1 for rate in found) and found[0] > 0

    def test_multistep_counts_the_whole_run(self):
        optimizer = sgd(1.0)
        found = rates(optimizer, get_schedule("multistep", optimizer, 20, 4), 20)
        assert found[4:10] == [1.0] * 6 and found[10:15] == [0.1] * 5 and found[15] == pytest.approx(0.01)

    @pytest.mark.parametrize("name", list(SCHEDULES))
    @pytest.mark.parametrize("use_sam", [False, True])
    def test_resumes_exactly(self, name, use_sam, tmp_path):
        def build():
            optimizer = build_optimizer(nn.Linear(1, 1), Recipe(learning_rate=0.3, use_sam=use_sam))
            return optimizer, get_schedule(name, optimizer, 12, warmup_steps=2)

        def run(optimizer, schedule, steps):
            found = []
            for _ in range(steps):
                found.append(optimizer.param_groups[0]["lr"])
                optimizer.second_step() if use_sam else optimizer.step()
                schedule.step()
            return found

        whole = run(*build(), 12)
        optimizer, schedule = build()
        first = run(optimizer, schedule, 7)
        torch.save([optimizer.state_dict(), schedule.state_dict()], tmp_path / "state.pt")
        parts = build()
        for part, state in zip(parts, torch.load(tmp_path / "state.pt", weights_only=True), strict=True):
            part.load_state_dict(state)
        assert first + run(*parts, 5) == whole

    @pytest.mark.parametrize("bad", [{"warmup_steps": -1}, {"warmup_steps": 10}])
    def test_bad_values_are_one_line(self, bad):
        arguments = {"name": "cosine", "optimizer": sgd(), "total_steps": 10} | bad
        with pytest.raises(UserError) as info:
            get_schedule(**arguments)
        assert "\n" not in str(info.value)
