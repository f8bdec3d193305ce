"""`softeq audit`: the equivariance of networks, measured and reported."""
