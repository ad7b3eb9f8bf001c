"""Words of other tools and of earlier versions -> the kit's own. For findings only: none of them is accepted."""

from collections.abc import Iterable
from typing import NamedTuple

from kit.support.errors import near_name, plain_name


class Word(NamedTuple):
    """ours: NAME or NAME=VALUE, several where doors differ, "" where no option does it. remark: what differs."""

    ours: str
    remark: str = ""


_MICRO = "batch_size is what a step averages over: theirs per device, times their accumulation steps."
_NEVER_PACKED = "Rows are never packed into one sample; short ones share a micro-batch."
_GOES_ON = "The same command again goes on from its newest checkpoint."
_EVERY_STEP = "Every step is written to metrics.jsonl."
_EVALUATIONS = "It is how often during the whole run, not every how many steps."
_MINUTES = "It counts minutes, not steps."
_NO_HUB = "A run stays on this machine; the folder is in the hub's own format."

# without dashes and underscores -> ours
WORDS = {
    "lr": Word("learning_rate"),
    "numtrainepochs": Word("epochs"),
    "nepochs": Word("epochs"),
    "steps": Word("max_steps"),
    "perdevicetrainbatchsize": Word("micro_batch_size", _MICRO),
    "trainbatchsize": Word("batch_size", _MICRO),
    "gradientaccumulationsteps": Word("batch_size", _MICRO),
    "gradaccum": Word("batch_size", _MICRO),
    "maxseqlength": Word("max_length_tokens"),
    "maxseqlen": Word("max_length_tokens"),
    "modelmaxlength": Word("max_length_tokens"),
    "maxlength": Word("max_length_tokens"),
    "cutofflen": Word("max_length_tokens", "Longer rows are not cut in silence: see long_rows."),
    "sequencelen": Word("max_length_tokens"),
    "lorar": Word("lora_rank"),
    "r": Word("lora_rank"),
    "rank": Word("lora_rank"),
    "alpha": Word("lora_alpha"),
    "loratargetmodules": Word("target_modules"),
    "loratarget": Word("target_modules"),
    "finetuningtype": Word("method"),
    "outputdir": Word("output"),
    "savedir": Word("output"),
    "modelnameorpath": Word("model base"),
    "modelname": Word("model base"),
    "basemodel": Word("base model"),
    "basemodelnameorpath": Word("base model"),
    "adapters": Word("add"),
    "adapternameorpath": Word("add"),
    "dataset": Word("data"),
    "datasetpath": Word("data"),
    "datasetname": Word("data"),
    "trainfile": Word("data"),
    "evaldataset": Word("eval_data"),
    "valsize": Word("held_out_rows", "It is a number of rows, not a share."),
    "valsetsize": Word("held_out_rows", "It is a number of rows, not a share."),
    "chattemplate": Word("template"),
    "resume": Word("", _GOES_ON),
    "resumefromcheckpoint": Word("", _GOES_ON),
    "overwriteoutputdir": Word("fresh"),
    "qlora": Word("load_in_4bit"),
    "loadin8bit": Word("load_in_4bit", "The base is loaded in 4 or in 16 bit; 8 is not offered."),
    "quantizationbit": Word("load_in_4bit", "The base is loaded in 4 or in 16 bit."),
    "bf16": Word("precision=bf16"),
    "fp16": Word("precision=fp16"),
    "pushtohub": Word("", _NO_HUB),
    "warmupratio": Word("warmup_pct", "It is in percent: a ratio of 0.03 is 3."),
    "warmupsteps": Word("warmup_pct", "It is a share of the steps, in percent."),
    "lrschedulertype": Word("scheduler"),
    "optim": Word("optimizer"),
    "maxgradientnorm": Word("max_grad_norm"),
    "usegradientcheckpointing": Word("gradient_checkpointing"),
    "attnimplementation": Word("attention"),
    "flashattn": Word("attention"),
    "evalsteps": Word("evaluations", _EVALUATIONS),
    "evalstrategy": Word("evaluations", _EVALUATIONS),
    "savesteps": Word("checkpoint_minutes", _MINUTES),
    "savestrategy": Word("checkpoint_minutes", _MINUTES),
    "savetotallimit": Word("keep_checkpoints"),
    "loggingsteps": Word("", _EVERY_STEP),
    "packing": Word("", _NEVER_PACKED),
    "neftune": Word("", "No noise is added to embeddings."),
    "neftunenoisealpha": Word("", "No noise is added to embeddings."),
    "maxnewtokens": Word("max_tokens"),
    "quantizationmethod": Word("quant"),
}


def nearest(name: str, known: Iterable[str]) -> Word:
    """What is said for a name that is none of the known: what the field calls so, else the one that is spelt like it;
    with "" for ours where nothing is near."""
    known = list(known)
    word = WORDS.get(plain_name(name), Word(""))
    ours = next((ours for ours in word.ours.split() if ours.partition("=")[0] in known), "")
    if ours or (word.remark and not word.ours):
        return Word(ours, word.remark)
    return Word(near_name(name, known) or "")
