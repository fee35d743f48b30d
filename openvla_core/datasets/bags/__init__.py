"""Recordings of ROS 2: written so that a crash loses nothing, and read as episodes."""
