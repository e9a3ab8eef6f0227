"""Attacks: what still tells forgotten images from unseen ones."""
