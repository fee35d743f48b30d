"""Closed-loop evaluation: which episodes to run, how to count them, and how to show them. No ROS, no torch."""
