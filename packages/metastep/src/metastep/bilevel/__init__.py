"""Single-loop stochastic bilevel solvers: hypergradients without unrolled training runs.

They follow the minimum of the inner loss while the hyperparameters move, by one or a few steps per
outer step, where a full training run per hypergradient would be too expensive. They are estimators
with a state, and `minimize` drives them like any other estimator. The state belongs to one task:
`minimize` refuses a meta-batch of newly drawn ones.
"""

from metastep.bilevel.amigo import AmIGO as AmIGO
from metastep.bilevel.f2sa import F2SA as F2SA
from metastep.bilevel.problem import BilevelProblem as BilevelProblem
from metastep.bilevel.soba import SOBA as SOBA
from metastep.bilevel.state import BilevelState as BilevelState
from metastep.bilevel.state import OracleCalls as OracleCalls
