"""How long one action takes and how much of that the machine asks for: `openvla bench`. See docs/benchmark.md."""
