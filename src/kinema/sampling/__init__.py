"""Generation with a trained model: requests, loading and streaming."""
