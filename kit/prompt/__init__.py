"""Messages -> the exact text and token ids that the model is trained on, and asked with. No torch, no transformers.

May import: support, models.
"""

from kit.prompt.chat_format import IGNORED, ChatFormat, Sample
from kit.prompt.messages import reasoning_and_text, thinking_switch, thinks
from kit.prompt.rendering import TemplateError
from kit.prompt.templates import is_file, never_thinking, template_names, templates_folder
from kit.prompt.tokenizer_files import load
from kit.prompt.tokens import Segment, not_special

__all__ = [
    "IGNORED",
    "ChatFormat",
    "Sample",
    "Segment",
    "TemplateError",
    "is_file",
    "load",
    "never_thinking",
    "not_special",
    "reasoning_and_text",
    "template_names",
    "templates_folder",
    "thinking_switch",
    "thinks",
]
