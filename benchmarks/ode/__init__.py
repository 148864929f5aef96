"""Ordinary differential equations: value and gradient of a misfit through y' = f(t, y, p)."""
