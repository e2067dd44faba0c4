"""Readers of videos and images, folders of clips, and the batches of windows that are taken from them."""
