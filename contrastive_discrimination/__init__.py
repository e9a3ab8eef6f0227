"""Can two kinds of pairs of outputs be told apart? Discriminators, what trains them, and how well they do."""
