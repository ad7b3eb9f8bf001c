"""transformers' own OpenAI-compatible server, over a model that is loaded already."""

import importlib.util
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kit.backend.loading import Loaded
from kit.models import end_ids

if TYPE_CHECKING:
    import uvicorn
    from transformers import PreTrainedModel, TokenizersBackend
    from transformers.cli.serving.model_manager import ModelManager
else:
    ModelManager = object  # `server` puts the real one below

NEEDED = ("fastapi", "uvicorn", "openai")  # what transformers[serving] asks for beyond the kit's own packages
HOST = "127.0.0.1"  # this machine only: the server knows no passwords


def missing_packages() -> list[str]:
    """Found without importing them."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def server(
    loaded: Loaded, name: str, end_id: int | None, template_options: Mapping[str, Any], port: int
) -> "uvicorn.Server":
    """A uvicorn server, to be run; clients ask for the model by that name.

    It is put together as in transformers.cli.serve.Serve, which loads a model by its folder: that knows neither the
    base in 4 bit as it was trained on nor the end token of the adapter.
    """
    import uvicorn
    from transformers.cli.serving.chat_completion import ChatCompletionHandler
    from transformers.cli.serving.completion import CompletionHandler
    from transformers.cli.serving.model_manager import ModelManager
    from transformers.cli.serving.response import ResponseHandler
    from transformers.cli.serving.server import build_server
    from transformers.cli.serving.transcription import TranscriptionHandler
    from transformers.cli.serving.utils import GenerationState

    # PEFT would say with every prompt that virtual words move the positions, which they are to do
    warnings.filterwarnings("ignore", "Position ids are not supported")
    settings = loaded.model.generation_config
    settings.eos_token_id = sorted(end_ids(end_id, settings.eos_token_id))
    manager = type("OneModel", (OneModel, ModelManager), {})(loaded, name)
    state, options = GenerationState(), dict(template_options)
    app = build_server(
        manager,
        ChatCompletionHandler(manager, state, chat_template_kwargs=options),
        completion_handler=CompletionHandler(manager, state),
        response_handler=ResponseHandler(manager, state, chat_template_kwargs=options),
        transcription_handler=TranscriptionHandler(manager, state),
        generation_state=state,
    )
    return uvicorn.Server(uvicorn.Config(app, host=HOST, port=port, log_level="warning"))


class OneModel(ModelManager):
    """transformers' manager of models, with the one that is there instead of those it would load."""

    def __init__(self, loaded: Loaded, name: str):
        self.loaded, self.name = loaded, name
        super().__init__(force_model=name, device=loaded.device)

    def _load_processor(self, *_: Any, **__: Any) -> "TokenizersBackend":
        return self.loaded.tokenizer

    def _load_model(self, *_: Any, **__: Any) -> "PreTrainedModel":
        return self.loaded.model

    def get_gen_models(self) -> list[dict[str, Any]]:
        """GET /v1/models: not the whole cache of the hub, which this server would not load."""
        return [{"id": self.name, "object": "model", "created": 0, "owned_by": "kit"}]
