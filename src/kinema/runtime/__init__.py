"""Device, precision, ranks and memory."""
