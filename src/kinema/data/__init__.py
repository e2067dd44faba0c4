"""Reading video, sound and image strips; folders of clips; batches of windows cut from them."""
