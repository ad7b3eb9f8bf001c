"""How the answers of a chat are drawn."""

from dataclasses import asdict

from kit.chat.options import ChatCommand
from kit.models import Model
from kit.models.families import ADVISED_SAMPLING
from kit.options.sampling import Sampling


def sampling_for(command: ChatCommand, model: Model) -> Sampling:
    """Flags over the model's generation_config.json over the advice of Qwen3's makers."""
    names = ("temperature", "top_p", "top_k")
    asked = {name: value for name in names if (value := getattr(command, name)) is not None}
    if not (command.sample or asked) or asked.get("temperature") == 0:
        return Sampling()
    own = {name: model.generation[name] for name in names if model.generation.get(name)}
    return Sampling(**(asdict(ADVISED_SAMPLING[command.thinking]) | own | asked | {"seed": command.seed}))
