"""How fast the host, a model and its training step are, how many products they take, and how much memory."""
