"""Reverse mode over long training runs whose steps are called from Python."""

from metastep.driven.driven import driven_hypergradient as driven_hypergradient
from metastep.driven.plan import Plan as Plan
from metastep.driven.plan import driven_plan as driven_plan
