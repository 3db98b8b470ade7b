"""The loop, the optimiser, what distillation teaches, checkpoints, several processes."""
