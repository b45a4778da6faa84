"""Keys that Axolotl and LLaMA-Factory hand to transformers' Trainer: optimizer, schedule, steps, precision."""

from stages.migrate.migration import Migration, Rules
from stages.train.settings import ADAM_CONSTANTS, ADAMW, COMPUTE_DTYPES

OPTIMIZERS = {
    **dict.fromkeys(("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_apex_fused"), "adamw"),
    **dict.fromkeys(("adamw_bnb_8bit", "adamw_8bit", "adamw_torch_8bit", "ao_adamw_8bit"), "adamw_8bit"),
    **dict.fromkeys(("paged_adamw_32bit", "paged_adamw"), "paged_adamw"),
    **{"paged_adamw_8bit": "paged_adamw_8bit", "adafactor": "adafactor", "muon": "muon"},
    **dict.fromkeys(("lion_32bit", "lion", "lion_8bit", "paged_lion_32bit", "paged_lion_8bit"), "lion"),
}
SCHEDULES = {
    "cosine": "cosine",
    "cosine_with_min_lr": "cosine",
    "linear": "linear",
    "constant": "constant",
    "constant_with_warmup": "constant",
    "warmup_stable_decay": "wsd",
}
TRACKING = "runs are tracked in MLflow (conf/track)"
CHECKPOINTS = "checkpoints serve to resume a killed training, by themselves; the last one is kept"
SPEED = "changes speed or memory, not what is trained; codetune has its own kernels and loss"
PLACES = "outputs lie in data/ and models/, under DVC; `dvc push` and MLflow's registry share them"
LOADING = "says how rows are loaded or batched, not which"
NEEDLESS_IN_BOTH: Rules = (
    (r"(use_)?(wandb|mlflow|comet|trackio|swanlab|tensorboard|otel|gradio)(_.*)?|report_to|run_name", TRACKING),
    (r"hf_mlflow_.*|logging_(dir|strategy|first_step)|include_(num_input_tokens_seen|tkps|tokens_per_second|effective_tokens_per_second)|profiler_.*|plot_loss", TRACKING),
    (r"output_dir|overwrite_output_dir|hub_.*|push_to_hub|push_dataset_to_hub|save_safetensors", PLACES),
    (r"resume_from_checkpoint|auto_resume_from_checkpoints|save_(total_limit|only_model|strategy|first_step)|saves_per_epoch", CHECKPOINTS),
    (r"tf32|torch_compile.*|gradient_checkpointing_kwargs|.*liger.*|use_kernels|low_cpu_mem_usage|max_memory|gpu_memory_limit", SPEED),
    (r"dataloader_.*|remove_unused_columns|ddp_.*|ddp|local_rank|world_size|device|device_map|accelerator_config", LOADING),
    (r"eval_batch_size|per_device_eval_batch_size|prediction_loss_only", "validation runs in micro batches of train.micro_batch packs"),
    (r"use_ray|ray_.*|resources_per_worker|hf_use_auth_token|hf_hub_token|local_files_only", "says how the program is run; `hf auth login` or HF_TOKEN logs in"),
)  # fmt: skip
ORDER = "the order of rows is decided by train.seed; other orders are not offered"
OTHER_METHOD = "another method of training than LoRA; remove it and migrate again if LoRA alone will do"
LOST_IN_BOTH: Rules = (
    (r"group_by_length|shuffle_(merged|before_merging)_datasets|curriculum_sampling|disable_shuffling", ORDER),
    (r"optim_args|optim_target_modules|adam_beta3|adam_epsilon2|embedding_lr(_scale)?|lr_groups|loraplus_lr_embedding|lr_quadratic_warmup|auto_find_batch_size", "no such setting here; train.optimizer, learning_rate and the schedule are what train offers"),
)  # fmt: skip


