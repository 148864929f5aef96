"""The linear adjoint: value, gradient and Hessian-vector product through A(p) x = b, against its
peers.
"""
