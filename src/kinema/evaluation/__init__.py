"""From clips to results: what is measured, what is kept of it, the numbers, and whether these can be trusted."""
