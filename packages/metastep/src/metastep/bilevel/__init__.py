"""Single-loop stochastic bilevel solvers: hypergradients that never unroll a training run.

They follow the minimum of the inner loss while the hyperparameters move, one or a few steps per
outer step, and so fit problems where a full training run per hypergradient is too much. To the rest
of the library they are estimators with a memory: `minimize` drives them like any other.
"""

from metastep.bilevel.amigo import AmIGO as AmIGO
from metastep.bilevel.base import BilevelState as BilevelState
from metastep.bilevel.base import OracleCalls as OracleCalls
from metastep.bilevel.f2sa import F2SA as F2SA
from metastep.bilevel.problem import BilevelProblem as BilevelProblem
from metastep.bilevel.soba import SOBA as SOBA
