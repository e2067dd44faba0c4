"""What a person opens to see whether a model is good: measured numbers, clips and plots as one page."""
