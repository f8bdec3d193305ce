"""Training and the choice of hyperparameters."""
