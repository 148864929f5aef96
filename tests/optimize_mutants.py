"""Mutants of `minimize`, of its judgement above all, each killed by a check in its test file."""

from mutation import Mutant

_STOPPING = "optimize/stopping.py"
_STAGES = "optimize/stages.py"
_RUN = "optimize/run.py"
_PROGRESS = "optimize/progress.py"
_CHECK = "optimize/derivative_check.py"
_STATEMENT = "optimize/statement.py"
_LAGRANGIAN = "optimize/lagrangian.py"
_SQP = "optimize/sqp.py"
_MMA = "optimize/mma.py"
_STATUS = "status.py"
_NORM = "norm.py"

OPTIMIZE_MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "slopes held against what was gained, not against f",
        _STOPPING,
        "evidence.slope <= share * jnp.abs(evidence.value)",
        "evidence.slope <= share * evidence.total",
        "huge_start",
    ),
    Mutant(
        "zero beside what was gained is enough",
        _STOPPING,
        "is_zero(evidence.value, evidence.total) & at_zero",
        "is_zero(evidence.value, evidence.total)",
        "huge_start",
    ),
    Mutant(
        "no second derivatives in success",
        _STOPPING,
        "beside_f = beside_f & predicts_nothing(evidence)",
        "pass",
        "conditions",
    ),
    Mutant(
        "singular zeros not looked into",
        _STOPPING,
        "return at_zero & flat & is_zero(evidence.value, evidence.total)",
        "return at_zero & ~at_zero",
        "conditions",
    ),
    Mutant(
        "what has faded is no success",
        _STOPPING,
        "(recently & near) | newton | evidence.faded",
        "(recently & near) | newton",
        "zero_at_zero",
    ),
    Mutant(
        "noise hides nothing",
        _STOPPING,
        "return evidence.slope <= most * jnp.sqrt(evidence.rounding * scale)",
        "return evidence.slope < 0 * scale",
        "noise",
    ),
    Mutant(
        "the success of slopes is final",
        _STAGES,
        "retry += (Status.SUCCESS,) if to_confirm else ()",
        "pass",
        "plateau",
    ),
    Mutant(
        "what confirms does not count",
        _STAGES,
        "return (earlier.code != Status.SUCCESS.code) | lower | told",
        "return earlier.code != Status.SUCCESS.code",
        "plateau",
    ),
    Mutant(
        "f has no unit",
        _RUN,
        "jnp.where(run.unit > 0, run.unit, power_of_two(size))",
        "jnp.ones_like(size)",
        "unit_of_f",
    ),
    Mutant(
        "noise not in the unit of f",
        _RUN,
        "noise=domain.noise / run.unit",
        "noise=domain.noise",
        "unit_of_noise",
    ),
    Mutant(
        "atol not in the unit of f",
        _RUN,
        "limits._replace(atol=limits.atol / run.unit)",
        "limits",
        "unit_of_atol",
    ),
    Mutant(
        "multipliers not in the unit of f",
        _STAGES,
        'stats["multipliers"] = unit * multipliers',
        'stats["multipliers"] = multipliers',
        "multipliers",
    ),
    Mutant(
        "found noise told in the unit of f",
        _STAGES,
        '"noise": unit * run.seen_noise',
        '"noise": run.seen_noise',
        "told_noise",
    ),
    Mutant(
        "a wrong derivative passes",
        _CHECK,
        "wrong=jnp.any(lasting & ever_after[:-1])",
        "wrong=jnp.any(lasting & ~lasting)",
        "wrong_derivative",
    ),
    Mutant(
        "a right derivative is called wrong",
        _CHECK,
        "mismatch > MISMATCH * size",
        "mismatch >= 0 * size",
        "kink",
    ),
    Mutant(
        "falls without end, unnoticed",
        _PROGRESS,
        "return (scale > 0) & (gained > scale / jnp.finfo(scale.dtype).eps)",
        "return (scale > 0) & (gained > jnp.inf)",
        "unbounded",
    ),
    Mutant(
        "SciPy's pairs read as lower and upper",
        _STATEMENT,
        "    if both:",
        "    if both and not both:",
        "bounds_in_pairs",
    ),
    Mutant(
        "the price of violations always falls",
        _SQP,
        "jnp.where(relieved, memory.price / 10, memory.price)",
        "memory.price / 10",
        "contradiction",
    ),
    Mutant(
        "SQP in the user's units of x",
        _SQP,
        "return jnp.where(size > 0, size, other)",
        "return jnp.ones_like(other)",
        "units_of_x_sqp",
    ),
    Mutant(
        "no witness of contradicting constraints",
        _LAGRANGIAN,
        "return cancels(signed) | cancels(weighted)",
        "return cancels(signed) & ~cancels(signed)",
        "contradiction",
    ),
    Mutant(
        "a failure is true",
        _STATUS,
        "return bool(self.ok)",
        "return True",
        "truth",
    ),
    Mutant(
        "lengths squared in the range of the numbers",
        _NORM,
        "(jnp.abs(product) >= least) & (jnp.abs(product) < jnp.inf)",
        "(jnp.abs(product) >= 0) | (least > 0)",
        "lengths",
    ),
    Mutant(
        "lengths not scaled back",
        _NORM,
        "return unit * jnp.sqrt(jnp.sum((size / unit) ** 2))",
        "return jnp.sqrt(jnp.sum((size / unit) ** 2))",
        "lengths",
    ),
    Mutant(
        "products not scaled back",
        _NORM,
        "return (_product(x / a, y / b) * a) * b",
        "return _product(x / a, y / b) * a",
        "lengths",
    ),
)
