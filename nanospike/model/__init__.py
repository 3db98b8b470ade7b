"""The graph, its neurons, its equilibrium, its run spike by spike; the teacher and the student."""
