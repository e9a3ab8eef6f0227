"""What runs a loop: devices, passes, several ranks, compilation."""
