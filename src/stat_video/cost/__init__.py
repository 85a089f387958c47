"""What a model and its training cost, before anything is run."""
