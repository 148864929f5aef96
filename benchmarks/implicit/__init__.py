"""Implicit functions: value, gradient and Hessian-vector product through F(x, p) = 0, against their
peers.
"""
