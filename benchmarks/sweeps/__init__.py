"""Many runs of the scripts, on one machine or several."""
