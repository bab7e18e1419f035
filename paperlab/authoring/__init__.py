"""What contributors use: laying out a new paper, and writing what is generated."""
