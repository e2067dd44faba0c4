"""Diffusion and flow matching as pure functions: paths, times, guidance, solvers and training tasks."""
