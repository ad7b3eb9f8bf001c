"""What the kit relies on in the trainer: TRL's over transformers' over accelerate, and bitsandbytes' optimiser."""

from typing import get_args

from kit.options import Run
from tests.contracts.promises import Contract, Defaults, Does, InOrder, Says, contracts

STEPS, TRAINING, STATE = "kit/backend/steps.py", "kit/backend/training.py", "kit/backend/state.py"
UPDATE, ACTIVATIONS, WEIGHTS = "kit/backend/update.py", "kit/memory/activations.py", "kit/memory/weights.py"
TRL, TRAINER = "trl.trainer.sft_trainer", "transformers.trainer"
OPTIMIZER = "bitsandbytes.optim.optimizer"
OPTIMIZERS = [name for name in get_args(Run.model_fields["optimizer"].annotation) if name != "auto"]
SCHEDULERS = ["constant_with_warmup", *get_args(Run.model_fields["scheduler"].annotation)]

CONTRACTS: tuple[Contract, ...] = contracts(
    # the order in which the trainer calls what the kit puts in its place
    (f"{TRAINER}:Trainer.train", InOrder(
        "self._load_from_checkpoint(resume_from_checkpoint)",
        "TrainerState.load_from_json(os.path.join(resume_from_checkpoint, TRAINER_STATE_NAME))",
    ), STEPS, "def _load_from_checkpoint"),
    (f"{TRAINER}:TRAINER_STATE_NAME", Does("'trainer_state.json'"), STATE, '"trainer_state.json"'),
    (f"{TRAINER}:Trainer._inner_training_loop", InOrder(
        "self._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)",
        "self.callback_handler.on_train_begin(args, self.state, self.control)",
    ), "kit/backend/listener.py", "def on_train_begin"),
    (f"{TRAINER}:Trainer._prepare_for_training", InOrder(
        "self.create_optimizer()",
        "self.accelerator.prepare(self.model, self.optimizer)",
        "self.create_scheduler(num_training_steps=max_steps)",
        "self._load_optimizer_and_scheduler(resume_from_checkpoint)",
        "self._load_scaler(resume_from_checkpoint)",
    ), STEPS, "def _load_optimizer_and_scheduler"),
    (f"{TRAINER}:Trainer._run_epoch", InOrder(
        "skip_first_batches(train_dataloader, steps_trained_in_current_epoch)",
        "train_dataloader.set_epoch(epoch)",
        "self.get_batch_samples(epoch_iterator, num_batches, self.args.device)",
        "self.training_step(model, inputs, num_items_in_batch)",
        "self._clip_grad_norm(model)",
        "self.optimizer.step()",
        "model.zero_grad()",
        "self.state.global_step += 1",
        "self._maybe_log_save_evaluate(self._tr_loss, grad_norm, model, trial, epoch, ignore_keys_for_eval, "
        "start_time, learning_rate=learning_rate)",
    ), STEPS, "def training_step"),
    (f"{TRAINER}:Trainer._run_epoch", Does("self._load_rng_state(resume_from_checkpoint)"), STEPS, "_load_rng_state"),
    # the loss of a step: a sum over the trained tokens of all its micro-batches, divided once
    (f"{TRAINER}:Trainer._get_num_items_in_batch", Does(
        "batch['labels'][..., 1:]", "sum(labels.ne(-100).sum() for labels in labels_for_count)",
    ), STEPS, '(rest["labels"][:, 1:] != IGNORED).sum()'),
    (f"{TRAINER}:Trainer.training_step", Does(
        "self._prepare_inputs(inputs)",
        "self.compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)",
        "(not self.model_accepts_loss_kwargs or num_items_in_batch is None) and self.compute_loss_func is None",
        "self.accelerator.backward(loss, **kwargs)",
    ), STEPS, "super().training_step(model, part, num_items)"),
    ("transformers.loss.loss_utils:fixed_cross_entropy", Does(
        "'sum' if num_items_in_batch is not None else 'mean'", "loss / num_items_in_batch",
    ), TRAINING, ".loss) * count"),
    (f"{TRAINER}:Trainer._maybe_log_save_evaluate", Does(
        "logs['loss'] = tr_loss_scalar / (self.state.global_step - self._globalstep_last_logged)",
        "self.log(logs, start_time)",
    ), "kit/backend/listener.py", '"loss" in logs'),
    (f"{TRAINER}:Trainer.log", Does(
        "self.state.log_history.append(output)",
        "self.callback_handler.on_log(self.args, self.state, self.control, logs)",
    ), "kit/backend/listener.py", "log_history.clear()"),
    ("transformers.trainer_callback:CallbackHandler.on_log", Does(
        "self.call_event('on_log', args, state, control, logs=logs, **kwargs)",
    ), "kit/backend/listener.py", "logs: dict[str, float] | None = None"),
    (f"{TRAINER}:Trainer.__init__", Does(
        "self.add_callback(PrinterCallback if self.args.disable_tqdm else DEFAULT_PROGRESS_CALLBACK)",
    ), "kit/backend/listener.py", "remove_callback(PrinterCallback)"),
    (f"{TRAINER}:Trainer.create_optimizer", Does(
        "isinstance(module, nn.Embedding)",
        "manager.register_module_override(module, 'weight', {'optim_bits': 32})",
    ), WEIGHTS, "tensor.is_embedding"),
    ("transformers.training_args:TrainingArguments.n_gpu", Does("return self._n_gpu"), TRAINING, "arguments._n_gpu"),
    ("transformers.training_args:OptimizerNames", Does(*map(repr, OPTIMIZERS)), TRAINING, "optim=run.optimizer"),
    ("transformers.trainer_utils:SchedulerType", Does(*map(repr, SCHEDULERS)), TRAINING, "lr_scheduler_type"),
    # TRL
    (f"{TRL}:SFTTrainer.__init__", Does(
        "args.padding_free or (args.packing and args.packing_strategy in {'bfd', 'bfd_split'})",
        "args.dataset_kwargs.get('skip_prepare_dataset', False)",
        "args.loss_type == 'nll'",
        "args.loss_type == 'chunked_nll'",
        "param.data.to(torch.bfloat16)",
    ), TRAINING, "skip_prepare_dataset"),
    (f"{TRL}:_CHUNKED_LM_HEAD_CHUNK_SIZE", Does("256"), ACTIVATIONS, "TRL_LOGITS_ROWS = 256"),
    (f"{TRL}:DataCollatorForLanguageModeling.torch_call", Does(
        "example['input_ids']",
        "example.get('labels', example['input_ids'])",
        "pad(labels, padding_value=-100, padding_side='right', pad_to_multiple_of=self.pad_to_multiple_of)",
        "output['attention_mask'] = pad(attention_mask, padding_value=0, padding_side='right', "
        "pad_to_multiple_of=self.pad_to_multiple_of)",
    ), STEPS, 'batch["attention_mask"].sum(dim=1)'),
    (f"{TRL}:SFTTrainer.log", Does("self._metrics[mode]", "self._metrics[mode].clear()"), STEPS, '_metrics["train"]'),
    # accelerate
    ("accelerate.optimizer:AcceleratedOptimizer.__init__", InOrder(
        "self.optimizer = optimizer", "self.optimizer.load_state_dict(state_dict)",
    ), TRAINING, "trainer.optimizer.optimizer.state.clear()"),
    ("accelerate.optimizer:AcceleratedOptimizer.step", Does(
        "self.scaler.step(self.optimizer, closure)", "self.scaler.update()", "self.optimizer.step(closure)",
    ), UPDATE, "optimizer.step = MethodType"),
    ("accelerate.accelerator:Accelerator.__init__", Does("self.scaler = None"), STATE, "trainer.accelerator.scaler"),
    ("accelerate.accelerator:Accelerator.num_processes", Does("self.state.num_processes"), STEPS, "num_processes"),
    ("accelerate.accelerator:Accelerator.no_sync", Does("yield"), STEPS, "accelerator.no_sync(model)"),
    ("accelerate.accelerator:Accelerator.autocast", Does("yield"), TRAINING, "accelerator.autocast()"),
    # bitsandbytes' 8-bit Adam
    (f"{OPTIMIZER}:Optimizer2State.init_state", Does(
        "p.numel() < config['min_8bit_size']", "blocksize = 256",
    ), WEIGHTS, "ADAM_8BIT_BLOCK = 256"),
    (f"{OPTIMIZER}:Optimizer2State.__init__", Defaults(min_8bit_size=4096), WEIGHTS, "ADAM_8BIT_SMALLEST"),
    (f"{OPTIMIZER}:Optimizer2State.update_step", InOrder(
        "state['step'] += 1", "F.optimizer_update_32bit", "F.optimizer_update_8bit_blockwise",
    ), UPDATE, "counts the step first"),
    # trackers
    ("transformers.integrations.integration_utils:get_reporting_integration_callbacks", Says(
        "is not supported, only ",
    ), "kit/backend/tracking.py", "get_reporting_integration_callbacks"),
)  # fmt: skip
