"""The digits of scikit-learn with wrong labels among them."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

TRAIN, UNSEEN, VALIDATION, TEST = slice(0, 1000), slice(1000, 1200), slice(1200, 1400), slice(1400, None)


class Digits:
    """scikit-learn's digits in a fixed random order, a tenth of the training labels wrong."""

    def __init__(self) -> None:
        images, labels = load_digits(return_X_y=True)
        generator = torch.Generator().manual_seed(1)
        order = torch.randperm(len(labels), generator=generator)
        self.images = torch.from_numpy(images)[order].float().reshape(-1, 1, 8, 8) / 16
        self.true = torch.from_numpy(labels)[order]
        self.given = self.true.clone()
        self.given[:100] = (self.true[:100] + torch.randint(1, 10, (100,), generator=generator)) % 10

    def loader(self, part, labels=None, batch_size=32, **options) -> DataLoader:
        dataset = TensorDataset(self.images[part], (self.true if labels is None else labels)[part])
        return DataLoader(dataset, batch_size, shuffle=True, **options)

    def fit(self, labels) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(150):
            optimizer.zero_grad()
            F.cross_entropy(model(self.images[TRAIN]), labels[TRAIN]).backward()
            optimizer.step()
        return model.eval()

    def accuracy(self, model, part, labels=None) -> float:
        labels = self.true if labels is None else labels
        with torch.no_grad():
            return 100 * (model(self.images[part]).argmax(1) == labels[part]).float().mean().item()

    def loaders(self, forget, retain, labels) -> dict:
        return {
            "retainloader": self.loader(retain, labels), "forgetloader": self.loader(forget, labels),
            "unseenloader": self.loader(UNSEEN), "validloader": self.loader(VALIDATION),
        }  # fmt: skip


WRONG, RIGHT = slice(0, 100), slice(100, 1000)
