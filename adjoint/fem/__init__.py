"""Finite elements on structured grids in 2D and 3D: linear elasticity and density filters."""
