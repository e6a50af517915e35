"""Self-supervised pre-training methods."""
