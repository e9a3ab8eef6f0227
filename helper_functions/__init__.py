"""Config, metrics, the loop, the run's record, checkpoints, devices."""

from helper_functions.files import load_config, save_config
from helper_functions.metrics import _grad_norm, calculate_accuracy, calculate_binary_accuracy

__all__ = ["_grad_norm", "calculate_accuracy", "calculate_binary_accuracy", "load_config", "save_config"]
