"""PAC-Bayes bounds for networks, tighter in the eigenbasis of their layer-wise Hessians.

`certify` goes from a trained model to a `Certificate`. Its parts: `optimize` a posterior in a basis
(`BASE`, `APPR`, `ITER`, `ITER_M`), measure its error by `draw_errors`, and `bound` it. `kl_inverse`
is of use wherever an error rate has been estimated from a sample.
"""

from metastep.curvature.certificate import Certificate as Certificate
from metastep.curvature.certificate import Verdict as Verdict
from metastep.curvature.certificate import prior_variance as prior_variance
from metastep.curvature.pac_bayes_bound import Bound as Bound
from metastep.curvature.pac_bayes_bound import bound as bound
from metastep.curvature.pac_bayes_bound import kl_bernoulli as kl_bernoulli
from metastep.curvature.pac_bayes_bound import kl_divergence as kl_divergence
from metastep.curvature.pac_bayes_bound import kl_inverse as kl_inverse
from metastep.curvature.pac_bayes_bound import kl_inverse_lower as kl_inverse_lower
from metastep.curvature.pac_bayes_certify import Certified as Certified
from metastep.curvature.pac_bayes_certify import Settings as Settings
from metastep.curvature.pac_bayes_certify import certify as certify
from metastep.curvature.pac_bayes_optimize import Optimized as Optimized
from metastep.curvature.pac_bayes_optimize import draw_errors as draw_errors
from metastep.curvature.pac_bayes_optimize import optimize as optimize
from metastep.curvature.pac_bayes_posterior import Posterior as Posterior
from metastep.curvature.pac_bayes_posterior import draw as draw
from metastep.curvature.pac_bayes_rotation import APPR as APPR
from metastep.curvature.pac_bayes_rotation import BASE as BASE
from metastep.curvature.pac_bayes_rotation import ITER as ITER
from metastep.curvature.pac_bayes_rotation import ITER_M as ITER_M
from metastep.curvature.pac_bayes_rotation import Rotation as Rotation
