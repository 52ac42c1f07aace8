"""Preprocessing, architecture, losses, training and hyper-parameters: what a config says, for people to read."""

from __future__ import annotations

from distill import config as configs
from distill.config import AugmentConfig, Config, ModelConfig, TermConfig
from distill.distillation import methods
from distill.report.comparing import Cast, Model
from distill.report.document import (
    PAGE,
    Column,
    Passage,
    Row,
    Section,
    Table,
)
from distill.report.facts import RunFacts
from distill.report.wording import (
    NONE,
    counted,
    listed,
    number,
    percent,
    plain,
    sentence,
)

# not hyper-parameters: names, places, and what does not change a result
HOUSEKEEPING = (
    "name", "seed", "resume", "tracking.", "data.root", "data.cache", "data.workers", "train.threads", "train.device",
    "train.checkpoint_seconds", "train.snapshots", "model.checkpoint", "teacher", "data.test",
)  # fmt: skip
SCHEDULES = {
    "linear": "falling linearly to {final}", "cosine": "falling along a cosine to {final}",
    "warmup": "growing from 0 over the first {warmup} of training",
}  # fmt: skip


def sections(cast: Cast) -> tuple[Section, ...]:
    return (
        Section(
            "preprocessing",
            "Preprocessing and augmentation",
            (*_data(cast), *_augmentation(cast)),
            nav="Preprocessing",
        ),
        Section("architecture", "Architecture", tuple(_architecture(cast))),
        Section("training", "Losses and training", (*_losses(cast), *_optimisation(cast)), nav="Training"),
        Section("hyper-parameters", "Hyper-parameters", (_hyper_parameters(cast),)),
    )


# ---------------------------------------------------------------------------------------------------- data


def _data(cast: Cast) -> list:
    main = cast.main.lead
    count = main.metrics.get("data/train_images")
    chosen = main.metrics.get("data/val_images")
    train = next((d.name for d in main.datasets if d.use == "training"), main.config.data.train)
    val = next((d.name for d in main.datasets if d.use == "validation"), main.config.data.val)
    text = f"Models learn from {counted(int(count), 'image') if count else 'the images'} of {train}"
    text += (
        f" and are validated on {counted(int(chosen), 'image') if chosen else 'those'} of {val}, which trained nothing;"
    )
    text += (
        " the epoch with the lowest validation NME is kept, so that number is a little optimistic for all models alike."
    )
    if skipped := int(main.metrics.get("data/skipped", 0)):
        text += f" {counted(skipped, 'broken training image was', 'broken training images were')} left out."
    if main.tags.get("data.is_sample") == "true":
        text += " These are the small sets that come with the package: good for trying it out, not for conclusions."
    return [Passage((text,)), _data_sets(cast)]


def _augmentation(cast: Cast) -> list:
    config = cast.main.lead.config
    geometry, colour = augmentation_words(config.augment)
    sizes = sorted({model.lead.config.model.input_size for model in cast.trio})
    warped = config.data.size or max(sizes)
    text = [
        f"A sample is warped once, to {warped} × {warped} pixels, by one fused transform: {geometry}. The landmarks take "
        "the same transform at full precision, and a mirrored face has its left and right points exchanged.",
        colour,
    ]
    others = [m for m in cast.trio if m is not cast.main and m.lead.config.augment != config.augment]
    if others:
        text.append(f"The augmentation of {listed([m.label for m in others])} differs; the table below says in what.")
    return [Passage(tuple(text), title="Augmentation")]