def carry_optimizer(m: Migration, name_key: str, default: str) -> None:
    """Carry the optimizer and its constants."""
    name = str(m.get(name_key, default))
    ours = OPTIMIZERS.get(name)
    if ours is None:
        m.settings["train.optimizer"] = "adamw"
        m.lose(name_key, "no such optimizer here: train.optimizer is adamw; docs/train.md lists the others")
    else:
        note = "its state is 32 bits wide here" if "lion_8bit" in name else ""
        m.carry(name_key, "train.optimizer", ours, note)
    m.carry("learning_rate", "train.learning_rate", m.number("learning_rate", 5e-5))
    m.carry("weight_decay", "train.weight_decay", m.number("weight_decay", 0.0))
    m.carry("max_grad_norm", "train.max_grad_norm", m.number("max_grad_norm", 1.0))
    for key, standard in zip(ADAM_CONSTANTS, (0.9, 0.999, 1e-8), strict=True):
        value = m.number(key, standard)
        if (ours or "adamw") in ADAMW:
            m.carry(key, f"train.{key}", value)
        elif value != standard:
            m.lose(key, f"train.optimizer: {ours} does not use it")
    m.carry("seed", "train.seed", int(m.number("seed", 42)))


def carry_schedule(m: Migration, name_key: str, kwargs_key: str, default: str, warmup: float) -> None:
    """Carry the schedule; `warmup` is the other program's own share of the steps."""
    name = str(m.get(name_key, default))
    kwargs = m.get(kwargs_key, {})
    ours = SCHEDULES.get(name)
    if ours is None and name == "cosine_with_restarts" and not kwargs:
        ours = "cosine"  # one cycle
    if ours is None:
        m.settings["train.schedule"] = "cosine"
        m.lose(
            name_key, "no such schedule here: train.schedule is cosine; linear, constant and wsd are others"
        )
    else:
        m.carry(name_key, "train.schedule", ours, "train.decay is its falling part" if ours == "wsd" else "")
    floor = 0.0
    if ours == "cosine" and "min_lr_rate" in kwargs:
        floor = float(kwargs["min_lr_rate"])
    elif ours == "cosine" and "min_lr" in kwargs:
        floor = float(kwargs["min_lr"]) / m.settings["train.learning_rate"]
    if kwargs and floor:
        m.carry(kwargs_key, "train.min_learning_rate", floor)
    elif kwargs:
        m.lose(kwargs_key, "set train.decay and train.min_learning_rate by hand")
    steps, share = m.number("warmup_steps", 0), m.number("warmup_ratio", warmup)
    if name == "constant":  # transformers ignores any warmup then
        steps, share = 0, 0
        for key in ("warmup_steps", "warmup_ratio"):
            m.needless(key, "transformers ignores it with a constant schedule")
    m.settings |= {"train.warmup": 0, "train.warmup_steps": 0}
    if 0 < steps < 1:  # transformers 5: a share
        m.carry("warmup_steps", "train.warmup", steps)
    elif steps or (m.given.get("warmup_steps") == 0 and m.peer == "Axolotl"):  # transformers: 0 is not set
        m.carry("warmup_steps", "train.warmup_steps", int(steps))
        m.needless("warmup_ratio", "warmup_steps takes precedence")
    elif name != "constant":
        m.carry("warmup_ratio", "train.warmup", share)


