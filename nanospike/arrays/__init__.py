"""Arrays of NumPy or CuPy, trees of them, differentiable functions on them, and threads to share the work."""
