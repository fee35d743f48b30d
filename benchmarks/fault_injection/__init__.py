"""Faults injected into real processes: the processes, a spy that checks every command, and one function per fault."""
