"""Words of other tools and of earlier versions -> the kit's own. For findings only: none of them is accepted."""

from collections.abc import Iterable
from typing import NamedTuple

from kit.support.errors import near_name, plain_name


class Word(NamedTuple):
    """ours: NAME or NAME=VALUE, several where doors differ, "" where no option does it. remark: what differs."""

    ours: str
    remark: str = ""


_MICRO = "batch_size is what a step averages over: theirs per device, times their accumulation steps."
_TABLE: tuple[tuple[str, ...], ...] = (  # ours, theirs without dashes and underscores, what differs
    ("learning_rate", "lr"),
    ("epochs", "numtrainepochs nepochs"),
    ("max_steps", "steps"),
    ("micro_batch_size", "perdevicetrainbatchsize", _MICRO),
    ("batch_size", "trainbatchsize gradientaccumulationsteps gradaccum", _MICRO),
    ("max_length_tokens", "maxseqlength maxseqlen modelmaxlength maxlength sequencelen"),
    ("max_length_tokens", "cutofflen", "Longer rows are not cut in silence: see long_rows."),
    ("lora_rank", "lorar r rank"),
    ("lora_alpha", "alpha"),
    ("target_modules", "loratargetmodules loratarget"),
    ("method", "finetuningtype"),
    ("output", "outputdir savedir"),
    ("model base", "modelnameorpath modelname"),
    ("base model", "basemodel basemodelnameorpath"),
    ("add", "adapters adapternameorpath"),
    ("data", "dataset datasetpath datasetname trainfile"),
    ("eval_data", "evaldataset"),
    ("held_out_rows", "valsize valsetsize", "It is a number of rows, not a share."),
    ("template", "chattemplate"),
    ("", "resume resumefromcheckpoint", "The same command again goes on from its newest checkpoint."),
    ("fresh", "overwriteoutputdir"),
    ("load_in_4bit", "qlora"),
    ("load_in_4bit", "loadin8bit", "The base is loaded in 4 or in 16 bit; 8 is not offered."),
    ("load_in_4bit", "quantizationbit", "The base is loaded in 4 or in 16 bit."),
    ("precision=bf16", "bf16"),
    ("precision=fp16", "fp16"),
    ("", "pushtohub", "A run stays on this machine; the folder is in the hub's own format."),
    ("warmup_pct", "warmupratio", "It is in percent: a ratio of 0.03 is 3."),
    ("warmup_pct", "warmupsteps", "It is a share of the steps, in percent."),
    ("scheduler", "lrschedulertype"),
    ("optimizer", "optim"),
    ("max_grad_norm", "maxgradientnorm"),
    ("gradient_checkpointing", "usegradientcheckpointing"),
    ("attention", "attnimplementation flashattn"),
    ("evaluations", "evalsteps evalstrategy", "It is how often during the whole run, not every how many steps."),
    ("checkpoint_minutes", "savesteps savestrategy", "It counts minutes, not steps."),
    ("keep_checkpoints", "savetotallimit"),
    ("", "loggingsteps", "Every step is written to metrics.jsonl."),
    ("", "packing", "Rows are never packed into one sample; short ones share a micro-batch."),
    ("", "neftune neftunenoisealpha", "No noise is added to embeddings."),
    ("max_tokens", "maxnewtokens"),
    ("quant", "quantizationmethod"),
)
WORDS = {name: Word(ours, *remark) for ours, theirs, *remark in _TABLE for name in theirs.split()}


def nearest(name: str, known: Iterable[str]) -> Word:
    """What is said for a name that is none of the known: what the field calls so, else the one that is spelt like it;
    with "" for ours where nothing is near."""
    known = list(known)
    word = WORDS.get(plain_name(name), Word(""))
    ours = next((ours for ours in word.ours.split() if ours.partition("=")[0] in known), "")
    if ours or (word.remark and not word.ours):
        return Word(ours, word.remark)
    return Word(near_name(name, known) or "")
