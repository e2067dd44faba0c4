"""kinema: train, sample, measure and serve video generation models on the hardware you have.

Importing the package loads nothing else, so it is instantaneous: import the rooms by name,
as in `from kinema.types import Batch`.
"""

__version__ = "0.1.0"
