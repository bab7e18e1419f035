"""Papers of the family ``landscape``: loss landscapes, sharpness and the dynamics of stochastic gradient descent."""
