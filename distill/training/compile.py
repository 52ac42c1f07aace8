"""torch.compile for the parts of the objective that carry its cost: `train.compile`.

What is compiled is the forward of backbone and head, of the student and of its teacher; losses and adapters, which are
small and full of names, stay eager. Feature taps are hooks that are put on anew in every pass, and dynamo does not look
whether hooks changed since it compiled: a hook inside a compiled region would go on writing to the first pass's
dictionary. So a module with a tap inside is not compiled as a whole; its children are, each by its own forward, on
which a hook stays outside.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch._dynamo.config as dynamo
import torch._functorch.config as functorch
from torch import nn

from distill.distillation.objective import Objective
from distill.distillation.taps import Tap
from distill.errors import UserError


def check_compiler(device: torch.device) -> None:
    """Compile something tiny. Raises UserError, in one sentence, where this machine cannot: no C++ compiler, mostly."""
    try:
        torch.compile(lambda x: (x + 1).relu())(torch.zeros(4, device=device))
    except Exception as error:  # dynamo and inductor raise many kinds; whatever it is, training would meet it too
        cause = error.__cause__ or error
        reason = (str(cause).strip().splitlines() or [""])[0].rstrip(".")[:200]
        needed = "a C++ compiler (g++ or clang++, or $CXX) and Python's headers" if device.type == "cpu" else "triton"
        raise UserError(
            f"train.compile: torch cannot compile on this machine ({reason or type(cause).__name__}); expected "
            f"{needed}, or train.compile=false."
        ) from None


def compile_objective(objective: Objective) -> None:
    """Compile the forward of the networks in `objective`, in place: names and weights stay as they are."""
    distiller = objective.distiller
    parts = _parts(objective.student, distiller.student_taps if distiller else ())
    if distiller:
        parts += _parts(distiller.teacher.model, distiller.teacher_taps)
    # dynamo counts the graphs of all of them together, in training and evaluation, for few shapes each, and would give
    # up at 8
    dynamo.recompile_limit = max(dynamo.recompile_limit, 4 * len(parts))
    for module in parts:
        # not module.compile(): that would take the module's own hooks inside
        module.forward = torch.compile(module.forward)
    torch.compiler.reset()  # graphs of an earlier training in this process, under its settings
    if objective.balance is not None:
        # It takes gradients of single terms first, and a compiled backward may use up what the whole one needs then.
        # The cache on disk does not distinguish graphs that do so: without a tag the gradients would be wrong.
        functorch.donated_buffer = False
        torch.compiler.config.cache_key_tag = "distill: one graph, several backwards"


def compilable(model: nn.Module, taps: Iterable[str]) -> list[str]:
    """Paths of the largest modules below backbone and head that have no tapped module inside."""
    taps, found = list(taps), []

    def visit(path: str, module: nn.Module) -> None:
        only_holds = type(module).forward is nn.Module.forward  # a list of modules, which is never called itself
        if only_holds or any(tap.startswith(f"{path}.") for tap in taps):
            for name, child in module.named_children():
                visit(f"{path}.{name}", child)
        elif any(True for _ in module.children()):  # a single layer has nothing to fuse
            found.append(path)

    visit("backbone", model.backbone)
    visit("head", model.head)
    return found


def _parts(model: nn.Module, taps: Iterable[Tap]) -> list[nn.Module]:
    return [model.get_submodule(path) for path in compilable(model, (tap.path for tap in taps))]
