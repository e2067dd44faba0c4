"""The input layer: what a caller may give, made into what a network can use."""
