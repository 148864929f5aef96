"""Solutions x(p) of F(x, p) = 0 and their derivatives by the implicit function theorem."""
