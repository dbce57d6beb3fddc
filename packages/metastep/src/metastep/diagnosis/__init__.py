"""Which estimator to use for a problem: comparisons, measurements and advice."""

from metastep.diagnosis.compare import Comparison as Comparison
from metastep.diagnosis.compare import ComparisonRow as ComparisonRow
from metastep.diagnosis.compare import compare as compare
from metastep.diagnosis.diagnose import diagnose as diagnose
from metastep.diagnosis.diagnosis import Diagnosis as Diagnosis
from metastep.diagnosis.metasmoothness import Metasmoothness as Metasmoothness
from metastep.diagnosis.metasmoothness import metasmoothness as metasmoothness
