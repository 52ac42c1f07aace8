"""One frozen, checked object describes a run completely.

A YAML file (which may name another as its `base:`) plus `key=value` overrides becomes a `Config`. Unknown keys, wrong
types and impossible values are refused here, before any data is read and before torch is imported; below this line
no code looks keys up by name. Dotted keys (`train.lr`, `distill.terms.kl.weight`) are the same in files, on the command
line, in MLflow's parameters, in ablation grids and in search spaces.

    fields.py     the keys, their defaults and meaning
    loading.py    reading: files and their bases, overrides, stored configs
    checking.py   values that cannot work
    identity.py   what a config computes: digest, recipe, differences
"""

from __future__ import annotations

from distill.config.checking import check
from distill.config.fields import (
    SUPERVISED_TERMS,
    AugmentConfig,
    Config,
    DataConfig,
    DistillConfig,
    HeadConfig,
    LossConfig,
    ModelConfig,
    StepConfig,
    TermConfig,
    TrackingConfig,
    TrainConfig,
    markup_of,
)
from distill.config.identity import (
    computing,
    digest,
    first_difference,
    flatten,
    flow,
    set_values,
    to_dict,
    to_recipe,
    to_yaml,
)
from distill.config.loading import from_dict, load, model_from_dict