def augmentation_words(a: AugmentConfig) -> tuple[str, str]:
    """(geometry as a list of phrases, photometric steps as a sentence)."""
    parts = []
    if a.flip:
        parts.append(f"mirrored with probability {plain(a.flip)}")
    if a.rotate:
        wide = f" (±{plain(a.rotate_wide)}° in {percent(a.rotate_wide_p, 0)} of samples)" if a.rotate_wide_p else ""
        parts.append(f"rotated by ±{plain(a.rotate)}°{wide}")
    if a.scale:
        parts.append(f"scaled by {1 / (1 + a.scale):.2f} to {1 + a.scale:.2f}")
    if a.shift:
        parts.append(f"shifted by ±{percent(a.shift, 0)} of the side")
    if a.shear:
        parts.append(f"sheared by ±{plain(a.shear)}°")
    if a.perspective:
        parts.append(f"its corners moved by up to {percent(a.perspective, 0)} (perspective)")
    if a.pad_p:
        parts.append(f"blackened at one or more sides, by up to {percent(a.pad, 0)}, with probability {plain(a.pad_p)}")
    steps = [f"{step.name} ({plain(step.p)})" for step in a.photometric.values()]
    colour = f"Colour steps follow, each with its probability: {listed(steps)}." if steps else "Colours are left alone."
    return listed(parts) if parts else "no geometric change", colour


# ---------------------------------------------------------------------------------------------------- architecture


def _architecture(cast: Cast) -> list:
    seen: dict[str, list[Model]] = {}
    for model in cast.trio:
        seen.setdefault(architecture_words(model.lead.config.model), []).append(model)
    text = []
    for words, models in seen.items():
        who = listed([f"the {m.title}" for m in models])
        cost = models[0].lead.metrics
        size = ""
        if "model/parameters" in cost:
            size = (
                f" It has {cost['model/parameters'] / 1e6:.2f} M parameters, {number(_megabytes(cost), 2)} MB in float32, "
                f"and takes {cost['model/mmacs']:.0f} M multiply-accumulates and {number(cost['model/latency_ms'], 1)} ms "
                f"on one CPU thread for an image."
            )
        text.append(
            sentence(f"{who}: {words}") + size.replace(" It has", " Each has" if len(models) > 1 else " It has")
        )
    return [Passage(tuple(text))]


def architecture_words(m: ModelConfig) -> str:
    h = m.head
    start = (
        "pretrained weights" if m.pretrained else "weights from a file" if m.checkpoint else "weights drawn at random"
    )
    body = f"{m.backbone} (timm) from {start}, on {m.input_size} × {m.input_size} pixels"
    if h.kind == "regression":
        return f"{body}, with a head that regresses coordinates and an expected error from the coarsest features"
    decode = {"softargmax": "soft-argmax", "dark": "DARK"}[h.decode]
    beyond = f"reaching {percent(h.margin)} of the side beyond the frame"
    target = f"Gaussian targets of σ = {percent(h.sigma)} of the side"
    if h.kind == "simcc":
        return f"{body}, with a SimCC head: {plain(h.bins)} bins a pixel on each axis, {beyond}, {target}, {decode} decoding"
    grid = m.input_size // h.stride
    fuse = "a top-down pyramid over all levels" if h.upsample == "pyramid" else "transposed convolutions"
    return f"{body}, with a heatmap head: {fuse}, {h.width} channels, {grid} × {grid} cells {beyond}, {target}, {decode} decoding"


def _megabytes(metrics: dict[str, float]) -> float:
    return metrics.get("model/file_bytes", float("nan")) / 1e6


# ---------------------------------------------------------------------------------------------------- training


def _losses(cast: Cast) -> list:
    config = cast.main.lead.config
    loss = config.loss
    kind = config.model.head.kind
    text = f"Labels: {plain(loss.coordinate_weight)} × {loss.coordinate} on the decoded coordinates"
    if kind != "regression":
        text += f" and {plain(loss.heatmap_weight)} × {loss.heatmap.replace('_', ' ')} on the {kind} distributions"
    if loss.region_weights:
        text += f", points weighted by region ({plain(loss.region_weights)})"
    blocks = [Passage((sentence(text),), title="Learning from labels")]
    terms = config.distill.terms
    if terms:
        lines = [f"‘{name}’, {term_words(term)}" for name, term in terms.items()]
        text = f"The student sees the same view as its frozen teacher and adds {counted(len(terms), 'term')}: "
        text += f"{'; '.join(lines)}."
        if config.distill.balance == "grad_norm":
            text += (
                " Each term is scaled so that its gradient in the backbone is its weight times that of the labels' "
                f"terms, measured every {config.distill.balance_every} steps."
            )
        if cast.control:
            text += " The control is the same student without these terms."
        blocks.append(Passage((text,), title="Learning from the teacher"))
    elif cast.main.role == "control":
        blocks.append(
            Passage(("No teacher takes part: this student is a control.",), title="Learning from the teacher")
        )
    return blocks


