"""The mechanism of mutants: code found by its tokens or refused, and copies of the library."""

import pytest
from mutation import Mutant, library, occurrences

import adjoint


def test_code_is_found_by_its_tokens() -> None:
    code = "def f(x):\n    return g(\n        x + 1,  # why\n        y,\n    )\n"
    ((begin, end),) = occurrences("g(x + 1, y)", code)
    assert code[begin:end] == code[code.index("g(") : code.rindex(")") + 1]
    for other in ("g(x + 1)", "f(x): return g(x - 1", "(x+1,y,)z"):
        assert list(occurrences(other, code)) == []
    assert len(list(occurrences("x", code))) == 2


def test_a_mutant_without_its_text_is_refused() -> None:
    gone = Mutant("gone", "linear/solve.py", "no such text", "", "dense_gradient")
    with pytest.raises(LookupError, match=r"stands 0 times in linear/solve\.py"):
        gone.source()


def test_a_copy_shares_no_code_with_the_library() -> None:
    with library(None) as copy:
        assert copy.solve.linear_solve is not adjoint.linear_solve
        assert copy.factor_cache.factor_cache is not adjoint.factor_cache
        assert copy.sparse.factor_cache is copy.factor_cache.factor_cache
