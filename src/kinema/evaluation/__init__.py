"""Evaluation: sets of clips, what is measured and kept of them, results, comparisons and audits."""
