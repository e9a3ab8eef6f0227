"""The leaderboard: every method, tuned with equally many trials, side by side."""
