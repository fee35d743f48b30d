"""Training: everything a recipe needs, importable and free of ROS."""
