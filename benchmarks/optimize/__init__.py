"""Unconstrained minimization: the methods of `minimize` against their peers on CUTEst problems."""
