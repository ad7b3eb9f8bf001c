"""A graphics card that is made of paper: it answers as one, and every tensor stays in main memory.

So Unsloth, TRL, transformers, PEFT, accelerate and bitsandbytes run their own Python code for cards where there is
none. Not real are: kernels (formulas of torch in their place), torch.compile (off), streams (everything is done at
once), autocast (the CPU's), and what memory is taken (the process's).

    machine                 the environment in which a Python has such a card
    cards, nvidia_smi       which cards there are, and as the driver's tool tells it
    device, placement       torch.cuda's answers, and where tensors live
    kernels, quantising     what Unsloth and bitsandbytes would start on the card
    triton_names, imports   a triton without a compiler; changes to modules as they are imported
    site/sitecustomize.py   puts all of it into a Python at its start
"""
