"""Settings of the training loop; field names are those of Lightning's Trainer."""

from dataclasses import dataclass

from hydratune.settings.registry import variant


@variant("trainer", "trainer")
@dataclass
class TrainerConfig:
    """Lightning's Trainer; field names are its own."""

    accelerator: str = "auto"  # auto, cpu or gpu
    devices: int = 1
    strategy: str = "auto"  # auto or ddp
    # 32-true, bf16-mixed, bf16-true; auto: bf16-mixed where the hardware has fast bf16, else
    # 32-true
    precision: str = "auto"
    # on a GPU: the same run twice gives the same bits, a little slower; a CPU always does
    deterministic: bool = True
    max_epochs: int = 1
    max_steps: int | None = None  # optimizer steps; ends training before max_epochs
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = 1.0  # norm; null: no clipping
    validations_per_epoch: int = 2
    early_stopping_patience: int | None = None  # validations without improvement; null: off
    # stop at a loss above this times the median of the last 20 steps; null: only at NaN or inf
    max_loss_ratio: float | None = 5.0
    # rows of a batch are split over these many threads; null: one per core
    cpu_workers: int | None = None
    # tokens of one forward and backward; null: by the memory of the GPU, 1,024 on a CPU
    micro_tokens: int | None = None
    # compute once what several rows of a batch begin with; the same losses, fewer tokens
    share_prefix: bool = True
    # most that may be written of what layers below the first trained one compute; 0: nothing
    frozen_cache_gb: float = 20.0
    # recompute layers in the backward pass: less memory, about a third more time
    gradient_checkpointing: bool = False
    # besides after every validation, last.ckpt is written so often; null: not
    checkpoint_minutes: float | None = 10.0
    # fuse elementwise work by torch.compile, which takes half a minute at the start; needs a
    # C++ compiler
    compile: bool = False
    # share of the target spread evenly over the vocabulary; in the training loss only
    label_smoothing: float = 0.0
    # weight of the squared log-normaliser, usual 1e-4; in the training loss only
    z_loss: float = 0.0
    # noise on the embeddings while training (arXiv:2310.05914), usual 5; 0: none
    neftune_alpha: float = 0.0
