"""Linear layers as they lie in a model's own files, counted by the headers alone. No torch."""

import re

from kit.models.families import BLOCKS
from kit.models.find import Model
from kit.models.headers import Unreadable, headers
from kit.models.weight_files import weight_files

# Of a block, also where the text model is a part of another; the router of a mixture is no layer that is quantised.
_IN_BLOCK = re.compile(rf"(?:{re.escape(BLOCKS)}|.*language_model\.(?:.*\.)?layers\.)(\d+)\.(.+)")
_ROUTER = re.compile(r"(?:.*\.)?(?:gate|router)\.(?:weight|linear\.weight)")


def linear_weights(model: Model, blocks: int) -> int | None:
    """Weights of all linear layers in the first so many blocks (what follows them predicts further tokens).

    None: its weights are not on this machine, cannot be read, or lie in 4 bit, in another form than they have.
    """
    files = weight_files(model.folder) if model.folder and not model.stored_nf4 else []
    try:
        tensors = [tensor for path in files for tensor in headers(path).values()]
    except Unreadable:
        return None
    if not tensors:
        return None
    count = 0
    for tensor in tensors:
        found = _IN_BLOCK.fullmatch(tensor.name)
        if found and int(found[1]) < blocks and len(tensor.shape) > 1 and not _ROUTER.fullmatch(found[2]):
            count += tensor.weights
    return count
