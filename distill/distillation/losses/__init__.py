"""Losses: `coordinate` and `heatmap` against labels and a teacher, `feature` and `relation` against a teacher.

Pure functions, one paper each; those against a teacher are registered as methods, with their adapters. A new file in
this folder is imported with the others.

How large the values are, for choosing `distill.terms.NAME.weight`: measured on the CPU recipes' pair (student
fasternet_t0, teacher fasternet_t1, 128 px, `stride:16` = 8 x 8 cells, reviewkd `stride:8` to `stride:32`, 16 images,
default arguments). `raw` is the value, `even` the weight at which the term's gradient in the student's backbone is as
long as that of the labels (20 nme + 1 cross_entropy), each for an untrained student and for one that was trained on
labels alone (adapters fitted).

                     untrained        trained
                   raw      even    raw      even    a weight to begin with
    coordinate     0.20     52      0.018    52      15
    heatmap_mse    0.99     51      0.17     6       2
    heatmap_kl     4.1      1.4     0.17     5       2
      T = 2        11       1.1     0.38     3       1
    heatmap_cwd     1.4     12      0.062    22      6
    fitnet         1.0      2.6     0.26     16      3
    at             0.60     0.13    0.15     10      2, schedule: warmup
    cwd            29       0.06    9.7      0.5     0.15
    dist           2.0      0.14    0.37     13      2, schedule: warmup
    mgd            1.0      72      0.30     15      4
    vid            0.90     185     -0.03    21      5
    reviewkd       0.73     2.0     0.12     22      5
    pkt            0.014    2.2     0.0004   1100    200, schedule: warmup
    sp             0.50     0.08    0.009    62      15, schedule: warmup
    rkd            1.9      0.03    0.21     1.6     0.4, schedule: warmup

The row of vid was measured with an adapter that began at variance 1 and had biases (0.50 and 37 untrained); its first
two numbers are those, computed for the variance of 5 at which the paper's begins.

What is even early is not even late, above all where correlations and relations are compared; `distill.balance:
grad_norm` keeps it even throughout, and a weight of 0.3 is then a fair start for every method, also for `heatmap_lskd`
and `pkd`, which are not measured yet.
"""

import importlib
import pkgutil

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")
