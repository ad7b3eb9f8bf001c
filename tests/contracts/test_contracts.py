"""What the kit relies on in its libraries, read from their sources: nothing is imported, no torch, no card.

A pin that moves says here which promise broke and which file of the kit relies on it.
"""

import ast
import copy
import re
from collections.abc import Iterator
from importlib.metadata import version

import pytest

from tests.contracts import kit_uses, model_contracts, promises, trainer_contracts
from tests.contracts.library_source import Missing, place_of
from tests.contracts.promises import Contract, InOrder, IsThere, Parameters, Promise, Takes

# What the kit puts in place of the libraries' own, method by method.
REPLACED = {
    ("kit/backend/steps.py", "Steps"): ("trl.SFTTrainer", {
        "create_optimizer", "_get_train_sampler", "training_step", "_load_from_checkpoint",
        "_load_optimizer_and_scheduler", "_load_scaler", "_load_rng_state",
    }),
    ("kit/backend/listener.py", "ListenerCallback"): ("transformers.TrainerCallback", {"on_train_begin", "on_log"}),
    ("kit/backend/tracking.py", "GuardedTracker"): (
        "transformers.TrainerCallback", {"on_train_begin", "on_log", "on_train_end"},
    ),
    ("kit/backend/generation.py", "TokenStream"): ("transformers.generation.BaseStreamer", {"put", "end"}),
    ("kit/backend/serving.py", "OneModel"): (
        "transformers.cli.serving.model_manager.ModelManager", {"_load_processor", "_load_model", "get_gen_models"},
    ),
}  # fmt: skip

# Where **kwargs of a function go on to, and what is taken out of them there.
PASSED_ON = {
    "transformers.AutoModelForCausalLM.from_pretrained": ["transformers.PreTrainedModel.from_pretrained"],
    "transformers.AutoConfig.from_pretrained": ["transformers.PreTrainedConfig._get_config_dict"],
    "transformers.AutoTokenizer.from_pretrained": [
        "transformers.PreTrainedTokenizerBase.from_pretrained", "transformers.TokenizersBackend.__init__",
    ],
    "peft.PeftModel.from_pretrained": ["peft.PeftModel.load_adapter"],
    "unsloth.FastLanguageModel.from_pretrained": ["transformers.PreTrainedModel.from_pretrained"],
    "unsloth.FastLanguageModel.get_peft_model": [
        "unsloth.models.llama.FastLlamaModel.get_peft_model", "peft.LoraConfig",
    ],
}  # fmt: skip


def replacements() -> Iterator[Contract]:
    for (file, owner), (base, names) in REPLACED.items():
        for name, parameters in methods(file, owner).items():
            if name in names:
                yield Contract((f"{base}.{name}",), parameters, file, f"def {name}(")


def methods(file: str, owner: str) -> dict[str, Promise]:
    """Of a class of the kit, by name: what the one that it replaces must take, as it names it."""
    tree = ast.parse((kit_uses.ROOT / file).read_text(encoding="utf-8"))
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == owner)
    functions = [node for node in found.body if isinstance(node, ast.FunctionDef)]
    return {node.name: _taking([arg.arg for arg in _needed(node.args)][1:]) for node in functions}


def _needed(arguments: ast.arguments) -> list[ast.arg]:
    return arguments.args[: len(arguments.args) - len(arguments.defaults)]


def _taking(names: list[str]) -> Promise:
    return Parameters("self", *names) if names else IsThere()


def calls() -> Iterator[Contract]:
    """Every call of a library's function by its name, with the keywords that it passes."""
    for use in kit_uses.uses():
        if use.keywords:
            places = (use.name, *PASSED_ON.get(use.name, ()))
            yield Contract(places, Takes(*use.keywords), use.file, use.name.rpartition(".")[2])


CONTRACTS = (*trainer_contracts.CONTRACTS, *model_contracts.CONTRACTS, *replacements(), *calls())


@pytest.mark.parametrize("contract", CONTRACTS, ids=str)
def test_a_library_keeps_what_the_kit_relies_on(contract: Contract) -> None:
    assert not broken(contract), told(contract)


def broken(contract: Contract) -> list[str]:
    try:
        return contract.promise.broken(contract.source())
    except Missing as error:
        return [str(error)]


