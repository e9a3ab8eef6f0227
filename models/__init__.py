"""Image classifiers: small ResNets, every torchvision classifier, and their weights."""

from models.classifiers import get_model

__all__ = ["get_model"]
