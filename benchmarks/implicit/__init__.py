"""Implicit functions through F(x, p) = 0: value, gradient, Hessian-vector product; with peers."""
