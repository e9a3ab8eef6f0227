"""SAM against its formulas, a plain reimplementation, and the promises about storage and state."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from helper_functions.training.batch_norm import no_running_stats_update
from models import get_model
from optimizer.sam import SAM

HESSIAN = torch.tensor([[3.0, 0.5], [0.5, 1.0]])
START = torch.tensor([1.0, -2.0])


def quadratic(weight: torch.Tensor) -> torch.Tensor:
    return weight @ HESSIAN.to(weight) @ weight / 2


def batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(6, 1, 8, 8, generator=generator), torch.randint(0, 3, (6,), generator=generator))
        for _ in range(count)
    ]


def network() -> nn.Module:
    torch.manual_seed(0)
    return get_model("resnet8", 3, in_channels=1, width=4)


def values(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def backward(model, inputs, labels) -> None:
    F.cross_entropy(model(inputs), labels).backward()


def take_step(model, optimizer, inputs, labels) -> None:
    """A whole step; batch statistics move in its first pass alone."""
    optimizer.zero_grad()
    backward(model, inputs, labels)
    optimizer.first_step()
    with no_running_stats_update(model):
        backward(model, inputs, labels)
    optimizer.second_step()


class TestFormula:
    @pytest.mark.parametrize("adaptive", [False, True])
    def test_one_step_on_a_quadratic(self, adaptive):
        weight = nn.Parameter(START.clone())
        optimizer = SAM([weight], torch.optim.SGD, rho=0.3, adaptive=adaptive, lr=0.1)
        quadratic(weight).backward()
        optimizer.first_step()
        scale, gradient = START.abs() + 0.01 if adaptive else torch.ones(2), HESSIAN @ START
        worst = START + 0.3 * scale**2 * gradient / (scale * gradient).norm()
        torch.testing.assert_close(weight.detach(), worst)
        quadratic(weight).backward()
        optimizer.second_step()
        torch.testing.assert_close(weight.detach(), START - 0.1 * HESSIAN @ worst)

    def test_groups_share_the_norm_and_have_their_own_rho(self):
        first, second, third = (nn.Parameter(torch.full((3,), value)) for value in (1.0, 2.0, 3.0))
        groups = [
            {"params": [first], "rho": 0.5},
            {"params": [second], "rho": 0.0},
            {"params": [third], "adaptive": True},
        ]
        optimizer = SAM(groups, torch.optim.SGD, rho=0.1, lr=1.0)
        (first.sum() + 2 * second.sum() + 3 * third.sum()).backward()
        optimizer.first_step()
        norm = (3 * (1 + 4 + (3.01 * 3) ** 2)) ** 0.5
        torch.testing.assert_close(first.detach(), torch.full((3,), 1 + 0.5 / norm))
        torch.testing.assert_close(second.detach(), torch.full((3,), 2.0))
        torch.testing.assert_close(third.detach(), torch.full((3,), 3 + 0.1 * 3.01**2 * 3 / norm))

    @pytest.mark.parametrize("adaptive", [False, True])
    def test_matches_a_plain_reimplementation_over_20_steps(self, adaptive):
        model, reference = network(), network()
        options = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}
        optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.1, adaptive=adaptive, **options)
        plain = torch.optim.SGD(reference.parameters(), **options)
        for inputs, labels in batches(20):
            take_step(model, optimizer, inputs, labels)
            plain_step(reference, plain, inputs, labels, rho=0.1, adaptive=adaptive)
        for ours, theirs in zip(model.state_dict().values(), reference.state_dict().values(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def plain_step(model, optimizer, inputs, labels, rho, adaptive):
    """Algorithm 1 of Foret et al. 2021 on a copy of the model: slow, and without any state to get wrong."""
    optimizer.zero_grad()
    backward(model, inputs, labels)
    scales = [p.detach().abs() + 0.01 if adaptive else torch.ones_like(p) for p in model.parameters()]
    pairs = [(scale, p.grad) for scale, p in zip(scales, model.parameters(), strict=True)]
    norm = torch.cat([(scale * grad).flatten() for scale, grad in pairs]).norm()
    elsewhere = copy.deepcopy(model)
    elsewhere.zero_grad()
    with torch.no_grad():
        for p, (scale, grad) in zip(elsewhere.parameters(), pairs, strict=True):
            p += rho * scale**2 * grad / norm
    backward(elsewhere, inputs, labels)
    for p, other in zip(model.parameters(), elsewhere.parameters(), strict=True):
        p.grad = other.grad
    optimizer.step()


class TestInPlace:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
    def test_restores_bit_for_bit_in_the_same_storage(self, dtype):
        model = network().to(dtype)
        optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.7, adaptive=True, lr=0.0)
        addresses = [p.data_ptr() for p in model.parameters()]
        before = values(model)
        for inputs, labels in batches(3):
            backward(model, inputs.to(dtype), labels)
            optimizer.first_step()
            assert not all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
            backward(model, inputs.to(dtype), labels)
            optimizer.second_step()
            optimizer.zero_grad()
            assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
        assert addresses == [p.data_ptr() for p in model.parameters()]
        assert all(p.grad is None for p in model.parameters())

    def test_buffers_are_allocated_once(self):
        weight = nn.Parameter(START.clone())
        optimizer = SAM([weight], torch.optim.SGD, lr=0.1)
        addresses = set()
        for _ in range(3):
            quadratic(weight).backward()
            optimizer.first_step()
            addresses.add(optimizer._kept[weight].data_ptr())
            optimizer.second_step()
        assert len(addresses) == 1

    def test_first_step_reads_nothing_back_from_the_device(self):
        class NoReads(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                assert func is not torch.ops.aten._local_scalar_dense.default, "a value was read back"
                return func(*args, **(kwargs or {}))

        model = network()
        optimizer = SAM(model.parameters(), torch.optim.SGD, adaptive=True, lr=0.1)
        backward(model, *batches(1)[0])
        with NoReads():
            optimizer.first_step()

    def test_parameters_without_gradient_stay(self):
        used, unused, late = (nn.Parameter(torch.ones(2)) for _ in range(3))
        optimizer = SAM([used, unused, late], torch.optim.SGD, lr=0.1)
        used.sum().backward()
        optimizer.first_step()
        assert torch.equal(unused, torch.ones(2)) and torch.equal(late, torch.ones(2))
        late.sum().backward()
        optimizer.second_step()
        torch.testing.assert_close(late.detach(), torch.full((2,), 0.9))
        assert torch.equal(unused, torch.ones(2))

    def test_zero_gradient_moves_nothing(self):
        weight = nn.Parameter(torch.zeros(2))
        optimizer = SAM([weight], torch.optim.SGD, lr=0.1)
        quadratic(weight).backward()
        optimizer.first_step()
        optimizer.second_step()
        assert torch.equal(weight, torch.zeros(2))

    def test_infinite_gradients_do_not_reach_the_restored_weights(self):
        weight = nn.Parameter(START.clone())
        optimizer = SAM([weight], torch.optim.SGD, lr=0.0)
        weight.grad = torch.full((2,), float("inf"))
        optimizer.first_step()
        weight.grad = torch.zeros(2)
        optimizer.second_step()
        assert torch.equal(weight, START)


class TestState:
    @pytest.mark.parametrize(
        ("base", "options"),
        [(torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "fused": True}), (torch.optim.AdamW, {"fused": True})],
    )
    def test_a_reloaded_run_goes_on_identically(self, base, options, tmp_path):
        data = batches(8)
        model = network()
        optimizer = SAM(model.parameters(), base, rho=0.2, lr=0.01, **options)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
        for inputs, labels in data[:5]:
            take_step(model, optimizer, inputs, labels)
            scheduler.step()
        path = tmp_path / "state.pt"
        torch.save([model.state_dict(), optimizer.state_dict(), scheduler.state_dict()], path)
        again = network()
        resumed = SAM(again.parameters(), base, rho=0.9, lr=1.0, **options)
        following = torch.optim.lr_scheduler.StepLR(resumed, 2, 0.5)
        for part, state in zip((again, resumed, following), torch.load(path, weights_only=True), strict=True):
            part.load_state_dict(state)
        assert resumed.param_groups[0]["rho"] == 0.2
        for inputs, labels in data[5:]:
            for net, stepper, schedule in ((model, optimizer, scheduler), (again, resumed, following)):
                take_step(net, stepper, inputs, labels)
                schedule.step()
        assert optimizer.param_groups[0]["lr"] == resumed.param_groups[0]["lr"]
        for ours, theirs in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
            assert torch.equal(ours, theirs)

    @pytest.mark.filterwarnings("error")
    def test_schedulers_and_new_groups_reach_the_base_optimizer(self):
        first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        optimizer = SAM([first], torch.optim.SGD, lr=1.0)
        optimizer.add_param_group({"params": [second], "rho": 0.5})
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)
        optimizer.second_step()
        scheduler.step()
        assert optimizer.base_optimizer.param_groups is optimizer.param_groups
        for step in (optimizer.first_step, optimizer.second_step):
            (first + second).sum().backward()
            step()
        torch.testing.assert_close(torch.cat([first, second]).detach(), torch.full((2,), -0.1))
