"""What a model is and what a command can be asked for: flat frozen records."""
