"""Whether the model can read each token of the data: all rows, before the first step, on every device."""

from typing import TYPE_CHECKING

import numpy as np

from kit.backend.loading import Loaded
from kit.data.store import Samples
from kit.options import METHODS, Run
from kit.support.errors import KitError, failure

if TYPE_CHECKING:
    import torch

NOTHING = 1e-16  # the numbers of a vector that training never touched are nought, or as small as this
VECTORS_AT_ONCE = 4096
MOST_SHOWN = 10


def check_tokens(loaded: Loaded, run: Run, *chosen: Samples) -> None:
    """One pass over the embedding and, where it lacks something, one over the rows.

    Raises KitError naming rows: tokens beyond the embedding; tokens whose vector is zero or another's, and stays so.
    """
    inward, outward = loaded.model.get_input_embeddings(), loaded.model.get_output_embeddings()
    present = np.unique(np.concatenate([samples.stored.token_ids for samples in chosen]))
    vectors = min(len(layer.weight) for layer in (inward, outward))
    beyond = _Found(present[present >= vectors], chosen)
    if beyond.rows:
        raise _beyond_embedding(loaded, beyond, vectors)
    if METHODS[run.method].trains_whole_model:
        return
    inward, outward = (getattr(layer, "original_module", layer) for layer in (inward, outward))  # PEFT's, with rows
    is_tied = inward.weight is outward.weight
    trained = loaded.tokenizer.convert_tokens_to_ids(list(run.train_added_tokens))
    stays = np.setdiff1d(present, np.array(trained, present.dtype))
    unread = np.union1d(stays[_is_nothing(inward.weight)[stays]], _alike(inward.weight, stays))
    untrained = _Found(unread, chosen, but_last=not is_tied)
    if untrained.rows:
        raise _untrained(loaded, run, untrained)


class _Found:
    """Token ids and the rows that hold them. but_last: the last token of a sample is learnt, and never read."""

    def __init__(self, ids: np.ndarray, chosen: tuple[Samples, ...], *, but_last: bool = False):
        held = [samples.tokens_by_row(ids, but_last) for samples in chosen] if len(ids) else []
        self.rows = sorted({row for rows in held for row in rows})
        self.ids = sorted({token for rows in held for tokens in rows.values() for token in tokens})

    def details(self, loaded: Loaded) -> dict[str, str]:
        names = loaded.tokenizer.convert_ids_to_tokens(self.ids)
        tokens = [f"{name} ({token})" for name, token in zip(names, self.ids, strict=True)]
        return {"tokens": _few(tokens), "rows": _few(list(map(str, self.rows)))}


def _few(texts: list[str]) -> str:
    more = f", and {len(texts) - MOST_SHOWN:,} more" if len(texts) > MOST_SHOWN else ""
    return ", ".join(texts[:MOST_SHOWN]) + more


def _is_nothing(weight: "torch.Tensor") -> np.ndarray:
    """(vectors,): whether all of a vector's numbers are nought. Without a copy of the embedding."""
    largest, least = weight.detach().amax(dim=1), weight.detach().amin(dim=1)
    return ((largest <= NOTHING) & (least >= -NOTHING)).cpu().numpy()


def _alike(weight: "torch.Tensor", ids: np.ndarray) -> np.ndarray:
    """Those of the token ids whose vector is, number by number, that of another of them."""
    import torch

    by_content: dict[int, list[int]] = {}
    for start in range(0, len(ids), VECTORS_AT_ONCE):
        some = ids[start : start + VECTORS_AT_ONCE]
        vectors = weight.detach()[torch.from_numpy(some).to(weight.device)].view(torch.uint8).cpu().numpy()
        for token, vector in zip(some.tolist(), vectors, strict=True):
            by_content.setdefault(hash(vector.tobytes()), []).append(token)
    alike = [token for tokens in by_content.values() if len(tokens) > 1 for token in tokens]
    return np.array(sorted(alike), ids.dtype)


def _beyond_embedding(loaded: Loaded, found: _Found, vectors: int) -> KitError:
    return failure(
        "tokens-beyond-embedding",
        f"{len(found.rows):,} rows hold token ids that this model has no vector for.",
        f"Its embedding ends with id {vectors - 1:,}: the tokenizer in its folder belongs to another model.",
        "--model with the tokenizer that it was trained with",
        details=found.details(loaded),
    )


def _untrained(loaded: Loaded, run: Run, found: _Found) -> KitError:
    return failure(
        "untrained-tokens",
        f"{len(found.rows):,} rows hold tokens that this model has never learnt.",
        f"Their vectors in the embedding are zero, or those of other tokens, and --method {run.method} leaves them so. "
        "Base models have such tokens where only their chat versions were trained on them.",
        "--model with the chat version of this base       (its name often ends in Instruct)",
        "--template plain                                 (a template of words alone)",
        "--train-added-tokens TOKEN                       (those that you added to the tokenizer)",
        "--method full                                    (trains the embedding too)",
        details=found.details(loaded),
    )
