"""The linear adjoint through A(p) x = b: value, gradient, Hessian-vector product; with peers."""
