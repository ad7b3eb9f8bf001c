"""Short trainings in a process of their own, for test_steps.py: prints one JSON object.

python tests/kit/scenarios.py SCENARIO BACKEND FOLDER [OPTIONS AS JSON]
"""

import json
import math
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from kit import backend, data, models, prompt
from kit.options import Run
from kit.run import checkpoints
from kit.run.checkpoints import About
from kit.support.errors import KitError

STEPS = 4


class Listener:
    """Remembers what it is told; `at` maps a step to something to do after it."""

    def __init__(self, at=None):
        self.losses, self.tokens, self.events, self.at, self.begin = [], [], [], at or {}, lambda: None

    def on_begin(self):
        self.begin()

    def on_step(self, step, metrics):
        self.losses.append(metrics["loss"])
        self.tokens.append(metrics["num_tokens"])
        self.at.get(step, lambda: None)()

    def on_event(self, kind, text, **facts):
        self.events.append({"kind": kind, "text": text, **facts})

    def stop_requested(self):
        return False


class Training:
    """A model and its trainer, fresh."""

    def __init__(self, name, folder, options, listener):
        self.run = Run(
            **{
                "data": "examples/identity.jsonl", "backend": name, "device": "cpu", "precision": "bf16",
                "optimizer": "adamw_torch_fused", "gradient_checkpointing": "off", "pin_memory": "off", "batch_size": 8,
                "micro_batch_size": 8, "max_steps": STEPS, "learning_rate": 2e-3, "warmup_pct": 0,
            } | options
        )  # fmt: skip
        model = models.find("tiny")
        chat = prompt.load(model, "auto")
        self.data = data.read(self.run, chat)
        loading = backend.Loading.of(self.run)
        chosen = backend.start(loading)
        self.loaded = backend.adapt(backend.load(model, loading, chosen, chat), self.run)
        self.listener = listener
        scratch = Path(folder) / "scratch"
        self.trainer = backend.trainer(self.loaded, self.run, self.data.train, scratch, listener.on_event)
        backend.listen(self.trainer, listener)

    def train(self, checkpoint=None):
        self.trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        return self.listener.losses


def weights(training):
    found = training.loaded.model.named_parameters()
    return {name: weight.detach().clone() for name, weight in found if weight.requires_grad}


def unbroken(make):
    training = make(Listener())
    return {"losses": training.train(), "tokens": training.listener.tokens, "lengths": lengths_of_steps(training)}


def lengths_of_steps(training):
    """Of the samples of each step, without padding."""
    lengths, size = training.data.train.lengths.tolist(), training.run.batch_size
    order = list(training.trainer._get_train_sampler())
    return [[lengths[index] for index in order[place : place + size]] for place in range(0, STEPS * size, size)]


