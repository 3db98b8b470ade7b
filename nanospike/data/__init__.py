"""Texts, tasks and metrics: from files to word pieces in batches, from answers to scores."""
