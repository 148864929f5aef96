"""Finite elements on structured grids in two and three dimensions: linear elasticity and density
filters.
"""