def term_words(term: TermConfig) -> str:
    what = methods.title(term.loss)
    args = f" ({plain(term.args)})" if term.args else ""
    taps = f" between {term.student} of the student and {term.teacher} of the teacher" if term.student else ""
    final = f"{percent(term.final, 0)} of it" if term.final else "0"
    course = SCHEDULES.get(term.schedule, "").format(final=final, warmup=percent(term.warmup, 0))
    return f"{what}{args}{taps}, weight {plain(term.weight)}{', ' + course if course else ''}"


def _optimisation(cast: Cast) -> list:
    t = cast.main.lead.config.train
    name = {"adamw": "AdamW", "sgd": "SGD with Nesterov momentum 0.9"}[t.optimizer]
    text = (
        f"{name}, batches of {t.batch_size}, {counted(t.epochs, 'epoch')}; the learning rate warms up over "
        f"{counted_epochs(t.warmup_epochs)} to {plain(t.lr)} and falls along a cosine to {plain(t.min_lr)}; weight decay "
        f"{plain(t.weight_decay)} on matrices and kernels only"
    )
    text += f"; gradients clipped at norm {plain(t.clip)}" if t.clip else ""
    text += f"; the weights' exponential average (decay {plain(t.ema)}) is what is validated and kept" if t.ema else ""
    text += f"; {listed(t.freeze)} frozen" if t.freeze else ""
    text += f"; training stops after {t.patience} epochs without progress" if t.patience else ""
    parts = [sentence(text)]
    times = [f"{model.label} {minutes:.0f}" for model in cast.trio if (minutes := minutes_of(model.lead)) >= 0.5]
    if times:
        parts.append(f"Minutes of training: {listed(times)}. {machine_words(cast.main.lead.tags)}")
    return [Passage(tuple(parts), title="Optimisation")]


def counted_epochs(epochs: float) -> str:
    return f"{plain(epochs)} epoch{'' if epochs == 1 else 's'}"


def minutes_of(run: RunFacts) -> float:
    return sum(value for _, value in run.history.get("train/epoch_seconds", ())) / 60


# ---------------------------------------------------------------------------------------------------- tables


def _hyper_parameters(cast: Cast) -> Table:
    """Keys in which a model differs from the defaults or from another; cells that differ between models are marked."""
    models = cast.trio
    default = _values(Config())
    each = [_values(model.lead.config) for model in models]
    keys = [
        key
        for key in dict.fromkeys(k for values in (*each, default) for k in values)
        if not key.startswith(HOUSEKEEPING)
    ]
    rows = []
    for key in keys:
        cells = [plain(values[key]) if key in values else NONE for values in each]
        usual = plain(default[key]) if key in default else NONE
        if any(cell != usual for cell in cells):
            differ = _all_marked(cells, 2)
            rows.append(Row((key, usual, *cells), marked=differ, page_only=key.startswith("augment.") and not differ))
    return Table(
        "hyper-parameters", "What differs from the defaults",
        (Column("key", mono=True), Column("default"), *(Column(model.label) for model in models)), tuple(rows),
        caption="Values that differ between the models are marked. All other keys have their defaults (distill/config/fields.py). "
        + ids_caption(models), wide=True,
    )  # fmt: skip


