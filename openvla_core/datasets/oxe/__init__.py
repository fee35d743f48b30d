"""Open X-Embodiment: its data sets, what standardises them, what is left out, how they are mixed."""
