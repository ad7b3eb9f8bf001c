"""Whether a loaded model is made of what lies on the disk: transformers fills gaps at random and goes on."""

from typing import TYPE_CHECKING

from kit.models import Model
from kit.models.families import expert_count, family_of
from kit.models.headers import headers
from kit.models.weight_files import weight_files
from kit.support.errors import failure
from kit.support.user_shell import quoted

if TYPE_CHECKING:
    import torch


def check_weights_given(base: "torch.nn.Module", model: Model) -> None:
    """Of a family that the kit knows, whose weights have the same names in memory and in files; a mixture's have not.

    Raises KitError: weights that no file has.
    """
    folder = model.folder
    if folder is None or family_of(model.config) is None or expert_count(model.config):
        return
    given = {name for file in weight_files(folder) for name in headers(file)}
    missing = [name for name, _ in base.named_parameters() if name not in given]
    if missing:
        raise failure(
            "model-weights-missing",
            f"{model.name} lacks {len(missing)} weights that a model of its config.json has.",
            "They would be random numbers: what is trained over them is worth nothing, and nothing would say so.",
            f"hf download OWNER/NAME --local-dir {quoted(folder)}",
            details={"first": missing[0]},
        )
