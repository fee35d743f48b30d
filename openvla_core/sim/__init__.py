"""The embedded tabletop: a primitive-geometry Panda, coloured cubes, tasks, an expert and success checks."""
