"""PAC-Bayes bounds for networks, tighter in the eigenbasis of their layer-wise Hessians.

`certify` goes from a trained model to a `Certificate`, and a `LearnedPrior` makes its bound
tighter. Its parts: `optimize` a posterior in a basis (`BASE`, `APPR`, `ITER`, `ITER_M`), measure
its error by `draw_errors`, and `bound` it. `kl_inverse` is of use wherever an error rate has been
estimated from a sample.
"""

from metastep.pac_bayes.basis import APPR as APPR
from metastep.pac_bayes.basis import BASE as BASE
from metastep.pac_bayes.basis import ITER as ITER
from metastep.pac_bayes.basis import ITER_M as ITER_M
from metastep.pac_bayes.basis import Rotation as Rotation
from metastep.pac_bayes.bound import Bound as Bound
from metastep.pac_bayes.bound import bound as bound
from metastep.pac_bayes.bound import kl_bernoulli as kl_bernoulli
from metastep.pac_bayes.bound import kl_divergence as kl_divergence
from metastep.pac_bayes.bound import kl_inverse as kl_inverse
from metastep.pac_bayes.bound import kl_inverse_lower as kl_inverse_lower
from metastep.pac_bayes.certificate import Certificate as Certificate
from metastep.pac_bayes.certificate import Verdict as Verdict
from metastep.pac_bayes.certificate import prior_variance as prior_variance
from metastep.pac_bayes.certify import Certified as Certified
from metastep.pac_bayes.certify import Settings as Settings
from metastep.pac_bayes.certify import certify as certify
from metastep.pac_bayes.errors import draw_errors as draw_errors
from metastep.pac_bayes.learned_prior import LearnedPrior as LearnedPrior
from metastep.pac_bayes.optimize import Optimized as Optimized
from metastep.pac_bayes.optimize import optimize as optimize
from metastep.pac_bayes.posterior import Posterior as Posterior
from metastep.pac_bayes.posterior import draw as draw