def told(contract: Contract) -> str:
    library = contract.places[0].partition(".")[0]
    missing = [f"  not found: {part}" for part in broken(contract)]
    head = f"{library} {version(library)} is no longer what the kit relies on, in {', '.join(contract.places)}:"
    return "\n".join([head, *missing, f"  relied on by {contract.file}: {contract.words}"])


@pytest.mark.parametrize("use", {use.name: use for use in kit_uses.uses()}.values(), ids=lambda use: use.name)
def test_a_library_has_every_name_that_the_kit_takes_from_it(use: kit_uses.Use) -> None:
    try:
        place_of(use.name)
    except Missing as error:
        pytest.fail(f"{error}, taken by {use.file}", pytrace=False)


def test_code_that_a_model_brings_is_refused_wherever_one_is_read() -> None:
    """Not passed it is None, and transformers asks on the terminal whether to run it."""
    readers = [
        use for use in kit_uses.uses() if re.fullmatch(r"(transformers\.Auto|unsloth).*from_pretrained", use.name)
    ]
    assert len(readers) > 5
    assert [use for use in readers if "trust_remote_code" not in use.keywords] == []


# the contracts themselves


def test_a_contract_goes_with_what_relied_on_it() -> None:
    for contract in CONTRACTS:
        text = (kit_uses.ROOT / contract.file).read_text(encoding="utf-8")
        assert contract.words in text, f"{contract.file} no longer has {contract.words!r}: its contract goes, or moves"


def test_what_the_kit_puts_in_place_of_a_librarys_own_is_all_under_contract() -> None:
    for (file, owner), (base, names) in REPLACED.items():
        there = {name for name in methods(file, owner) if name != "__init__" and has(f"{base}.{name}")}
        assert there == names, f"{owner} in {file}"


def test_every_variable_that_is_set_for_unsloth_is_under_contract() -> None:
    names = re.findall(
        r'"(UNSLOTH_[A-Z_]+)"', (kit_uses.ROOT / model_contracts.ENVIRONMENT).read_text(encoding="utf-8")
    )
    codes = " ".join(code for row in model_contracts.UNSLOTH for code in getattr(row.promise, "codes", ()))
    assert {name for name in names if f"'{name}'" not in codes} == set()


def has(name: str) -> bool:
    try:
        return bool(place_of(name))
    except Missing:
        return False


@pytest.mark.parametrize("contract", CONTRACTS, ids=str)
def test_a_contract_is_broken_by_a_source_that_says_something_else(contract: Contract) -> None:
    tree = copy.deepcopy(contract.source())
    promise = contract.promise
    assert len(promise.broken(ast.Module([], []))) == len(promise.kept(tree)), "holds of nothing"
    for part, nodes in promise.kept(tree).items():
        if part == "in this order":
            continue
        for word in range(len(words(nodes[0]))):
            olds = [change(words(node)[word]) for node in nodes]
            promises.forms.cache_clear()
            assert part in promise.broken(tree), f"{part} does not need {olds[0][2]}"
            for node, name, value in olds:
                setattr(node, name, value)
    promises.forms.cache_clear()
    assert promise.kept(tree).keys() == promise.kept(contract.source()).keys()
    if isinstance(promise, InOrder):
        assert "in this order" in InOrder(*reversed(promise.codes)).broken(tree)


def test_a_definition_that_is_gone_is_said_with_who_relied_on_it() -> None:
    gone = Contract(("trl.SFTTrainer.training_stride",), IsThere(), "kit/backend/steps.py", "def training_step")
    assert broken(gone) == ["SFTTrainer in trl.trainer.sft_trainer has no training_stride"]
    assert f"trl {version('trl')} is no longer" in told(gone)
    assert "relied on by kit/backend/steps.py: def training_step" in told(gone)


WORDS = ((ast.Name, "id"), (ast.Attribute, "attr"), (ast.arg, "arg"), (ast.keyword, "arg"), (ast.Constant, "value"))


def words(node: ast.AST) -> list[tuple[ast.AST, str]]:
    """Where names and values stand in it; of a parameter its name, of a definition nothing: it is there or not."""
    if isinstance(node, ast.arg):
        return [(node, "arg")]
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return []
    return [
        (part, field)
        for part in ast.walk(node)
        for kind, field in WORDS
        if isinstance(part, kind) and getattr(part, field) is not None
    ]


def change(word: tuple[ast.AST, str]) -> tuple[ast.AST, str, object]:
    """Make it another; how it was."""
    node, field = word
    old = getattr(node, field)
    setattr(node, field, "another")
    return node, field, old
