"""Measures of generated video: one metric, one file."""
