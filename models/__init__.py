"""Image classifiers: small ResNets, every torchvision classifier, and their weights."""

from models.classifiers import get_model, list_models
from models.weights import infer_stem, load_state, reinitialised

__all__ = ["get_model", "infer_stem", "list_models", "load_state", "reinitialised"]
