"""Folders of a user's own pictures: what is in them, decoding by all cores, and one file of pixels a machine."""