def _values(config: Config) -> dict[str, object]:
    """Flat, but a colour step or a distillation term is one entry."""
    flat = {}
    for key, value in configs.flatten(config).items():
        if not key.startswith(("augment.photometric", "distill.terms")):
            flat[key] = value
    for name, step in config.augment.photometric.items():
        flat[f"augment.photometric.{name}"] = f"{step.name}, p {plain(step.p)}" + (
            f", {plain(step.args)}" if step.args else ""
        )
    for name, term in config.distill.terms.items():
        taps = f", {term.student} ← {term.teacher}" if term.student else ""
        args = f", {plain(term.args)}" if term.args else ""
        schedule = "" if term.schedule == "constant" else f", {term.schedule}"
        flat[f"distill.terms.{name}"] = f"{plain(term.weight)} × {term.loss}{taps}{args}{schedule}"
    return flat


def ids_caption(models: list[Model]) -> str:
    return "Runs: " + "; ".join(f"{m.label} {', '.join(run.id[:8] for run in m.runs)}" for m in models) + "."


def _data_sets(cast: Cast) -> Table:
    counts = {"training": "data/train_images", "validation": "data/val_images"}
    rows: dict[tuple[str, ...], list[str]] = {}
    for model in cast.models:
        for data in model.lead.datasets:
            count = model.lead.metrics.get(counts.get(data.use, ""))
            cells = (data.name, data.use, f"{int(count):,}" if count else NONE, data.fingerprint)
            rows.setdefault(cells, []).append(model.label)
    columns = (
        Column("set"), Column("use"), Column("images", numeric=True), Column("fingerprint", mono=True), Column("models"),
    )  # fmt: skip
    return Table(
        "data", "Data sets", columns, tuple(Row((*cells, ", ".join(labels))) for cells, labels in rows.items()),
        "The fingerprint is taken over names, labels and image sizes in bytes.",
    )  # fmt: skip


def environment(cast: Cast) -> Section:
    """Code and machines: what is needed to do it again."""
    asked = {
        "code": lambda tags: _revision(tags),
        "command": lambda tags: _command(tags.get("command") or tags.get("mlflow.source.name", NONE)),
        **{
            words: lambda tags, key=key: tags.get(f"env.{key}", NONE)
            for words, key in (
                ("Python", "python"), ("torch", "torch"), ("timm", "timm"), ("mlflow", "mlflow"),
                ("albumentations", "albumentations"), ("numpy", "numpy"), ("processor", "cpu"), ("memory, GiB", "memory_gib"),
                ("graphics", "gpu"), ("system", "platform"),
            )
        },
    }  # fmt: skip
    rows = []
    for name, ask in asked.items():
        cells = [ask(model.lead.tags) for model in cast.models]
        rows.append(Row((name, *cells), marked=_all_marked(cells, 1)))
    columns = (Column("what"), *(Column(model.label) for model in cast.models))
    table = Table("environment", "Environment", columns, tuple(rows), ids_caption(list(cast.models)), PAGE)
    return Section("environment", "Code and machines", (table,))


def _all_marked(cells: list[str], first: int) -> frozenset[int]:
    """The places of cells that are not all the same."""
    return frozenset(range(first, first + len(cells))) if len(set(cells)) > 1 else frozenset()


def _revision(tags: dict[str, str]) -> str:
    changed = " (changed)" if tags.get("code.dirty") == "true" else ""
    return tags.get("mlflow.source.git.commit", "unknown")[:12] + changed


def machine_words(tags: dict[str, str]) -> str:
    machine = ", ".join(t for t in (tags.get("env.cpu"), tags.get("env.gpu")) if t and t != "none")
    return (
        f"Code revision {_revision(tags)}, Python {tags.get('env.python', NONE)}, torch {tags.get('env.torch', NONE)}, timm "
        f"{tags.get('env.timm', NONE)}, on {machine or 'an unknown machine'}."
    )


def _command(text: str) -> str:
    """Without the folders of the machine that it ran on."""
    return " ".join(word.rsplit("/", 1)[-1] if word.startswith("/") else word for word in text.split())
