"""Every method, tuned alike, side by side."""
