"""Data sets, splits, forget sets, loaders on the device, augmentation, and label corruption."""
