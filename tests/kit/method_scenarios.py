"""Short trainings with each method in one process, for test_methods.py: prints one JSON object.

python tests/kit/method_scenarios.py BACKEND FOLDER CASES [CONFIG ...]

CASES: name -> options, as JSON. CONFIG: of models whose trained weights are counted, a config.json each.
"""

import json
import sys
from pathlib import Path

import scenarios

from kit import backend, memory, models, prompt
from kit.backend import methods
from kit.options import Run
from kit.run import checkpoints
from kit.run.checkpoints import About

PROMPT = [{"role": "user", "content": "Who are you?"}]
ANSWER_TOKENS = 12


def held_out(training):
    return backend.held_out_loss(training.trainer, training.data.held_out, lambda *_: None)


def case(name, folder, options):
    """Half of the steps behind a preflight, a checkpoint, the other half; then from the checkpoint on, made anew."""
    told, listener = {}, scenarios.Listener()
    training = scenarios.Training(name, folder, dict(options), listener)
    steps = training.run.max_steps

    def keep():
        checkpoints.write(folder / "checkpoints", About(steps // 2, 0, 0.0), lambda path: backend.save_state(
            training.trainer, path))  # fmt: skip

    with backend.without_virtual_tokens(training.loaded):
        told["base"] = held_out(training)
    told["before"] = held_out(training)
    listener.begin = lambda: backend.preflight(training.trainer, training.data.held_out)
    listener.at = {steps // 2: keep}
    told["losses"], told["backend"] = training.train(), training.loaded.backend.name
    told["after"] = held_out(training)
    shape = memory.Shape.of(models.find("tiny").config)
    told["planned"] = memory.plan(models.find("tiny").config, training.run, None, None).trained_params
    told["trained"] = sum(weight.numel() for weight in scenarios.weights(training).values())
    told["fraction"] = told["trained"] / shape.params
    told["answering"] = answering_difference(training)
    backend.save_adapter(training.loaded, folder / "made")
    told["saved"] = {path.name: path.stat().st_size for path in (folder / "made").iterdir()}
    told["reloaded"] = reloaded(training, folder / "made")

    again = scenarios.Training(name, folder, dict(options), scenarios.Listener())
    (found,), _ = checkpoints.whole(folder / "checkpoints")
    told["rest"], left = again.train(found.path), scenarios.weights(training)
    told["same_weights"] = all(bool((value == scenarios.weights(again)[key]).all()) for key, value in left.items())
    return told


def ids_of(training):
    return prompt.load(models.find("tiny"), "auto").prompt_ids(PROMPT)


def answering_difference(training):
    """The largest difference of logits between generating, with a cache from token to token, and one pass over all."""
    import torch

    model, ids = training.loaded.model, torch.tensor([ids_of(training)])
    with backend.answering(training.loaded), torch.no_grad():
        made = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=ANSWER_TOKENS,
                              do_sample=False, output_logits=True, return_dict_in_generate=True)  # fmt: skip
        whole = model(input_ids=made.sequences, use_cache=False).logits[0, -len(made.logits) - 1 : -1]
    return float((torch.cat(made.logits) - whole).abs().max() / whole.abs().max())


def reloaded(training, folder):
    """The largest difference of logits between the trained model and what anyone loads from its folder."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run, ids = training.run, torch.tensor([ids_of(training)])
    if run.method == "full":
        anew = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    else:
        model = models.find("tiny")
        chat = prompt.load(model, "auto")
        base = backend.load(model, backend.Loading.of(run), training.loaded.backend, chat)
        anew = PeftModel.from_pretrained(base.model, folder).eval()
        methods.keep_precision(anew)
    with backend.answering(training.loaded), torch.no_grad():
        mine = training.loaded.model(input_ids=ids, use_cache=False).logits[0, -1]
        other = anew(input_ids=ids, use_cache=False).logits[0, -1]
    return float((mine - other).abs().max() / mine.abs().max())


def count_on_meta(config_file, options):
    """What PEFT trains of a model of that config, which has no numbers."""
    import torch
    from peft import get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    from kit.backend.methods import peft_config

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(config_file))
        run = Run(**options)
        if run.method != "full":
            model = get_peft_model(model, peft_config(run))
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


if __name__ == "__main__":
    name, folder, cases = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    found = {}
    for title, options in cases.items():
        (folder / title).mkdir()
        found[title] = case(name, folder / title, options)
    for file in sys.argv[4:]:
        for title, options in cases.items():
            found[title].setdefault("counts", {})[Path(file).name] = count_on_meta(file, options)
    print(json.dumps(found))
