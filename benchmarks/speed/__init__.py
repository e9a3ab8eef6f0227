"""How fast a step is, and what the cost of unlearning grows with."""
