"""Optimization methods as pure init and step functions, without a loop of their own."""
