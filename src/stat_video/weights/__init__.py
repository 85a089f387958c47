"""Files of weights, of this project and of others: what is in them, and which order of classes they have."""