def carry_steps(m: Migration, batch_key: str, epochs_key: str, batch: int, epochs: float) -> None:
    """Carry what a step holds and how many there are, and when losses are taken and checkpoints kept."""
    micro = int(m.number(batch_key, batch))
    m.carry(batch_key, "train.micro_batch", micro)
    total = m.get("batch_size")
    steps_key = "gradient_accumulation_steps"
    if total and not m.get(steps_key):
        m.carry(
            "batch_size",
            "train.accumulation",
            max(1, int(total) // micro) * m.gpus,
            "batch_size / micro_batch_size",
        )
    else:
        note = f"x {m.gpus} GPUs" if m.gpus > 1 else "of one GPU; --gpus N if there were more"
        m.carry(steps_key, "train.accumulation", int(m.number(steps_key, 1)) * m.gpus, note)
    m.settings |= {"train.max_tokens": 0, "train.max_steps": 0}
    most = int(m.number("max_steps", 0))
    if most > 0:
        m.carry(
            "max_steps", "train.max_steps", most, "steps alone end the training, so train.epochs is 10000"
        )
        m.settings["train.epochs"] = 10000.0
        m.needless(epochs_key, "max_steps takes precedence")
    else:
        m.carry(epochs_key, "train.epochs", m.number(epochs_key, epochs))
    m.settings |= {"train.eval_every": 0, "train.eval_tokens": 0}  # all held-out rows
    every = m.number("eval_steps", 0)
    if every >= 1:
        m.carry("eval_steps", "train.eval_every", int(every))
    for key in (
        "evals_per_epoch",
        "eval_strategy",
        "evaluation_strategy",
        *(("eval_steps",) if 0 < every < 1 else ()),
    ):
        if every >= 1 and key.endswith("strategy"):
            m.needless(key, "eval_steps decides")
        elif m.get(key) not in (None, "no", 0):
            m.lose(
                key,
                "losses are taken before the first and after the last step; `python -m stages.plan` shows the steps of an epoch: set train.eval_every",
            )
    patience, best = (
        m.get("early_stopping_patience", m.get("early_stopping_steps")),
        m.get("load_best_model_at_end"),
    )
    for key, target, value in (
        (
            "early_stopping_patience" if "early_stopping_patience" in m.given else "early_stopping_steps",
            "train.early_stopping_patience",
            patience,
        ),
        ("load_best_model_at_end", "train.keep_best", best),
    ):
        if value and every >= 1:
            m.carry(key, target, value)
        elif value:
            m.lose(
                key,
                f"set {target} and train.eval_every by hand: it compares losses taken every so many steps",
            )
    save = m.number("save_steps", 20)
    m.carry("save_steps", "train.save_every", int(save) if save >= 1 else 20, "a checkpoint to resume from")
    m.carry("logging_steps", "train.log_every", max(1, int(m.number("logging_steps", 1))))
    noise = "noisy_embedding_alpha" if "noisy_embedding_alpha" in m.given else "neftune_noise_alpha"
    m.carry(noise, "train.neftune_alpha", m.number(noise, 0.0))


def carry_dtype(m: Migration, bfloat_keys: tuple[str, ...], half_keys: tuple[str, ...], default: str) -> None:
    """Carry the precision of computation: the first key of them that is on."""
    on = next((key for key in (*bfloat_keys, *half_keys) if m.get(key)), None)
    key = on or bfloat_keys[0]
    dtype = "bfloat16" if on in bfloat_keys else "float16" if on else default
    if dtype in COMPUTE_DTYPES:
        m.carry(key, "train.dtype", dtype)
    else:
        m.settings["train.dtype"] = "bfloat16"
        m.lose(key, "float16 is not offered: train.dtype is bfloat16")
    for other in (*bfloat_keys, *half_keys):
        if other in m.given and other != key:
            m.needless(other, f"{key} decides")


def carry_held_out(m: Migration, key: str) -> None:
    """Carry the share of rows to hold out; a number of rows has no place here."""
    share = m.number(key, 0.0)
    if share < 1:
        m.carry(key, "pack.validation_share", share, "by components of similar rows" if share else "")
        if not share:
            m.todo.append("pack.validation_share is 0, so no validation loss is taken: 0.05 is usual")
    else:
        m.settings["pack.validation_share"] = 0.05
        m.lose(key, f"a number of rows ({share:.0f}): a share is taken here, pack.validation_share: 0.05")


def carry_processes(m: Migration, sharded: str, replicated: str) -> None:
    """Carry how a training is spread; `sharded` and `replicated` are the keys that ask for it, or empty."""
    key = sharded or replicated
    if not key:
        m.settings |= {"train.launcher": "accelerate", "train.processes": m.gpus} if m.gpus > 1 else {}
    elif m.gpus == 1:
        m.lose(key, "one process: with N GPUs migrate again with --gpus N")
    else:
        kind = "fsdp" if sharded and m.settings.get("train.quantization") != "int8" else "ddp"
        m.settings |= {"train.launcher": "accelerate", "train.processes": m.gpus}
        m.carry(
            key, "train.accelerate", kind, "docs/train.md; fsdp does not work with int8" if sharded else ""
        )