def resumed(make, folder, run_out=False):
    """Half of the steps, a checkpoint, everything made anew, the other half; run_out: of memory, before, until
    activations are recomputed."""
    first = Listener()
    training = make(first)
    if run_out:
        limit_memory(training, 0)

    def keep():
        path = lambda part: backend.save_state(training.trainer, part)  # noqa: E731
        checkpoints.write(folder, About(STEPS // 2, 0, 0.0), path)

    first.at = {STEPS // 2: keep}
    whole = training.train()
    (found,), _ = checkpoints.whole(folder)
    again = make(Listener())
    rest = again.train(found.path)
    same = all(bool((weight == weights(again)[name]).all()) for name, weight in weights(training).items())
    told = {"whole": whole, "rest": rest, "same_weights": same, "events": again.listener.events}
    tokens = (training.trainer.tokens, again.trainer.tokens)
    return told | {"tokens": tokens, "recomputes": checkpointing(again.loaded.model)}


def out_of_memory(make, folder, most_tokens):
    training = make(Listener())
    limit_memory(training, most_tokens)
    return {"losses": training.train(), "events": training.listener.events, "tokens": training.listener.tokens}


def limit_memory(training, most_tokens):
    """An error as of torch whenever more tokens are computed at once, or with 0: until activations are recomputed."""
    compute = training.trainer.compute_loss

    def limited(model, inputs, *args, **kwargs):
        too_much = (
            inputs["input_ids"].numel() > most_tokens if most_tokens else not checkpointing(training.loaded.model)
        )
        loss = compute(model, inputs, *args, **kwargs)
        if too_much:  # after the forward pass: the first micro-batch may have gone through backward already
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return loss

    training.trainer.compute_loss = limited


def checkpointing(model):
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def nothing_left(make, folder):
    training = make(Listener())

    def never(*args, **kwargs):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    training.trainer.compute_loss = never
    before = weights(training)
    try:
        training.train()
    except KitError as error:
        same = all(bool((weight == weights(training)[name]).all()) for name, weight in before.items())
        return {"finding": error.findings[0].id, "fix": error.findings[0].fix, "same_weights": same}
    return {"finding": None}


def preflight(make, folder):
    """The state before and after a preflight, and the losses behind it."""
    import torch

    from kit.backend.state import random_state

    listener = Listener()
    training = make(listener)
    seen = {}

    def begin():
        before, random = weights(training), random_state()
        done = backend.preflight(training.trainer, training.data.held_out)
        after = random_state()
        seen.update(
            samples=done.samples,
            tokens=done.tokens,
            longest=int(training.data.train.lengths.max()),
            same_weights=all(bool((value == weights(training)[name]).all()) for name, value in before.items()),
            same_random=bool((random["torch"] == after["torch"]).all()) and random["python"] == after["python"],
            optimizer_empty=not training.trainer.optimizer.state_dict()["state"],
            no_gradients=all(weight.grad is None for weight in training.loaded.model.parameters()),
            tokens_counted=training.trainer.tokens,
        )

    listener.begin = begin
    losses = training.train()
    assert torch.is_grad_enabled()
    return seen | {"losses": losses}


def gradients(make):
    """The gradients of one step of 8 samples, computed 8 x 1 and otherwise; each way's largest difference of all
    tensors, as a share of the largest gradient of the tensor."""
    from kit.backend.training import collate

    training = make(Listener())
    trainer, model, told = training.trainer, training.loaded.model, {}

    def look():  # after the first step: before it the gradient of each A is nought
        samples = trainer.samples.take(range(8))
        batch = collate(trainer, samples)
        items = (batch["labels"][:, 1:] != -100).sum()

        def computed(together, batches, counts):
            trainer.ladder.budget_tokens = together * int(samples.lengths.max())
            model.zero_grad()
            for one, count in zip(batches, counts, strict=True):
                trainer.run_step(trainer.model_wrapped, one, count, samples.row.__getitem__)
            found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.requires_grad}
            model.zero_grad()
            return found

        whole = computed(8, [batch], [items])
        apart = [{name: values[place : place + 1] for name, values in batch.items()} for place in range(8)]
        ways = {
            "4 x 2": computed(2, [batch], [items]),
            "1 x 8": computed(1, [batch], [items]),
            "mean of means": computed(1, apart, [8 * (one["labels"][:, 1:] != -100).sum() for one in apart]),
        }
        for way, found in ways.items():
            shares = [float((found[name] - value).abs().max() / value.abs().max()) for name, value in whole.items()
                      if value.abs().max()]  # fmt: skip
            told[way] = max(shares)
        told["tensors"] = len(shares)
        trainer.ladder.budget_tokens = 8 * int(samples.lengths.max())

    training.listener.at = {1: look}
    training.train()
    return told


def out_of_memory_in_the_update(make, in_its_middle):
    """Memory runs out in the optimiser's step of the second step, before it changes anything or in its middle."""
    import torch

    listener, told = Listener(), {}
    training = make(listener)
    plain, calls = torch.optim.AdamW.step, []

    def step(optimizer, *args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            if in_its_middle:
                with torch.no_grad():
                    optimizer.param_groups[0]["params"][0].add_(1)
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return plain(optimizer, *args, **kwargs)

    torch.optim.AdamW.step = step
    try:
        told["losses"] = training.train()
    except KitError as error:
        told["finding"] = error.findings[0].id
    return told | {"events": listener.events}


def skipped(make, largest_scale, optimizer):
    """Updates with a loss scale, in the way of fp16: above the largest one a gradient is infinite."""
    import torch

    training = make(Listener())
    trainer, told = training.trainer, {"updates": 0}
    trainer.args.optim = optimizer
    scaler = trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    weight = next(weight for name, weight in training.loaded.model.named_parameters() if "lora_B" in name)
    weight.register_hook(lambda gradient: gradient * (math.inf if scaler.get_scale() > largest_scale else 1))
    last = [weight.detach().clone()]

    def count(*_):
        told["updates"] += not torch.equal(weight, last[0])
        last[0] = weight.detach().clone()

    def begin():
        trainer.optimizer.optimizer.register_step_post_hook(count)
        backend.preflight(trainer, training.data.held_out)
        told.update(scale=scaler.get_scale(), in_preflight=told["updates"], updates=0)
        last[0] = weight.detach().clone()

    training.listener.begin = begin
    try:
        training.train()
    except KitError as error:
        told["finding"] = error.findings[0].id
    told |= {"steps": len(training.listener.losses), "in_a_row": trainer.skipped_in_a_row}
    return told | {"events": [event["text"] for event in training.listener.events]}


def not_a_number(make, folder):
    """One row of the first step gives nan in a layer in the middle of the model."""
    import torch

    listener = Listener()
    training = make(listener)
    bad = training.data.train[int(next(iter(training.trainer._get_train_sampler())))]
    model, marked = training.loaded.model, {}
    layer = next(module for name, module in model.named_modules() if name.endswith("layers.1.mlp.down_proj"))

    def look(_, args, kwargs):
        ids = kwargs.get("input_ids", args[0] if args else None)
        if not torch.is_grad_enabled():
            marked["compiling"] = os.environ.get("UNSLOTH_BLOCK_COMPILE")
        marked["rows"] = [row for row in range(len(ids)) if ids[row, : len(bad.ids)].tolist() == bad.ids]

    def spoil(_, __, output):
        for row in marked["rows"]:
            output = output.clone()
            output[row] = float("nan")
        return output

    model.register_forward_pre_hook(look, with_kwargs=True)
    layer.register_forward_hook(spoil)
    before = weights(training)
    told = {"row": bad.row, "row_tokens": len(bad.ids), "lengths": lengths_of_steps(training)}
    os.environ["UNSLOTH_BLOCK_COMPILE"] = "1"
    try:
        told["losses"] = training.train()
    except KitError as error:
        told["finding"] = error.findings[0].id
        told["details"] = dict(error.findings[0].details)
        told["same_weights"] = all(bool((value == weights(training)[name]).all()) for name, value in before.items())
    told["compiling"] = {"in the search": marked["compiling"], "after": os.environ["UNSLOTH_BLOCK_COMPILE"]}
    return told | {"events": listener.events, "tokens": listener.tokens}


if __name__ == "__main__":
    scenario, name, folder = sys.argv[1:4]
    options = json.loads(sys.argv[4]) if len(sys.argv) > 4 else {}
    folder = Path(folder)

    def make(listener):
        return Training(name, folder, options, listener)

    most_tokens, in_its_middle = options.pop("most_tokens", 0), options.pop("in_its_middle", False)
    run_out, largest_scale = options.pop("run_out", False), options.pop("largest_scale", 0)
    optimizer = options.pop("as_optimizer", "adamw_torch_fused")
    done = {
        "unbroken": lambda: unbroken(make),
        "resumed": lambda: resumed(make, folder / "checkpoints", run_out),
        "out of memory": lambda: out_of_memory(make, folder, most_tokens),
        "nothing left": lambda: nothing_left(make, folder),
        "preflight": lambda: preflight(make, folder),
        "gradients": lambda: gradients(make),
        "out of memory in the update": lambda: out_of_memory_in_the_update(make, in_its_middle),
        "skipped": lambda: skipped(make, largest_scale, optimizer),
        "not a number": lambda: not_a_number(make, folder),
    }[scenario]()
    print(json.dumps(done))
